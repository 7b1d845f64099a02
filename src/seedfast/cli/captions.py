"""`seedfast captions`."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from seedfast.evaluate.caption_quality import Report


@dataclass(frozen=True, kw_only=True)
class CaptionQuality:
    """Caption the held-out images of a run and measure: exact match, CIDEr-D, ROUGE-L, BLEU-1 … 4, distinct-n.

    Each with its standard error, beside the captions of the nearest training pictures. Writes a gallery of images,
    captions and references into the run folder.
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    decoding: Literal["beam", "greedy", "nucleus"] = "beam"
    """How captions are written."""
    beams: int | None = None
    """For beam: how many prefixes are kept (default 4)."""
    length_penalty: float | None = None
    """For beam: α of the length penalty (default 0.6)."""
    images: int | None = None
    """Number of held-out images, spread evenly over all (default: all)."""
    json: bool = False
    """Print one JSON object instead of a table."""
    data: str | None = None
    """Where the data is now, if it has moved; it has to be the same data."""
    weights: Literal["ema", "raw"] | None = None
    """Which weights to use (default: the averaged ones where there are some)."""
    at: int | None = None
    """Use the checkpoint of this step instead of the newest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def captions(words: list[str]) -> int:
    """Measure a run's captions; see `CaptionQuality` for the flags."""
    asked = tyro.cli(CaptionQuality, args=words, prog="seedfast captions")
    from seedfast.cli.evaluate import opened
    from seedfast.errors import UserError
    from seedfast.evaluate.caption_quality import report
    from seedfast.families.caption.request import CaptionRequest
    from seedfast.report import caption_gallery

    if asked.images is not None and asked.images < 1:
        raise UserError(f"images must be at least 1, not {asked.images}.")
    model = opened(asked)
    request = CaptionRequest(decoding=asked.decoding, beams=asked.beams, length_penalty=asked.length_penalty)
    found = report(model, request, limit=asked.images)
    page = caption_gallery.write(
        asked.run, found.samples, title=f"{model.run.recipe}, step {found.step}", metrics=rows(found)
    )
    if asked.json:
        numbers = {
            name: {"model": _plain(asdict(value)), "nearest_picture": _plain(asdict(found.baseline[name]))}
            for name, value in found.metrics.items()
        }
        images = len(found.samples.seen.names)
        print(json.dumps({"step": found.step, "weights": found.weights, "images": images, "metrics": numbers}))
    else:
        print("\n".join(lines(found)))
        print(f"gallery {page}")
    return 0


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def rows(found: "Report") -> list[tuple[str, str, str]]:
    """Each metric's name, the model's value and the baseline's."""
    from seedfast.report.format import measured, spaced

    return [
        (
            spaced(name),
            measured(value.value, value.standard_error),
            measured(found.baseline[name].value, found.baseline[name].standard_error),
        )
        for name, value in found.metrics.items()
    ]


def lines(found: "Report") -> list[str]:
    """The metrics as a table for a terminal."""
    header = ("", "model", "nearest picture")
    return [f"{name:<14}{own:>20}{other:>20}" for name, own, other in (header, *rows(found))]
