"""`seedfast export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from seedfast.evaluate.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the best model of a run as a folder for transformers (weights, tokenizer, model card) or diffusers.

    An adapter stays an adapter (which peft loads onto its base) unless it is merged. A text model trained from scratch
    becomes a Qwen3, Llama or GPT-2 where it has that architecture, else a class with its code in the folder.
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
    from seedfast.evaluate.bare import is_bare
    from seedfast.export.export import export as write

    model = best(asked.run, asked.weights, asked.at)
    write(model, asked.out, merge=asked.merge)
    use = f"seedfast sample {asked.out}" if is_bare(asked.out) else f"{asked.out}/README.md says how to use it"
    print(f"{asked.out} holds step {model.committed.step} ({model.weights} weights): {use}")
    return 0


def best(run: Path, weights: Literal["ema", "raw"] | None, at: int | None) -> "Trained":
    """The best model of a run, or that of a step."""
    import seedfast
    from seedfast.evaluate import trained

    step = trained.best_step(run, weights=weights) if at is None else at
    return seedfast.load(run, step=step, weights=weights, device="cpu")
