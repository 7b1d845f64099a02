"""`seedfast replay`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from seedfast.cli.arguments import parse
from seedfast.cli.past import OfOneRun
from seedfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from seedfast.verify.replay import Comparison

_WIDEST = 100  # characters of a row's text; --json has all of it

_VERDICTS = {
    "identical": "identical to the last bit",
    "rounding": "equal up to rounding",
    "different": "DIFFERENT: these options, data and checkpoints do not give the step that the journal has",
}


@dataclass(frozen=True, kw_only=True)
class Replay(OfOneRun):
    """Compute one step of a run again, and compare its loss, gradient norm and digest with the journal.

    The step is computed from the nearest checkpoint before it, or from the seed. Nothing is written into the run.
    --rows also shows the examples of the step, each with its own loss, the largest first: the rows of a loss spike.
    Exits with 1 if the step is not what the journal says.
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    step: int
    """The step, as the journal counts: the first is 1."""
    rows: bool = False
    """Show the examples of the step, decoded, each with its loss."""
    pictures: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Write the images of the rows to this file as one picture, in their order (with --rows)."""


def replay(words: list[str]) -> int:
    """Replay a step; see `Replay` for the flags."""
    asked: Replay = parse(Replay, words, prog="seedfast replay")
    if asked.pictures and not asked.rows:
        raise UserError("--pictures shows the images of the rows: pass --rows too.")
    from seedfast import api
    from seedfast.console import put

    found = api.replay(asked.run, asked.step, rows=asked.rows, data=asked.data, device=asked.device, trust=asked.trust)
    if asked.pictures:
        _draw(found.pixels, asked.pictures)
    put(json.dumps(found.as_json()) if asked.json else "\n".join(_lines(found)))
    return 1 if found.verdict == "different" else 0


def _lines(found: "Comparison") -> list[str]:
    """The comparison as text."""
    start = f"from the checkpoint of step {found.start}" if found.start else "from the start of the run"
    batch = f", batch {found.batch} of the stream" if found.batch != found.step else ""
    lines = [f"step {found.step}{batch}, computed again {start}"]
    for name in ("loss", "gradient_norm", "digest"):
        recorded, recomputed = found.recorded.get(name), found.recomputed.get(name)
        mark = "=" if recorded == recomputed else "≠"
        lines.append(f"  {name:<14} {recorded!s:<22} {mark} {recomputed}")
    if found.elsewhere:
        lines.append(f"  the run was trained elsewhere: {found.elsewhere}")
    lines.append(_VERDICTS[found.verdict])
    if found.rows:
        lines += ["", f"{'loss':>9} {'weight':>7} {'share':>6} {'id':>8}  example"]
    for row in found.rows:
        loss = "–" if row.loss is None else f"{row.loss:.4f}"
        text = " ".join(filter(None, (row.source and f"[{row.source}]", row.size, row.shows)))
        text = text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
        lines.append(f"{loss:>9} {row.weight:>7g} {row.share:>6.1%} {row.id:>8}  {text}")
    return lines


def _draw(pixels: "Tensor | None", path: Path) -> None:
    """Write the images as a picture. Raises UserError if there are none."""
    from math import ceil, sqrt

    from seedfast.families.image.samples import image_grid, to_pil

    if pixels is None:
        raise UserError("The rows of this run have no images: leave --pictures out.")
    if path.suffix.lower() != ".png":
        raise UserError(f"--pictures {path} must end in .png.")
    to_pil(image_grid(pixels, ceil(sqrt(len(pixels))))).save(path)
