"""`seedfast captions`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from seedfast.cli.arguments import parse
from seedfast.cli.chosen import ChosenFlags


@dataclass(frozen=True, kw_only=True)
class CaptionArguments:
    """Caption the validation images of a run and measure exact match, CIDEr-D, ROUGE-L, BLEU-1 … 4 and distinct-n.

    Each metric has its standard error, and beside it the value for the captions of the nearest training images. Writes
    captions.html with images, captions and references into the run folder.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, or a checkpoint in it."""
    decoding: Literal["beam", "greedy", "nucleus"] = "beam"
    """How captions are decoded."""
    beams: int | None = None
    """For beam: prefixes that the search keeps (default 4)."""
    length_penalty: float | None = None
    """For beam: α of the length penalty (default 0.6)."""
    images: int | None = None
    """Number of validation images, spread evenly over all (default: all)."""
    json: bool = False
    """Print one JSON object instead of a table."""
    data: str | None = None
    """Where the data is now, if it has moved; it has to be the same data."""
    chosen: ChosenFlags


def captions(words: list[str]) -> int:
    """Measure a run's captions; see `CaptionArguments` for the flags."""
    asked = parse(CaptionArguments, words, prog="seedfast captions")
    from seedfast.cli.evaluate import show
    from seedfast.console import put
    from seedfast.errors import UserError
    from seedfast.evaluate.caption_quality import CaptionQuality
    from seedfast.run_folder.choice import run_folder_of

    metric = CaptionQuality(
        decoding=asked.decoding, beams=asked.beams, length_penalty=asked.length_penalty, images=asked.images
    )
    model = asked.chosen.load(asked.run, data=asked.data)
    if reason := metric.fits(model):
        raise UserError(reason)
    result = metric(model)
    page = result.write_gallery(run_folder_of(asked.run))
    show(result, model, as_json=asked.json)
    if not asked.json:
        put(f"gallery {page}")
    return 0
