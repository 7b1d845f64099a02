"""Curricula are pure functions of the step: clamped, monotone, and at their end in validation."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedfast.errors import UserError
from seedfast.families.text.proofreading import Proofreading, family
from seedfast.families.text.proofreading.corruption import Corruption
from seedfast.families.text.proofreading.curriculum import Ramp, ramps, resolved
from seedfast.families.text.proofreading.family import ProofreadingObjective
from seedfast.families.text.proofreading.loss_weights import Weights
from seedfast.verify.identities.toys import assets

any_ramp = st.builds(
    lambda start, end, steps: Ramp(start=start, end=end, steps=steps),
    st.floats(-100, 100), st.floats(-100, 100), st.integers(1, 10_000),
)  # fmt: skip
steps = st.integers(0, 10**12)


@given(any_ramp, steps)
def test_a_ramp_stays_between_its_ends(ramp: Ramp, step: int) -> None:
    assert min(ramp.values) <= ramp.value(step) <= max(ramp.values)


@given(any_ramp, steps, steps)
def test_a_ramp_is_monotone(ramp: Ramp, a: int, b: int) -> None:
    first, second = ramp.value(min(a, b)), ramp.value(max(a, b))
    assert first <= second if ramp.values[0] <= ramp.end else first >= second


@given(any_ramp, steps)
def test_a_ramp_begins_at_its_start_and_ends_at_its_end(ramp: Ramp, step: int) -> None:
    assert ramp.value(0) == ramp.start
    assert ramp.value(ramp.steps + step) == ramp.end
    assert Ramp(end=ramp.end).value(step) == ramp.end


@given(steps)
def test_the_parts_of_the_corruption_sum_to_one_at_every_step(step: int) -> None:
    """The masked and the wrong words share the corrupted part, at any point of the curriculum."""
    share = resolved(Corruption(), step).replaced.end
    assert 0 <= share <= 1
    assert share + (1 - share) == 1


@given(steps)
def test_resolved_options_are_constant_at_the_values_of_the_step(step: int) -> None:
    options = Proofreading()
    constant = resolved(options, step)
    assert ramps(constant) == {}
    assert constant.corruption.replaced.end == options.corruption.replaced.value(step)
    assert constant.weights.unmask.end == options.weights.unmask.value(step)
    assert replace(constant, corruption=options.corruption, weights=options.weights) == options


def test_the_objective_itself_is_the_end_of_its_curricula() -> None:
    objective = ProofreadingObjective(Proofreading(), assets(5, 8))
    assert objective.for_step(10**6).options.weights.unmask.end == objective.options.weights.unmask.end
    assert objective.for_step(0).options.weights.unmask.end == 1.5
    assert objective.for_step(0).options.corruption.replaced.end == 0
    constant = objective.for_step(150)
    assert constant.for_step(0).options == constant.options, "the objective of a step does not change"


def test_the_options_of_a_step_are_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = family.resolved
    monkeypatch.setattr(family, "resolved", lambda *arguments: calls.append(1) or whole(*arguments))
    objective = ProofreadingObjective(Proofreading(), assets(5, 8))
    for step in (3, 3, 3, 4, 600, 601, 10**6):  # the longest ramp has 600 steps
        assert objective.for_step(step).options == resolved(Proofreading(), step)
    assert len(calls) == 3


def test_ramps_are_found_by_name() -> None:
    assert set(ramps(Proofreading())) == {"replaced", "unmask", "remask", "penalty_mask_correct"}
    weights = Weights(label_smoothing=Ramp(start=1.0, end=0.0, steps=5))
    assert "label_smoothing" in ramps(Proofreading(weights=weights))


@pytest.mark.parametrize("options", [{"start": 1.0}, {"steps": 5}, {"start": 1.0, "steps": -5}])
def test_half_a_ramp_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="ramp"):
        Ramp(end=1.0, **options)  # type: ignore[arg-type]
