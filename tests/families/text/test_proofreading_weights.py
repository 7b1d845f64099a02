"""The weights of the loss: each term's sign, their product, and the floor below which no weight falls."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.proofreading import LENGTH, PLAIN, WORDS, FixedLogits, arbitrary, batch, draws, objective
from torch import Tensor
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.families.text.proofreading.corruption import IDENTITY, REMASK, UNMASK, Corruption, Symbols, corrupt
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.proofreading.family import ProofreadingTask, soften
from seedfast.families.text.proofreading.loss_weights import FLOOR, Answers, Weights, answer_weights, task_weights

KIND = torch.tensor([[UNMASK, UNMASK, REMASK, IDENTITY, IDENTITY, IDENTITY]])
TARGETS = torch.tensor([[2, 3, WORDS, 1, 4, 5]])


def answers(weights: Weights, doubt: float = 0.3, right: float = 0.4, kind: Tensor = KIND) -> Answers:
    """At every position: probability `doubt` of the special answer, `right` of the right word, the rest on another."""
    q_BLV = torch.full((1, 6, WORDS + 1), 1e-9)
    q_BLV[..., WORDS] = doubt
    words = TARGETS.clone()
    words[TARGETS == WORDS] = 0
    q_BLV.scatter_(2, words[..., None], right)
    q_BLV[..., 6] += 1 - doubt - right
    return Answers(weights, WORDS, kind, TARGETS, q_BLV.log())


def product(weights: Weights, **given: float) -> Tensor:
    found = answer_weights(answers(weights, **given))
    return torch.ones(1, 6) if found is None else found


def test_plain_weights_are_one_everywhere() -> None:
    assert answer_weights(answers(PLAIN)) is None
    assert bool((task_weights(KIND, PLAIN) == 1).all())


@settings(max_examples=50)
@given(st.floats(FLOOR, 10), st.floats(FLOOR, 10), st.floats(0, 0.5))
def test_a_higher_penalty_multiplies_the_cost_of_its_mistake(a: float, b: float, doubt: float) -> None:
    low, high = sorted((a, b))
    for name, kind in (("penalty_mask_correct", IDENTITY), ("penalty_keep_mask", UNMASK)):
        cheap, dear = (product(replace(PLAIN, **{name: Ramp(end=p)}), doubt=doubt) for p in (low, high))
        assert bool((cheap[kind == KIND] <= dear[kind == KIND]).all()), "monotone in the penalty"
        assert bool((cheap[kind != KIND] == 1).all()), "no other factor changes"
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


def test_doubt_costs_less_if_more_of_the_visible_text_is_wrong() -> None:
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
def test_the_reward_is_the_weight_of_a_certain_right_answer(a: float, b: float) -> None:
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


def test_task_weights_are_those_of_the_options_and_zero_without_a_target() -> None:
    weights = Weights(unmask=Ramp(end=2.0), remask=Ramp(end=3.0), identity=0.5)
    assert task_weights(torch.tensor([[0, UNMASK, REMASK, IDENTITY]]), weights).tolist() == [[0, 2, 3, 0.5]]


def test_a_mask_ratio_of_one_gives_the_weight_of_the_bound() -> None:
    """With nothing replaced, the sum over gaps is then (n/k) CE: the estimate of masked diffusion on the same gaps."""
    weights = replace(PLAIN, mask_ratio=1.0)
    gaps = torch.tensor([[UNMASK] * 2 + [IDENTITY] * 6, [UNMASK] * 8])
    found = task_weights(gaps, weights)
    assert torch.equal((found * (gaps == UNMASK)).sum(dim=1), torch.tensor([8.0, 8.0]))
    half = task_weights(gaps, replace(PLAIN, mask_ratio=0.5))
    assert 1 < float(half[0, 0]) < float(found[0, 0])


def test_sums_of_weights_are_the_same_in_any_order() -> None:
    weights = Weights(unmask=Ramp(end=1.1), remask=Ramp(end=0.3), identity=0.7, mask_ratio=0.37)
    task = objective(weights).task(batch(512), draws(512))
    assert float(task.weight_B.sum()) == sum(reversed(task.weight_B.tolist())) == float(task.weights_BL.double().sum())
    one_by_one = sum(float(w) for w in task.weights_BL.flatten().double())
    assert one_by_one == float(task.weight_B.sum())


@pytest.mark.parametrize("judged_by", ["probability", "argmax"])
@pytest.mark.parametrize("weights", [Weights(state_dependent=True, reward_correct_unmask=FLOOR, entropy=2.0)])
def test_no_weight_is_below_the_floor_and_none_has_a_gradient(judged_by: str, weights: Weights) -> None:
    built = objective(replace(weights, penalty_mask_correct=Ramp(end=FLOOR), judged_by=judged_by))  # type: ignore[arg-type]
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
    built, network = objective(weights), arbitrary(WORDS + 1)
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


def test_a_perfect_network_has_no_loss_and_doubts_every_wrong_word() -> None:
    """See docs/identities.md#oracle."""
    built = objective()
    task = built.task(batch(), draws(64))
    oracle = FixedLogits(lambda _: 60.0 * F.one_hot(task.targets_BL, WORDS + 1).float())
    task = replace(task, masked=None)
    terms = built.loss(oracle, task, {})
    found = {name: float(pair[0] / pair[1]) for name, pair in terms.diagnostics.items() if pair[1]}
    assert float(terms.total_B.detach().sum()) == pytest.approx(0, abs=1e-4)
    assert found["remask_precision"] == found["remask_recall"] == found["unmask_accuracy"] == 1
    assert found["remask_false_positives"] == found["remask_false_negatives"] == found["kept_mask"] == 0
    assert found["unmask_skill"] == WORDS


