"""A model as a folder that transformers, peft or diffusers load by themselves, with a card that has its numbers."""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from seedfast import huggingface
from seedfast.data.text import tokenizers
from seedfast.data.text.tokenizers import Subwords
from seedfast.errors import UserError
from seedfast.evaluate.bare import CAPTIONER, read_json
from seedfast.evaluate.trained import Trained
from seedfast.export import diffusers_pipeline as pipelines
from seedfast.files import sync, to_json
from seedfast.loop.config import to_yaml
from seedfast.models.captioner import CaptionerNetwork
from seedfast.models.causal_lm import CausalLMNetwork
from seedfast.models.diffusers_unet import DiffusersNetwork
from seedfast.run_folder.tensors import save_tensors
from seedfast.run_folder.train_state import network_tensors


def export(model: Trained, folder: Path, *, merge: bool = False) -> None:
    """Write weights, tokenizer and model card into a new folder, in one instant.

    merge: write an adapter's change into the weights that it adapts. Without it an adapter stays one, which names the
        model that it belongs to. Raises UserError if the network is seedfast's own, or the folder is taken.
    """
    write = writer(model, merge=merge)
    if write is None:
        raise UserError(
            f"The network of this run ({model.run.recipe}) is seedfast's own, which neither transformers nor diffusers "
            "can load; fine-tuned models, captioners and runs of image-diffusers are exported."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; choose a new folder for --out.")
    attempt = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    attempt.mkdir(parents=True)
    try:
        write(attempt)
        for path in attempt.rglob("*"):
            sync(path)
        if folder.is_dir():
            folder.rmdir()
        attempt.rename(folder)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
    sync(folder.parent)


def writer(model: Trained, *, merge: bool) -> Callable[[Path], None] | None:
    """What writes the files of this model into a folder, or None if it has no form that others load."""
    network = model.network
    if isinstance(network, DiffusersNetwork):
        if merge:
            raise UserError("A model of images has no adapter to merge; leave --merge out.")
        return partial(pipelines.write, pipelines.pipeline(model), model)
    if isinstance(network, CaptionerNetwork):
        if merge:
            raise UserError("A captioner has no adapter to merge; leave --merge out.")
        return partial(_write_captioner, model)
    if not isinstance(network, CausalLMNetwork):
        return None
    adapted = network.model is not network.plain
    if merge and not adapted:
        raise UserError("This run trained all weights, so there is no adapter to merge; leave --merge out.")
    return partial(_write, model, network, merge=merge, adapted=adapted)


def _write_captioner(model: Trained, folder: Path) -> None:
    """Weights as safetensors, shape as JSON, tokenizer, image processor and card: all that `trained.bare` needs."""
    save_tensors(network_tensors(model.network), folder / "model.safetensors")
    shape = replace(model.run.model, path=Path(model.run.model.path).name, language_model="")
    config = {"model_type": CAPTIONER, "architectures": ["CaptionerNetwork"], "captioner": asdict(shape)}
    (folder / "config.json").write_text(to_json(config), "utf-8")
    model.family.assets.save(folder)  # type: ignore[attr-defined]
    about = plain_card(model, "An image captioner", "image-to-text", "seedfast sample PATH --image PICTURE")
    (folder / "README.md").write_text(about, "utf-8")


def plain_card(model: Trained, title: str, tag: str, command: str) -> str:
    """The card of a model that only seedfast loads."""
    checkpoint, run = model.committed, model.run
    record = read_json(checkpoint.folder / "state.json")["best"].get(model.weights, {})
    numbers = [f"{record['metric']} {record['value']:.4f}"] if record.get("step") == checkpoint.step else []
    lines = [
        "---", "library_name: seedfast", f"tags: [seedfast, {tag}]", "---", "", f"# {title}", "",
        f"Trained with `seedfast train {run.recipe}` for {checkpoint.step} steps of {run.batch_size} examples of "
        f"`{Path(run.data.path).name}`. " + "".join(f"On held-out examples: {number}." for number in numbers),
        "", "```", command, "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _write(model: Trained, network: CausalLMNetwork, folder: Path, *, merge: bool, adapted: bool) -> None:
    tokenizer, plain = model.family.assets.tokenizer, network.plain  # type: ignore[attr-defined]
    if isinstance(tokenizer, Subwords):
        plain.config.eos_token_id = plain.generation_config.eos_token_id = tokenizer.end_of_text
    with huggingface.quiet():
        if adapted and not merge:
            if not model.run.model.path or _rows(model.run.model.architecture) != plain.config.vocab_size:
                raise UserError("This adapter fits no model but the one that was made in its run; say --merge.")
            network.model.peft_config["default"].base_model_name_or_path = model.run.model.path
            # The embeddings are the base's own; to find that out, peft would ask the hub.
            network.model.save_pretrained(folder, save_embedding_layers=False)
        else:
            whole = network.model.merge_and_unload() if merge else plain
            whole.save_pretrained(folder)
    if isinstance(tokenizer, Subwords):
        tokenizers.save(tokenizer, folder)
    (folder / "README.md").write_text(card(model, adapter=adapted and not merge), "utf-8")


def _rows(architecture: str) -> Any:
    return json.loads(architecture).get("vocab_size")


def card(model: Trained, *, adapter: bool) -> str:
    """The model card: what it is, its numbers on held-out data, and how to use it. Markdown with the hub's header."""
    run, family, checkpoint = model.run, model.family, model.committed
    records = json.loads((checkpoint.folder / "state.json").read_text())["best"]
    record = records.get(model.weights, {})
    lines = [
        "---",
        f"library_name: {'peft' if adapter else 'transformers'}",
        *([f"base_model: {run.model.path}"] if run.model.path and not Path(run.model.path).is_absolute() else []),
        "tags: [seedfast, text-generation]",
        "---",
        "",
        f"# {Path(run.model.path).name or 'A language model'}, fine-tuned",
        "",
        f"Trained with `seedfast train {run.recipe}` for {checkpoint.step} steps of {run.batch_size} windows of "
        f"{run.data.context} tokens on `{Path(run.data.path).name}`"
        + (f", through an adapter ({run.model.adapter.kind})." if run.model.adapter.kind != "none" else "."),
        "",
    ]
    if record.get("step") == checkpoint.step:
        sign = "≤ " if family.is_bound else ""
        numbers = {"nats per token": record["loss"]}
        numbers |= {name.replace("_", " "): record["loss"] * factor for name, factor in family.units.items()}
        if not family.is_bound:
            numbers["perplexity (exact)"] = math.exp(record["loss"])
        error = f" ± {record['standard_error']:.4f}" if record["standard_error"] is not None else ""
        lines += [
            f"On held-out data ({record['examples']} windows that were not trained on):",
            "",
            "| | |",
            "|---|---|",
            *(
                f"| {name} | {sign}{value:.4f}{error if name == 'nats per token' else ''} |"
                for name, value in numbers.items()
            ),
            "",
        ]
    if family.is_bound:
        lines += ["It was continued as masked diffusion: its attention sees both sides, so it is no causal model.", ""]
    kind = "peft import AutoPeftModelForCausalLM" if adapter else "transformers import AutoModelForCausalLM"
    lines += ["```python", f"from {kind}", f'model = {kind.split()[-1]}.from_pretrained("PATH")', "```", ""]
    shown = replace(  # whoever reads the card has no use for the folders of the machine that it was made on
        run,
        data=replace(run.data, path=Path(run.data.path).name, tokenizer=Path(run.data.tokenizer).name),
        model=replace(run.model, path=Path(run.model.path).name),
    )
    lines += ["The whole run:", "", "```yaml", to_yaml(shown).strip(), "```", ""]
    return "\n".join(lines)
