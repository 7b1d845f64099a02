"""Curricula are pure functions of the step: clamped, monotone, and at their end where validation measures."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedfast.errors import UserError
from seedfast.families.text.proofreading import Proofreading
from seedfast.families.text.proofreading.corruption import Corruption
from seedfast.families.text.proofreading.curriculum import Ramp, moving, resolved
from seedfast.families.text.proofreading.loss_weights import Weights
from seedfast.verify.identities.toys import assets

ramps = st.builds(
    lambda start, end, steps: Ramp(start=start, end=end, steps=steps),
    st.floats(-100, 100), st.floats(-100, 100), st.integers(1, 10_000),
)  # fmt: skip
steps = st.integers(0, 10**12)


@given(ramps, steps)
def test_a_ramp_never_leaves_what_lies_between_its_ends(ramp: Ramp, step: int) -> None:
    assert min(ramp.values) <= ramp.at(step) <= max(ramp.values)


@given(ramps, steps, steps)
def test_a_ramp_is_monotone(ramp: Ramp, a: int, b: int) -> None:
    first, second = ramp.at(min(a, b)), ramp.at(max(a, b))
    assert first <= second if ramp.values[0] <= ramp.end else first >= second


@given(ramps, steps)
def test_a_ramp_begins_and_ends_where_it_says(ramp: Ramp, step: int) -> None:
    assert ramp.at(0) == ramp.start
    assert ramp.at(ramp.steps + step) == ramp.end
    assert Ramp(end=ramp.end).at(step) == ramp.end


@given(steps)
def test_the_task_s_parts_sum_to_one_at_every_step(step: int) -> None:
    """What of a text is masked and what is wrong share the corrupted part, however far the curriculum is."""
    share = resolved(Corruption(), step).replaced.end
    assert 0 <= share <= 1
    assert share + (1 - share) == 1


@given(steps)
def test_resolved_options_stand_still_at_the_step_s_values(step: int) -> None:
    options = Proofreading()
    still = resolved(options, step)
    assert moving(still) == {}
    assert still.corruption.replaced.end == options.corruption.replaced.at(step)
    assert still.weights.unmask.end == options.weights.unmask.at(step)
    assert replace(still, corruption=options.corruption, weights=options.weights) == options


def test_the_family_itself_is_the_end_of_its_curricula() -> None:
    family = Proofreading().build(assets(5, 8))
    assert family.at(10**6).options.weights.unmask.end == family.options.weights.unmask.end
    assert family.at(0).options.weights.unmask.end == 1.5
    assert family.at(0).options.corruption.replaced.end == 0
    assert family.at(150).at(0).options == family.at(150).options, "a resolved family does not move"


def test_the_moving_options_are_found_by_name() -> None:
    assert set(moving(Proofreading())) == {"replaced", "unmask", "remask", "penalty_mask_correct"}
    weights = Weights(label_smoothing=Ramp(start=1.0, end=0.0, steps=5))
    assert "label_smoothing" in moving(Proofreading(weights=weights))


@pytest.mark.parametrize("options", [{"start": 1.0}, {"steps": 5}, {"start": 1.0, "steps": -5}])
def test_half_a_ramp_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="ramp"):
        Ramp(end=1.0, **options)  # type: ignore[arg-type]
