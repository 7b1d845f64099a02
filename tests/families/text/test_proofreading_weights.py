"""The weights: each term's sign, that terms multiply, and that no answer is ever free."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.proofreading import PLAIN, WORDS, Chosen, arbitrary, batch, draws, family
from torch import Tensor
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.families.text.proofreading.corruption import IDENTITY, REMASK, UNMASK
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.proofreading.family import ProofreadingTask, soften
from seedfast.families.text.proofreading.loss_weights import FLOOR, Answers, Weights, answer_weights, task_weights

KIND = torch.tensor([[UNMASK, UNMASK, REMASK, IDENTITY, IDENTITY, IDENTITY]])
TARGETS = torch.tensor([[2, 3, WORDS, 1, 4, 5]])


def answers(weights: Weights, doubt: float = 0.3, right: float = 0.4, kind: Tensor = KIND) -> Answers:
    """At every position: this much on the special answer, this much on the right word, the rest on another word."""
    q_BLV = torch.full((1, 6, WORDS + 1), 1e-9)
    q_BLV[..., WORDS] = doubt
    words = TARGETS.clone()
    words[TARGETS == WORDS] = 0
    q_BLV.scatter_(2, words[..., None], right)
    q_BLV[..., 6] += 1 - doubt - right
    return Answers(weights, WORDS, kind, TARGETS, q_BLV.log())


def product(weights: Weights, **said: float) -> Tensor:
    found = answer_weights(answers(weights, **said))
    return torch.ones(1, 6) if found is None else found


def test_plain_weights_are_one_everywhere() -> None:
    assert answer_weights(answers(PLAIN)) is None
    assert bool((task_weights(KIND, PLAIN) == 1).all())


@settings(max_examples=50)
@given(st.floats(FLOOR, 10), st.floats(FLOOR, 10), st.floats(0, 0.5))
def test_penalties_rise_and_multiply_the_cost_of_their_mistake(a: float, b: float, doubt: float) -> None:
    low, high = sorted((a, b))
    for name, kind in (("penalty_mask_correct", IDENTITY), ("penalty_keep_mask", UNMASK)):
        cheap, dear = (product(replace(PLAIN, **{name: Ramp(end=p)}), doubt=doubt) for p in (low, high))
        assert bool((cheap[kind == KIND] <= dear[kind == KIND]).all()), "monotone in the penalty"
        assert bool((cheap[kind != KIND] == 1).all()), "nothing else is touched"
        assert cheap[kind == KIND][0] == pytest.approx(max(FLOOR, 1 + (low - 1) * doubt), rel=1e-5)


@given(st.floats(0, 0.3), st.floats(0, 0.3))
def test_a_penalty_above_one_rises_with_the_mistake_and_one_below_falls(a: float, b: float) -> None:
    less, more = sorted((a, b))
    for penalty, sign in ((3.0, 1), (0.5, -1)):
        weights = replace(PLAIN, penalty_mask_correct=Ramp(end=penalty))
        change = product(weights, doubt=more) - product(weights, doubt=less)
        assert bool((sign * change >= 0).all())


def test_the_terms_multiply() -> None:
    one = replace(PLAIN, penalty_mask_correct=Ramp(end=3.0))
    other = replace(PLAIN, state_dependent=True)
    both = replace(one, state_dependent=True)
    assert torch.allclose(product(both), product(one) * product(other))
    q = 1 / 4  # one of the four visible words is wrong
    assert product(both)[0, 3] == pytest.approx((1 + 2 * 0.3) * (1 - q * 0.3), rel=1e-5)


def test_doubt_is_cheaper_the_more_of_the_visible_text_is_wrong() -> None:
    weights, found = replace(PLAIN, state_dependent=True), []
    for wrong in range(3):
        kind = KIND.clone()
        kind[0, 2 : 3 + wrong] = REMASK
        factor = answer_weights(answers(weights, kind=kind))
        assert factor is not None
        found.append(float(factor[0, 5]))
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 3


@given(st.floats(FLOOR, 1), st.floats(FLOOR, 1))
def test_the_reward_s_weight_is_that_of_a_sure_right_answer(a: float, b: float) -> None:
    low, high = sorted((a, b))
    cheap, dear = (product(replace(PLAIN, reward_correct_unmask=r), doubt=0.0, right=1.0) for r in (low, high))
    assert bool((cheap <= dear).all())
    assert cheap[0, 0] == pytest.approx(max(low, FLOOR), rel=1e-4)


def test_wrong_attempts_cost_more_above_the_target_rate_and_less_below() -> None:
    above = product(replace(PLAIN, target_unmask_rate=0.2), doubt=0.3)  # 0.7 of the gaps are attempted
    below = product(replace(PLAIN, target_unmask_rate=0.9), doubt=0.3)
    assert bool((above[KIND == UNMASK] > 1).all())
    assert bool((below[KIND == UNMASK] < 1).all())
    assert bool((above[KIND != UNMASK] == 1).all())


@given(st.floats(0, 5), st.floats(0, 5))
def test_the_entropy_term_rises_with_its_strength_and_stays_within_one_plus_it(a: float, b: float) -> None:
    low, high = sorted((a, b))
    cheap, dear = (product(replace(PLAIN, entropy=strength)) for strength in (low, high))
    assert bool((cheap <= dear + 1e-6).all())
    assert bool(((dear >= 1) & (dear <= 1 + high + 1e-5)).all())


def test_the_entropy_term_is_highest_where_the_wrong_probability_is_most_peaked() -> None:
    weights, spread = replace(PLAIN, entropy=1.0), torch.full((1, 6, WORDS + 1), 0.6 / WORDS)
    spread.scatter_(2, TARGETS[..., None], 0.4)
    even = answer_weights(Answers(weights, WORDS, KIND, TARGETS, spread.log()))
    assert even is not None
    peaked = product(weights, doubt=0.0)
    assert float(even[0, 0]) < float(peaked[0, 0])
    assert peaked[0, 0] == pytest.approx(2.0, abs=1e-4)


def test_task_weights_rise_with_their_options_and_nothing_is_asked_for_nothing() -> None:
    weights = Weights(unmask=Ramp(end=2.0), remask=Ramp(end=3.0), identity=0.5)
    assert task_weights(torch.tensor([[0, UNMASK, REMASK, IDENTITY]]), weights).tolist() == [[0, 2, 3, 0.5]]


def test_the_mask_ratio_weight_of_one_is_the_bound_s() -> None:
    """With nothing replaced, the sum over gaps is then (n/k) CE: the estimate of the masked family on the same gaps."""
    weights = replace(PLAIN, mask_ratio=1.0)
    gaps = torch.tensor([[UNMASK] * 2 + [IDENTITY] * 6, [UNMASK] * 8])
    found = task_weights(gaps, weights)
    assert torch.equal((found * (gaps == UNMASK)).sum(dim=1), torch.tensor([8.0, 8.0]))
    half = task_weights(gaps, replace(PLAIN, mask_ratio=0.5))
    assert 1 < float(half[0, 0]) < float(found[0, 0])


def test_sums_of_weights_are_the_same_in_any_order() -> None:
    weights = Weights(unmask=Ramp(end=1.1), remask=Ramp(end=0.3), identity=0.7, mask_ratio=0.37)
    task = family(weights).task(batch(512), draws(512))
    assert float(task.weight_B.sum()) == sum(reversed(task.weight_B.tolist())) == float(task.weights_BL.double().sum())
    one_by_one = sum(float(w) for w in task.weights_BL.flatten().double())
    assert one_by_one == float(task.weight_B.sum())


@pytest.mark.parametrize("judged_by", ["probability", "argmax"])
@pytest.mark.parametrize("weights", [Weights(state_dependent=True, reward_correct_unmask=FLOOR, entropy=2.0)])
def test_no_weight_is_below_the_floor_and_none_has_a_gradient(judged_by: str, weights: Weights) -> None:
    built = family(replace(weights, penalty_mask_correct=Ramp(end=FLOOR), judged_by=judged_by))  # type: ignore[arg-type]
    task, network = built.task(batch(), draws(64)), arbitrary(WORDS + 1, spread=20.0)
    log_q_BLV = network(task.inputs_BL).log_softmax(dim=-1)
    found = Answers(built.options.weights, WORDS, task.kind_BL, task.targets_BL, log_q_BLV.detach())
    factor = answer_weights(found)
    assert factor is not None
    assert not factor.requires_grad
    assert float(factor.min()) >= FLOOR**2 * (1 - 1e-6)  # a product of two terms
    assert bool(torch.isfinite(factor).all())


def by_hand(task: ProofreadingTask, logits_BLV: Tensor, weight_BL: Tensor) -> Tensor:
    ce = F.cross_entropy(logits_BLV.transpose(1, 2), task.targets_BL, reduction="none")
    return (ce * weight_BL).sum(dim=1)


def test_the_loss_is_the_weighted_cross_entropy_by_hand() -> None:
    weights = Weights(unmask=Ramp(end=2.0), remask=Ramp(end=0.5), identity=3.0, penalty_mask_correct=Ramp(end=4.0))
    built, network = family(weights), arbitrary(WORDS + 1)
    task = built.task(batch(), draws(64))
    logits_BLV = network(task.inputs_BL).detach()
    doubt_BL = logits_BLV.softmax(dim=-1)[..., WORDS]
    factor_BL = torch.where(task.kind_BL == IDENTITY, 1 + 3 * doubt_BL, 1.0)
    terms = built.loss(network, task, {})
    expected = by_hand(task, logits_BLV, task.weights_BL * factor_BL)
    assert torch.allclose(terms.total_B, expected, rtol=1e-5)
    overwritten = torch.where(task.kind_BL == IDENTITY, factor_BL, task.weights_BL)
    assert not torch.allclose(terms.total_B, by_hand(task, logits_BLV, overwritten), rtol=1e-5), "twin: overwrites"
    plain = by_hand(task, logits_BLV, (task.kind_BL > 0).float()).sum() / int((task.kind_BL > 0).sum())
    reported = terms.diagnostics["plain_cross_entropy"]
    assert float(reported[0] / reported[1]) == pytest.approx(float(plain), rel=1e-5)


@given(st.floats(0, 0.9))
def test_a_perfect_answer_costs_nothing_however_soft_the_target(smoothing: float) -> None:
    target = torch.full((1, 1, 5), smoothing / 5)
    target[..., 2] += 1 - smoothing
    log_q_BLV = target.clamp(min=1e-12).log()
    ce_BL = -log_q_BLV[..., 2]
    assert float(soften(ce_BL, log_q_BLV, smoothing)) == pytest.approx(0, abs=1e-5)
    other = torch.full((1, 1, 5), 0.2).log()
    expected = torch.nn.functional.kl_div(other, target, reduction="sum")
    assert float(soften(-other[..., 2], other, smoothing)) == pytest.approx(float(expected), abs=1e-5)


def test_a_right_network_has_no_loss_and_doubts_what_is_wrong() -> None:
    """Identity 24: the oracle."""
    built = family()
    task = built.task(batch(), draws(64))
    oracle = Chosen(lambda _: 60.0 * F.one_hot(task.targets_BL, WORDS + 1).float())
    task = replace(task, unmasking=None)
    terms = built.loss(oracle, task, {})
    found = {name: float(pair[0] / pair[1]) for name, pair in terms.diagnostics.items() if pair[1]}
    assert float(terms.total_B.detach().sum()) == pytest.approx(0, abs=1e-4)
    assert found["remask_precision"] == found["remask_recall"] == found["unmask_accuracy"] == 1
    assert found["remask_false_positives"] == found["remask_false_negatives"] == found["kept_mask"] == 0
    assert found["unmask_skill"] == WORDS


def test_chance_is_what_a_network_that_doubts_at_random_has() -> None:
    built = family()
    task = replace(built.task(batch(4000), draws(4000)), unmasking=None)
    coin = draws(4000).uniform("coin", task.inputs_BL.shape[1]) < 0.37
    logits = 9.0 * F.one_hot(torch.where(coin, WORDS, 0), WORDS + 1).float()
    terms = built.loss(Chosen(lambda _: logits), task, {})
    found = {name: float(pair[0] / pair[1]) for name, pair in terms.diagnostics.items() if pair[1]}
    assert found["remask_precision"] == pytest.approx(found["remask_chance"], abs=0.02)
    assert found["remask_recall"] == pytest.approx(found["remask_rate"], abs=0.02)
    assert found["remask_rate"] == pytest.approx(0.37, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unmask": Ramp(end=0.0)}, "unmask may not fall below"),
        ({"remask": Ramp(start=0.0, end=1.0, steps=5)}, "remask may not fall below"),
        ({"penalty_mask_correct": Ramp(end=0.0)}, "penalty_mask_correct may not fall below"),
        ({"identity": 0.0}, "identity may not fall below"),
        ({"reward_correct_unmask": 0.0}, "reward_correct_unmask may not fall below"),
        ({"target_unmask_rate": 0.0}, "target_unmask_rate must lie"),
        ({"entropy": -1.0}, "entropy must not be negative"),
        ({"label_smoothing": Ramp(end=2.0)}, "label_smoothing is a part"),
    ],
)
def test_weights_that_make_something_free_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Weights(**options)  # type: ignore[arg-type]
