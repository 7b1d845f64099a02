"""Progress for people: step, loss, throughput, time left, bits per byte, costs, learning rate; and `train.log`."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from seedfast.families.measure import Measure
from seedfast.loop.costs import Tally
from seedfast.loop.session import Session
from seedfast.report.format import duration, size
from seedfast.run_folder.journal import Entry, ScoreEntry, SourceEntry, StepEntry

LOG = "train.log"
_SECONDS = (10.0, 300.0)  # least and most between two lines of a log
_LINES = 30  # and about so many lines in the time so far, so that a week of training can be read
_BAR = (8, 24)  # least and most columns of the bar
_FADING = 0.9  # how much the costs of earlier lines count in the next one
_LONG_WAIT = 0.1  # share of the time: from here on, waiting for data is worth a place in a narrow line
_SPACE = "  "


class Progress(Protocol):
    """Receives each step and validation."""

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """An optimizer step took `seconds`; `entry` is its journal line."""
        ...

    def validation(self, session: Session, record: dict[str, ScoreEntry]) -> None:
        """A validation: for each kind of weights, its score."""
        ...


class Line:
    """A line that is rewritten on a terminal; elsewhere, and in the file `log`, lines with a clock at a slower rate."""

    def __init__(self, console: Console, log: Path | None = None) -> None:
        """log: a file that gets every line, with the date, also where the console is quiet."""
        self._console, self._log = console, log
        is_drawn = console.is_terminal and not console.is_dumb_terminal and not console.quiet
        self._live = Live(console=console, auto_refresh=False, transient=True) if is_drawn else None
        self._loss = math.nan
        self._began = time.monotonic()
        self._logged = -math.inf
        self._recent, self._whole, self._unit = Tally(), Tally(), ""

    def say(self, text: str) -> None:
        """A line that stays, as it is."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._write(text)

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """Show a step, every `log_every` steps."""
        run = session.run
        self._unit = session.family.objective.measure.weight_unit
        self._recent.add(entry)
        self._whole.add(entry)
        if entry["loss"] is not None:
            # A moving average over about twenty steps, for display only; the journal has every value.
            self._loss = entry["loss"] if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * entry["loss"]
        if entry["step"] % run.log_every and entry["step"] != run.steps:
            return
        now = time.monotonic()
        parts = self._parts(session, entry, elapsed=now - self._began)
        self._recent.fade(_FADING)
        if self._live:
            if not self._live.is_started:
                self._live.start()
            text = fit(parts, self._console.width, entry["step"] / run.steps, self._bar_signs)
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
        pause = min(max(_SECONDS[0], (now - self._began) / _LINES), _SECONDS[1])
        if now - self._logged > pause or entry["step"] == run.steps:
            self._logged = now
            text = _SPACE.join(parts)
            if not self._live:
                self._print_with_clock(text)
            self._write(text)

    def _parts(self, session: Session, entry: StepEntry, elapsed: float) -> list[str]:
        """What there is to show, the most important first. elapsed: seconds since the training began."""
        run, measure, step, costs = session.run, session.family.objective.measure, entry["step"], self._recent
        # What is left takes as much time besides its steps, for validations and samples, as what is done.
        left = (run.steps - step) * entry["weight"] / costs.rate * max(1.0, elapsed / self._whole.seconds)
        waits = costs.waiting_share >= _LONG_WAIT
        return [
            f"step {step}/{run.steps}",
            f"loss {self._loss:.3f}",
            _rate(costs, self._unit),
            f"{_clock(left)} left",
            *_mfu(costs),
            *([_waiting(costs)] if waits else []),
            *([f"epoch {entry['epoch']:.2f}"] if "epoch" in entry else []),
            *_units(measure, self._loss),
            *([] if waits else [_waiting(costs)]),
            *_memory(costs),
            *(f"lr {name} {rate:.1e}" for name, rate in entry["lr"].items()),
        ]

    def validation(self, session: Session, record: dict[str, ScoreEntry]) -> None:
        """Print a validation on a line that stays."""
        step, measure = session.state.step, session.family.objective.measure
        for weights, score in record.items():
            text = f"step {step}  validation {weights}: "
            if score["loss"] is None:
                text += "loss is not finite"
            else:
                best = session.state.best.get(weights)
                sign = "≤ " if measure.is_bound else ""
                error = "" if score["standard_error"] is None else f" ± {score['standard_error']:.4f}"
                text += _SPACE.join([f"loss {sign}{score['loss']:.4f}{error}", *_units(measure, score["loss"])])
                text += " (best)" if best and best.step == step else ""
                text += "".join(f"{_SPACE}{name} {_loss(each)}" for name, each in score.get("sources", {}).items())
            self._print(text)

    def _print(self, text: str) -> None:
        """Print a line that stays, with a clock where there is no terminal."""
        if self._console.is_terminal:
            self._console.print(text, highlight=False, soft_wrap=True)
        else:
            self._print_with_clock(text)
        self._write(text)

    @property
    def _bar_signs(self) -> tuple[str, str]:
        return ("━", "─") if self._console.encoding.lower().startswith("utf") else ("=", "-")

    def _print_with_clock(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')}  {text}", highlight=False, markup=False, soft_wrap=True)

    def _write(self, text: str) -> None:
        """Append a line to the log. A full disk does not stop the training, and is reported where a save fails."""
        if self._log:
            with suppress(OSError), self._log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        if self._whole.seconds:
            self._print(self._summary())

    def _summary(self) -> str:
        """What the training cost."""
        costs = self._whole
        spent = f"trained for {duration(costs.seconds)}"
        saving = [f"saving {duration(costs.saving)}"] if costs.saving else []
        return _SPACE.join([spent, _rate(costs, self._unit), *_mfu(costs), _waiting(costs), *saving, *_memory(costs)])


class Silent:
    """No output: for the other ranks."""

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """Do nothing."""

    def validation(self, session: Session, record: dict[str, ScoreEntry]) -> None:
        """Do nothing."""


class Callback:
    """Calls a function with each entry of the journal."""

    def __init__(self, function: Callable[[Entry], None]) -> None:
        self._function = function

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """Pass on a step."""
        self._function(entry)

    def validation(self, session: Session, record: dict[str, ScoreEntry]) -> None:
        """Pass on a validation."""
        self._function({"step": session.state.step, "validation": record})


def fit(parts: Sequence[str], width: int, fraction: float, signs: tuple[str, str] = ("━", "─")) -> str:
    """The first of the parts, as many as fit into `width` columns, and a bar in the columns that are left.

    fraction: the part of the work that is done. signs: what the bar draws for it and for the rest.
    """
    shown = ""
    for part in parts:
        longer = f"{shown}{_SPACE}{part}" if shown else part
        if len(longer) > width:
            break
        shown = longer
    columns = min(width - len(shown) - 1, _BAR[1])
    if columns < _BAR[0]:
        return shown or parts[0][:width]
    done, rest = signs
    return f"{done * int(columns * fraction):{rest}<{columns}} {shown}"


def _units(measure: Measure, loss: float) -> list[str]:
    """The loss in other units, and the perplexity where there is one."""
    units = [f"{name.replace('_', ' ')} {loss * factor:.3f}" for name, factor in measure.conversions.items()]
    return [*units, *([f"perplexity {measure.perplexity(loss):.4g}"] if measure.has_perplexity else [])]


def _loss(score: SourceEntry) -> str:
    return "not finite" if score["loss"] is None else f"{score['loss']:.4f}"


def _rate(costs: Tally, unit: str) -> str:
    return f"{short(costs.rate)} {unit}/s"


def _mfu(costs: Tally) -> list[str]:
    """The share of the peak, where that is known."""
    return [f"MFU {costs.mfu:.0%}"] if costs.mfu else []


def _waiting(costs: Tally) -> str:
    return f"waiting for data {costs.waiting_share:.0%}"


def _memory(costs: Tally) -> list[str]:
    """The peak of the memory, once it has been measured."""
    return [f"memory {size(costs.memory)}"] if costs.memory else []


def short(number: float) -> str:
    """A positive number with three digits: 9.87, 123, 12.3k, 4.56M."""
    for factor, sign in ((1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * factor:
            return f"{_digits(number / factor)}{sign}"
    return _digits(number)


def _digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
