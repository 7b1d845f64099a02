"""One step of a run, computed again and compared with the journal; and the rows of its batch with their losses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from seedfast.errors import UserError
from seedfast.loop.config import Run
from seedfast.loop.left_out import batch_of
from seedfast.verify.past import Line, Past
from seedfast.verify.rows import Row, rows_of

Verdict = Literal["identical", "rounding", "different"]

ROUNDING = 1e-3
"""Relative difference up to which the numbers of another machine are the same numbers, rounded differently."""
_COMPARED = ("loss", "gradient_norm", "digest", "lr", "weight")


@dataclass(frozen=True)
class Comparison:
    """A step of the journal beside the same step computed again.

    step: as the journal counts, from 1. start: the checkpoint (its step) from which it was computed; 0 may be the seed.
    batch: the number, from 1, of its batch in the sample stream, which is another than the step after skipped steps.
    elsewhere: how the machine of the run differs from this one, in words; None if it does not.
    rows: the examples, the largest loss first; none unless they were asked for. pixels: their images, uint8
    [B, C, S, S], in the order of the rows, of data that has images.
    """

    step: int
    start: int
    batch: int
    recorded: Line
    recomputed: Line
    elsewhere: str | None = None
    rows: Sequence[Row] = ()
    pixels: Tensor | None = field(default=None, repr=False)

    @property
    def verdict(self) -> Verdict:
        """identical: every compared number has the same bits. rounding: the same up to rounding on another machine."""
        return verdict(self.recorded, self.recomputed, self.elsewhere)

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        both = {key: {"journal": self.recorded.get(key), "recomputed": self.recomputed.get(key)} for key in _COMPARED}
        found: dict[str, Any] = {
            "step": self.step,
            "from": self.start,
            "batch": self.batch,
            "verdict": self.verdict,
            **both,
        }
        if self.elsewhere:
            found["elsewhere"] = self.elsewhere
        return found | ({"rows": [asdict(row) for row in self.rows]} if self.rows else {})


def verdict(recorded: Line, recomputed: Line, elsewhere: str | None) -> Verdict:
    """How two lines of the same step compare. elsewhere: as in `Comparison`."""
    if all(recorded.get(key) == recomputed.get(key) for key in _COMPARED):
        return "identical"
    close = all(is_close(recorded.get(key), recomputed.get(key)) for key in _COMPARED if key != "digest")
    return "rounding" if elsewhere and close else "different"


def is_close(one: Any, other: Any) -> bool:
    """Whether two numbers, or mappings of numbers, are equal up to rounding."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_close(one[key], other[key]) for key in one)
    if isinstance(one, float | int) and isinstance(other, float | int):
        return abs(one - other) <= ROUNDING * max(abs(one), abs(other))
    return bool(one == other)


def replay(past: Past, step: int, *, rows: bool = False) -> Comparison:
    """Compute step `step` (1, 2, …) of a run again and compare it with the journal.

    rows: find the loss of each example too. Raises UserError for a step that the journal does not have.
    """
    if step not in past.steps:
        last = max(past.steps, default=0)
        raise UserError(f"The journal of {past.folder} has no step {step}: it has the steps 1 to {last}.")
    found = None
    for run in past.runs_of(step):  # a session may have changed the options after the checkpoint before the step
        compared = _replay(past, run, step, rows=rows)
        found = found if found and compared.verdict == "different" else compared
        if found.verdict == "identical":
            break
    assert found is not None
    return found


def _replay(past: Past, run: Run, step: int, *, rows: bool) -> Comparison:
    start = past.before(step)
    with past.session(run, start) as session:
        past.advance(session, step - 1)
        shown, pixels = rows_of(session, step - 1) if rows else ((), None)
        recomputed = past.compute(session, step - 1)
    return Comparison(
        step=step,
        start=start.step if start else 0,
        batch=batch_of(run.skip, step - 1) + 1,
        recorded=past.steps[step],
        recomputed=recomputed,
        elsewhere=past.elsewhere,
        rows=shown,
        pixels=pixels,
    )