def test_a_network_that_doubts_at_random_has_the_precision_and_recall_of_chance() -> None:
    built = objective()
    task = replace(built.task(batch(4000), draws(4000)), masked=None)
    coin = draws(4000).uniform("coin", task.inputs_BL.shape[1]) < 0.37
    logits = 9.0 * F.one_hot(torch.where(coin, WORDS, 0), WORDS + 1).float()
    terms = built.loss(FixedLogits(lambda _: logits), task, {})
    found = {name: float(pair[0] / pair[1]) for name, pair in terms.diagnostics.items() if pair[1]}
    assert found["remask_precision"] == pytest.approx(found["remask_chance"], abs=0.02)
    assert found["remask_recall"] == pytest.approx(found["remask_rate"], abs=0.02)
    assert found["remask_rate"] == pytest.approx(0.37, abs=0.02)


def test_weights_change_continuously_with_the_answers() -> None:
    def change(judged_by: str) -> float:
        """The change of the loss when the doubt of a right word exceeds the word's own probability."""
        weights = replace(PLAIN, penalty_mask_correct=Ramp(end=5.0), judged_by=judged_by)  # type: ignore[arg-type]
        built = objective(weights, replaced=0.0, corruption={"guaranteed_correct": 0.9})
        task = replace(built.task(batch(1), draws(1)), masked=None)

        def total(doubt: float) -> float:
            right = F.one_hot(task.targets_BL, WORDS + 1).float()
            logits = 5 * right + doubt * F.one_hot(torch.tensor(WORDS), WORDS + 1)
            return float(built.loss(FixedLogits(lambda _: logits), task, {}).total_B.detach().sum())

        return abs(total(5 + 1e-4) - total(5 - 1e-4))

    assert Weights().judged_by == "probability"
    assert change("probability") < 0.01 < 1 < change("argmax")


def test_special_answers_out_of_reach_raise_an_alarm() -> None:
    built = objective()
    task = replace(built.task(batch(), draws(64)), masked=None)
    special = F.one_hot(torch.tensor(WORDS), WORDS + 1)
    out_of_reach = FixedLogits(lambda tokens: -60.0 * special.expand(*tokens.shape, -1))
    total, weight = built.loss(out_of_reach, task, {}).diagnostics["logit_gap"].tolist()
    limit, _ = built.measure.alarms["logit_gap"]
    assert total / weight == pytest.approx(60)
    assert limit < 60


