"""Model cards: what a model is, its numbers on held-out data, and how to use it, in Markdown with the hub's header."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from seedfast.data.text.config import TextData
from seedfast.evaluate.trained import Trained
from seedfast.families.measure import Measure
from seedfast.loop.config import Run, from_mapping, to_yaml
from seedfast.models.causal_lm import PretrainedLM
from seedfast.run_folder.records import BestRecord


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


def language_model_card(model: Trained, config: PretrainedLM, *, adapter: bool) -> str:
    """The card of a model for transformers, or of an adapter for peft."""
    run, checkpoint, measure = model.run, model.committed, model.family.objective.measure
    is_hub_name = config.path and not Path(config.path).is_absolute()
    how = f", through an adapter ({config.adapter.kind})." if config.adapter.kind != "none" else "."
    context = f" of {run.data.context} tokens" if isinstance(run.data, TextData) else ""
    record = validation_of(model)
    lines = [
        "---",
        f"library_name: {'peft' if adapter else 'transformers'}",
        *([f"base_model: {config.path}"] if is_hub_name else []),
        "tags: [seedfast, text-generation]",
        "---",
        "",
        f"# {Path(config.path).name or 'A language model'}, fine-tuned",
        "",
        f"Trained with `seedfast train {run.recipe}` for {checkpoint.step} steps of {run.batch_size} windows"
        f"{context} on `{Path(run.data.path).name}`{how}",
        "",
        *(_numbers(record, measure) if record else ()),
    ]
    if measure.is_bound:
        lines += ["It was trained as masked diffusion with bidirectional attention, so it is not a causal model.", ""]
    kind = "peft import AutoPeftModelForCausalLM" if adapter else "transformers import AutoModelForCausalLM"
    lines += ["```python", f"from {kind}", f'model = {kind.split()[-1]}.from_pretrained("PATH")', "```", ""]
    lines += ["The whole run:", "", "```yaml", to_yaml(portable(run)).strip(), "```", ""]
    return "\n".join(lines)


def _numbers(record: BestRecord, measure: Measure) -> Iterator[str]:
    """A table of the loss on held-out data in every unit."""
    sign = "≤ " if measure.is_bound else ""
    error = f" ± {record.standard_error:.4f}" if record.standard_error is not None else ""
    yield from [f"On held-out data ({record.examples} windows that were not trained on):", "", "| | |", "|---|---|"]
    yield f"| nats per token | {sign}{record.loss:.4f}{error} |"
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

    return from_mapping(run, shortened(yaml.safe_load(to_yaml(run))), where="run.yaml")
