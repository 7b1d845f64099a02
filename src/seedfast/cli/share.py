"""`seedfast export` and `seedfast push`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the best model of a run as a folder for transformers (weights, tokenizer, model card) or diffusers.

    An adapter stays an adapter (which peft loads onto its base) unless it is merged.
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    out: Path
    """The folder to make."""
    merge: bool = False
    """Write the adapter's change into the weights, for a model that needs no peft."""
    weights: Literal["ema", "raw"] | None = None
    """Which weights to export (default: the averaged ones where there are some)."""
    at: int | None = None
    """Export the checkpoint of this step instead of the best."""


def export(words: list[str]) -> int:
    """Export a run; see `Export` for the flags."""
    asked = tyro.cli(Export, args=words, prog="seedfast export")
    from seedfast import recipes
    from seedfast.evaluate import trained
    from seedfast.evaluate.export import export as write

    at = asked.at if asked.at is not None else trained.best_step(asked.run, weights=asked.weights)
    checkpoint = trained.find(asked.run, at=at)
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint, weights=asked.weights, device="cpu")
    write(model, asked.out, merge=asked.merge)
    use = f"seedfast sample {asked.out}" if trained.is_bare(asked.out) else f"{asked.out}/README.md says how to use it"
    print(f"{asked.out} holds step {checkpoint.step} ({model.weights} weights): {use}")
    return 0


@dataclass(frozen=True, kw_only=True)
class Push:
    """Upload an exported model to the Hugging Face hub, with the login of huggingface-cli."""

    folder: tyro.conf.Positional[Path]
    """The folder that `seedfast export` made."""
    name: tyro.conf.Positional[str]
    """The name on the hub, USER/MODEL."""
    private: bool = False
    """Keep it to yourself."""


def push(words: list[str]) -> int:
    """Upload an exported model; see `Push` for the flags."""
    asked = tyro.cli(Push, args=words, prog="seedfast push")
    from seedfast.evaluate.export import push as upload

    print(upload(asked.folder, asked.name, private=asked.private))
    return 0
