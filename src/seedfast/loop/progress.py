"""Progress for people: step, loss, bits per byte, learning rate, throughput, time left."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from seedfast.loop.session import Session
from seedfast.run_folder.journal import Entry, Score, StepEntry

_QUIET_SECONDS = 10.0  # between lines where the output is no terminal
_BAR = 24


class Progress(Protocol):
    """Receives each step and validation."""

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """An optimizer step took `seconds`; `entry` is its journal line."""
        ...

    def validation(self, session: Session, record: dict[str, Score]) -> None:
        """A validation: for each kind of weights, its score."""
        ...


class Line:
    """A line that is rewritten on a terminal; elsewhere, a line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._loss = self._rate = math.nan
        self._printed = self._since = time.monotonic()
        self._weight = 0.0

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """Show a step, every `log_every` steps."""
        run = session.run
        self._weight += entry["weight"]
        if entry["loss"] is not None:
            # A moving average over about twenty steps, for display only; the journal has every value.
            self._loss = entry["loss"] if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * entry["loss"]
        if entry["step"] % run.log_every and entry["step"] != run.steps:
            return
        now = time.monotonic()
        rate = self._weight / max(now - self._since, 1e-9)
        self._rate = rate if math.isnan(self._rate) else 0.9 * self._rate + 0.1 * rate
        self._since, self._weight = now, 0.0
        text = self._text(session, entry)
        if self._live:
            if not self._live.is_started:
                self._live.start()
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif now - self._printed > _QUIET_SECONDS or entry["step"] == run.steps:
            self._printed = now
            self._console.print(text, highlight=False, soft_wrap=True)

    def _text(self, session: Session, entry: StepEntry) -> str:
        run, measure, step = session.run, session.family.objective.measure, entry["step"]
        units = " ".join(
            f"{name.replace('_', ' ')} {self._loss * factor:.3f}" for name, factor in measure.conversions.items()
        )
        if measure.has_perplexity:
            units += f"  perplexity {measure.perplexity(self._loss):.4g}"
        epoch = f"  epoch {entry['epoch']:.2f}" if "epoch" in entry else ""
        left = (run.steps - step) * entry["weight"] / self._rate
        done = "━" * (_BAR * step // run.steps)
        return (
            f"{done:─<{_BAR}} step {step}/{run.steps}{epoch}  loss {self._loss:.3f}  {units}  {_lr(entry['lr'])}  "
            f"{self._rate:,.0f} {measure.weight_unit}/s  {_clock(left)} left"
        )

    def validation(self, session: Session, record: dict[str, Score]) -> None:
        """Print a validation on a line that stays."""
        step, measure = session.state.step, session.family.objective.measure
        for weights, score in record.items():
            if score["loss"] is None:
                self._console.print(f"step {step}  validation {weights}: loss is not finite")
                continue
            converted: dict[str, Any] = dict(score)
            units = " ".join(f"{name.replace('_', ' ')} {converted[name]:.3f}" for name in measure.conversions)
            if measure.has_perplexity:
                units += f"  perplexity {measure.perplexity(score['loss']):.4g}"
            best = " (best)" if session.state.best.get(weights) and session.state.best[weights].step == step else ""
            sign = "≤ " if measure.is_bound else ""
            error = "" if score["standard_error"] is None else f" ± {score['standard_error']:.4f}"
            self._console.print(
                f"step {step}  validation {weights}: loss {sign}{score['loss']:.4f}{error}  {units}{best}",
                highlight=False,
                soft_wrap=True,
            )
        self._since = time.monotonic()  # the throughput excludes validation
        self._weight = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()


class Silent:
    """No output: for the other ranks."""

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """Do nothing."""

    def validation(self, session: Session, record: dict[str, Score]) -> None:
        """Do nothing."""


class Callback:
    """Calls a function with each entry of the journal."""

    def __init__(self, function: Callable[[Entry], None]) -> None:
        self._function = function

    def step(self, session: Session, entry: StepEntry, seconds: float) -> None:
        """Pass on a step."""
        self._function(entry)

    def validation(self, session: Session, record: dict[str, Score]) -> None:
        """Pass on a validation."""
        self._function({"step": session.state.step, "validation": record})


def _lr(rates: Mapping[str, float]) -> str:
    """The learning rate of each optimizer: "lr 1.00e-03", or "lr adamw 1.00e-03 muon 1.50e-02"."""
    if len(rates) == 1:
        return f"lr {next(iter(rates.values())):.2e}"
    return "lr " + " ".join(f"{name} {rate:.2e}" for name, rate in rates.items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
