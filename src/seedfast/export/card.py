"""Model cards: what a model is, its numbers on held-out data, and how to use it, in Markdown with the hub's header."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seedfast.data.text.config import TextData
from seedfast.data.text.tokenizers import Characters, Subwords
from seedfast.evaluate.trained import Trained
from seedfast.export.usage import Usage, sections
from seedfast.families.measure import Measure
from seedfast.loop.config import Run
from seedfast.loop.plain_config import from_mapping, plain, to_yaml
from seedfast.models.causal_lm import PretrainedLM
from seedfast.run_folder.records import BestRecord

_PROMPT = "Once upon a time"


def simple_card(model: Trained, title: str, tag: str, command: str) -> str:
    """The card of a model that only seedfast loads, with the command that uses it."""
    checkpoint, run = model.committed, model.run
    record = validation_of(model)
    number = f"On held-out examples: {record.metric} {record.value:.4f}." if record else ""
    lines = [
        "---", "library_name: seedfast", f"tags: [seedfast, {tag}]", "---", "", f"# {title}", "",
        f"Trained with `seedfast train {run.recipe}` for {checkpoint.step} steps of {run.batch_size} examples of "
        f"`{Path(run.data.path).name}`. {number}",
        "", "```", command, "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def language_model_card(model: Trained, config: PretrainedLM, shape: Any, *, adapter: bool) -> str:
    """The card of a fine-tuned model for transformers, or of its adapter for peft.

    shape: the transformers configuration of the model.
    """
    is_hub_name = bool(config.path) and not Path(config.path).is_absolute()
    how = f", through an adapter ({config.adapter.kind})." if config.adapter.kind != "none" else "."
    tokenizer = model.tokenizer
    usage = Usage(
        shape,
        has_chat=isinstance(tokenizer, Subwords) and tokenizer.chat_template is not None,
        has_published_tokenizer=is_hub_name and isinstance(tokenizer, Subwords),
        prompt=_PROMPT,
        base=(config.path if is_hub_name else Path(config.path).name) if adapter else None,
        rank=(config.adapter.rank or 8) if config.adapter.kind in ("lora", "rslora") else None,
    )
    header = [
        f"library_name: {'peft' if adapter else 'transformers'}",
        *([f"base_model: {config.path}"] if is_hub_name else []),
    ]
    return _text(model, f"{Path(config.path).name or 'A language model'}, fine-tuned", header, how, usage)


def text_card(model: Trained, shape: Any | None) -> str:
    """The card of a text model that was trained from scratch.

    shape: its transformers configuration; None for a network with modelling code of its own.
    """
    tokenizer = model.tokenizer
    prompt = _PROMPT if not isinstance(tokenizer, Characters) else tokenizer.alphabet.strip()[:3] or "a"
    usage = None if shape is None else Usage(shape, has_chat=False, has_published_tokenizer=False, prompt=prompt)
    return _text(model, f"A language model ({model.run.recipe})", ["library_name: transformers"], ".", usage)


def _text(model: Trained, title: str, header: list[str], how: str, usage: Usage | None) -> str:
    run, checkpoint, measure = model.run, model.committed, model.family.evaluated.measure
    context = f" of {run.data.context} tokens" if isinstance(run.data, TextData) else ""
    record = validation_of(model)
    is_masked = measure.is_bound
    lines = [
        "---",
        *header,
        f"tags: [seedfast, {'fill-mask' if is_masked else 'text-generation'}]",
        "---",
        "",
        f"# {title}",
        "",
        f"Trained with `seedfast train {run.recipe}` for {checkpoint.step} steps of {run.batch_size} windows{context} "
        f"on `{Path(run.data.path).name}`{how}",
        "",
        *(_numbers(record, model.family.objective.measure) if record else ()),
    ]
    if is_masked:
        lines += ["It predicts masked tokens from both sides (masked diffusion), so it is not a causal model.", ""]
    if usage is None:
        lines += _own_code(is_masked=is_masked)
    elif not is_masked:
        lines += sections(usage)
    lines += ["With seedfast:", "", "```bash", "seedfast sample PATH", "```", ""]
    lines += ["The whole run:", "", "```yaml", to_yaml(portable(run)).strip(), "```", ""]
    return "\n".join(lines)


def _own_code(*, is_masked: bool) -> list[str]:
    """How transformers uses a network whose modelling code is in the folder."""
    kind = "AutoModelForMaskedLM" if is_masked else "AutoModelForCausalLM"
    use = [
        'inputs = tokenizer("[MASK]" * 8, return_tensors="pt", return_token_type_ids=False)',
        'print(tokenizer.decode(model.unmask(inputs["input_ids"])[0]))',
    ] if is_masked else [
        'inputs = {"input_ids": torch.tensor([[tokenizer.bos_token_id]])}',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=8)[0]))",
    ]  # fmt: skip
    return [
        "With transformers and the code in this folder (modeling_seedfast.py):", "", "```python",
        *(() if is_masked else ("import torch",)),
        f"from transformers import {kind}, AutoTokenizer", "",
        'tokenizer = AutoTokenizer.from_pretrained("PATH")',
        f'model = {kind}.from_pretrained("PATH", trust_remote_code=True)',
        *use, "```", "",
    ]  # fmt: skip


def _numbers(record: BestRecord, measure: Measure) -> Iterator[str]:
    """A table of the loss on held-out data in every unit."""
    sign = "≤ " if measure.is_bound else ""
    error = f" ± {record.standard_error:.4f}" if record.standard_error is not None else ""
    yield from [f"On held-out data ({record.examples} windows that were not trained on):", "", "| | |", "|---|---|"]
    unit = f"{measure.loss_unit.replace('_', ' ')} per {measure.weight_unit.removesuffix('s')}"
    yield f"| {unit} | {sign}{record.loss:.4f}{error} |"
    for unit, factor in measure.conversions.items():
        yield f"| {unit.replace('_', ' ')} | {sign}{record.loss * factor:.4f} |"
    if measure.has_perplexity:
        yield f"| perplexity (exact) | {measure.perplexity(record.loss):.4f} |"
    yield ""


def validation_of(model: Trained) -> BestRecord | None:
    """The validation of exactly these weights at this step, if it was the best one; only that one is stored."""
    record = model.committed.best.get(model.weights)
    return record if record is not None and record.step == model.committed.step else None


def portable(run: Run) -> Run:
    """The run without the folders of this machine: each absolute path is reduced to its last part."""

    def shortened(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shortened(part) for key, part in value.items()}
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return from_mapping(run, shortened(plain(run)), where="run.yaml")
