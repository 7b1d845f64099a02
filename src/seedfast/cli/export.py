"""`seedfast export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from seedfast.cli.arguments import Trust, parse


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the model of a run as a folder for transformers (weights, tokenizer, model card) or diffusers.

    An adapter stays an adapter (which peft loads onto its base) unless it is merged. A text model trained from scratch
    becomes a Qwen3, Llama or GPT-2 where it has that architecture, else a class with its code in the folder.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, or a checkpoint in it."""
    out: Path
    """The folder to make."""
    merge: bool = False
    """Write the adapter's change into the weights, for a model that needs no peft."""
    weights: Literal["ema", "raw"] | None = None
    """Which weights to export (default: the averaged ones where there are some)."""
    at: int | Literal["best", "newest"] = "best"
    """Which checkpoint: the best (by the run's validations; the newest where it has none), the newest, or a step's."""
    trust: Trust = False


def export(words: list[str]) -> int:
    """Export a run; see `Export` for the flags."""
    asked = parse(Export, words, prog="seedfast export")
    import seedfast
    from seedfast.console import put
    from seedfast.evaluate.bare import is_bare
    from seedfast.export.export import export as write

    model = seedfast.load(asked.run, step=asked.at, weights=asked.weights, device="cpu", trust=asked.trust)
    write(model, asked.out, merge=asked.merge)
    use = f"seedfast sample {asked.out}" if is_bare(asked.out) else f"{asked.out}/README.md says how to use it"
    put(f"{asked.out} holds the {model.origin}: {use}")
    return 0
