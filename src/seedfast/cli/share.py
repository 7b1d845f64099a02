"""`seedfast export` and `seedfast push`."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from seedfast.evaluate.trained import Trained


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
    from seedfast.evaluate import trained
    from seedfast.evaluate.export import export as write

    model = _best(asked.run, asked.weights, asked.at)
    write(model, asked.out, merge=asked.merge)
    use = f"seedfast sample {asked.out}" if trained.is_bare(asked.out) else f"{asked.out}/README.md says how to use it"
    print(f"{asked.out} holds step {model.committed.step} ({model.weights} weights): {use}")
    return 0


def _best(run: Path, weights: Literal["ema", "raw"] | None, at: int | None) -> "Trained":
    """The best model of a run, or that of a step."""
    from seedfast import recipes
    from seedfast.evaluate import trained

    checkpoint = trained.find(run, at=trained.best_step(run, weights=weights) if at is None else at)
    return trained.load(recipes.stored(checkpoint.folder), checkpoint, weights=weights, device="cpu")


@dataclass(frozen=True, kw_only=True)
class Push:
    """Upload an exported model, or the best model of a run, to the Hugging Face hub, with the login of `hf auth login`.

    A run whose network is seedfast's own is uploaded as a run folder without what only training needs.
    """

    folder: tyro.conf.Positional[Path]
    """The folder that `seedfast export` made, or a run folder."""
    name: tyro.conf.Positional[str]
    """The name on the hub, USER/MODEL."""
    private: bool = False
    """Keep it to yourself, if it is not there yet."""


def push(words: list[str]) -> int:
    """Upload a model; see `Push` for the flags."""
    asked = tyro.cli(Push, args=words, prog="seedfast push")
    from seedfast.errors import UserError
    from seedfast.evaluate import publish

    if any((asked.folder / config).is_file() for config in ("config.json", "adapter_config.json", "model_index.json")):
        print(publish.push(asked.folder, asked.name, private=asked.private))
        return 0
    if not (asked.folder / "run.yaml").is_file():
        raise UserError(f"{asked.folder} is neither a run folder nor one that seedfast export made.")
    with TemporaryDirectory(prefix="seedfast-push-") as temporary:
        model = _best(asked.folder, None, None)
        publish.write(model, Path(temporary))
        message = f"Step {model.committed.step}"
        print(publish.push(Path(temporary), asked.name, private=asked.private, message=message))
    return 0
