"""Learning-rate schedules: their shapes, the plateau, their options and the earlier names of these."""

from typing import Any

import pytest

from seedfast.errors import UserError
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Plateau, Schedule
from seedfast.options import renamed


def multipliers(schedule: Schedule, steps: int) -> list[float]:
    return [schedule.lr_multiplier(step, steps) for step in range(steps)]


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant", "inverse-sqrt", "wsd", "step", "plateau"])
def test_every_shape_reaches_its_peak_after_the_warmup(shape: Any) -> None:
    values = multipliers(Schedule(shape=shape, warmup=4), 20)
    assert values[:4] == [0.2, 0.4, 0.6, 0.8]
    assert values[4] == max(values) == 1.0


def test_the_last_learning_rate_of_a_decay_is_its_minimum() -> None:
    for shape in ("cosine", "linear", "wsd"):
        schedule = Schedule(shape=shape, min_lr_factor=0.25)  # type: ignore[arg-type]
        assert schedule.lr_multiplier(1000, 1000) == pytest.approx(0.25)
        assert Schedule(shape=shape).lr_multiplier(1000, 1000) == pytest.approx(0.0)  # type: ignore[arg-type]


def test_wsd_is_constant_until_its_decay() -> None:
    assert multipliers(Schedule(shape="wsd", decay=0.5), 10) == pytest.approx([1] * 6 + [0.8, 0.6, 0.4, 0.2])


def test_steps_reduce_the_learning_rate_at_even_intervals() -> None:
    assert multipliers(Schedule(shape="step", step_size=2, gamma=0.1), 6) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert multipliers(Schedule(shape="step"), 6) == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_plateau_reduces_the_learning_rate_when_validations_stop_improving() -> None:
    schedule, plateau = Schedule(shape="plateau", patience=1, gamma=0.1), Plateau()
    scales = []
    for loss in (2.0, 1.0, 1.5, float("nan"), 1.0, 1.2, 1.3, 0.9):
        plateau.observe(schedule, loss)
        scales.append(plateau.scale)
    assert scales == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    other = Plateau()
    other.observe(Schedule(), 1.0)
    assert other == Plateau()  # other shapes have no state


def test_earlier_names_of_the_options_are_known() -> None:
    assert renamed(Schedule) == {"final": "min_lr_factor", "every": "step_size", "shrink": "gamma"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"warmup": -1}, r"schedule\.warmup must be at least 0, not -1"),
        ({"min_lr_factor": 2.0}, r"schedule\.min_lr_factor must be in \[0, 1\], not 2\.0"),
        (
            {"shape": "constant", "min_lr_factor": 0.1},
            r"min_lr_factor .* has no effect without schedule\.shape cosine",
        ),
        ({"decay": 0.1}, r"schedule\.decay \(0\.1\) has no effect without schedule\.shape wsd"),
        ({"patience": 1}, r"schedule\.patience \(1\) has no effect without schedule\.shape plateau"),
        ({"step_size": 5}, r"schedule\.step_size \(5\) has no effect without schedule\.shape step"),
        ({"shape": "step", "step_size": 0}, r"schedule\.step_size must be at least 1, not 0"),
        ({"gamma": 0.1}, r"schedule\.gamma \(0\.1\) has no effect without schedule\.shape plateau or step"),
        ({"shape": "step", "gamma": 1.5}, r"schedule\.gamma must be in \[0, 1\], not 1\.5"),
    ],
    ids=str,
)
def test_invalid_schedules_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Schedule(**options)


def test_invalid_averages_are_refused() -> None:
    with pytest.raises(UserError, match=r"ema\.half_life must be at least 0, not -1"):
        EMA(half_life=-1)
    with pytest.raises(UserError, match=r"ema\.ramp must be in \(0, 1\], not 0"):
        EMA(half_life=1, ramp=0)