def test_doubting_a_right_word_costs_the_product_of_its_weights() -> None:
    """A penalty of 2 with an identity weight of 3 makes 6: it replaces nothing, and a higher one never costs less."""
    costs = []
    for penalty in (0.5, 1.0, 2.0):
        weights = replace(PLAIN, identity=3.0, penalty_mask_correct=Ramp(end=penalty))
        built = objective(weights, replaced=0.0, corruption={"guaranteed_correct": 0.99})
        task = replace(built.task(batch(1), draws(1)), masked=None)
        special = F.one_hot(torch.tensor(WORDS), WORDS + 1)
        doubts = FixedLogits(lambda tokens, special=special: 50.0 * special.expand(*tokens.shape, -1))
        assert bool((task.kind_BL == IDENTITY).all())
        costs.append(float(built.loss(doubts, task, {}).total_B.detach()) / (50 * LENGTH))
    assert costs == pytest.approx([1.5, 3.0, 6.0])


def test_the_loss_is_divided_by_the_sum_of_the_weights() -> None:
    def loss(scale: float) -> tuple[float, Tensor]:
        weights = Weights(
            unmask=Ramp(end=2 * scale), remask=Ramp(end=scale), identity=3 * scale, penalty_mask_correct=Ramp(end=1.0)
        )
        network, built = arbitrary(WORDS + 1), objective(weights)
        task = built.task({**batch(), "scored": torch.arange(LENGTH).expand(64, -1) >= 5}, draws(64))
        assert not bool(task.weights_BL[:, :5].any()), "unscored tokens have no weight"
        ratio = built.loss(network, task, {}).total_B.sum() / task.weight_B.sum()
        ratio.backward()
        assert network.scale.grad is not None
        return float(ratio.detach()), network.scale.grad

    (one, slope), (four, other_slope) = loss(0.5), loss(2.0)
    assert one == pytest.approx(four, rel=1e-6)
    assert torch.allclose(slope, other_slope, rtol=1e-5)


def test_the_kinds_and_weights_of_a_corrupted_text_agree() -> None:
    symbols = Symbols(WORDS, "mask-wrong")
    tokens = batch(200)["tokens"][:, 1:]
    found = corrupt(tokens, torch.ones_like(tokens).bool(), Corruption(), symbols, draws(200))
    weights = task_weights(found.kind_BL, Weights(unmask=Ramp(end=2.0), remask=Ramp(end=4.0), identity=1.0))
    for kind, weight in ((UNMASK, 2.0), (REMASK, 4.0), (IDENTITY, 1.0)):
        assert bool((weights[found.kind_BL == kind] == weight).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unmask": Ramp(end=0.0)}, "unmask must be at least 0.01, .* it moves between 0.0 and 0.0"),
        (
            {"remask": Ramp(start=0.0, end=1.0, steps=5)},
            "remask must be at least 0.01, .* it moves between 0.0 and 1.0",
        ),
        ({"penalty_mask_correct": Ramp(end=0.0)}, "penalty_mask_correct must be at least 0.01"),
        ({"identity": 0.0}, "identity must be at least 0.01, not 0"),
        ({"reward_correct_unmask": 0.0}, "reward_correct_unmask must be at least 0.01, not 0"),
        ({"target_unmask_rate": 0.0}, r"target_unmask_rate must be in \(0, 1\], not 0"),
        ({"entropy": -1.0}, "entropy must be at least 0, not -1"),
        ({"label_smoothing": Ramp(end=2.0)}, r"label_smoothing must be in \[0, 1\], not \(2.0, 2.0\)"),
    ],
)
def test_weights_without_a_cost_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Weights(**options)  # type: ignore[arg-type]
