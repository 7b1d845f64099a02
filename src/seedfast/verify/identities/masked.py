"""The masked diffusion bound (Sahoo et al. 2024, MDLM), by enumeration of all masks of tiny texts.

The objective's own `task` and `loss` receive every number that they could draw, so the checks compare the exact
expectation of what training and validation compute. See docs/identities.md#subs and the five headings after it.
"""

import itertools
import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from seedfast.data.text.corpus import TextAssets
from seedfast.families.text import masked
from seedfast.families.text.autoregressive import Autoregressive, AutoregressiveObjective
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.mask_counts import CountLaw
from seedfast.families.text.masked import Estimator, Masked, MaskedGenerator, MaskedObjective
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest, alpha
from seedfast.keys import Draws
from seedfast.verify.identities.check import ROUNDING, Check, relative_error
from seedfast.verify.identities.sources import Answer, Markov
from seedfast.verify.identities.toys import (
    Law,
    ToyTable,
    all_subsets,
    all_texts,
    arbitrary_history,
    arbitrary_table,
    assets,
    chosen,
    numbers,
    windows_of,
)

Build = Callable[[Masked, TextAssets], MaskedObjective]
BuildGenerator = Callable[[Masked, TextAssets], MaskedGenerator]
Schedule = Literal["linear", "cosine", "polynomial"]
SCHEDULES: tuple[Schedule, ...] = ("linear", "cosine", "polynomial")
COUNTED: tuple[CountLaw, ...] = get_args(CountLaw)
VOCABULARY, LENGTH = 3, 4
_NODES = 32  # Gauss-Legendre: exact for polynomials up to degree 63, and to rounding for the cosine schedule
_ALMOST_ONE = 1 - 2.0**-53


@torch.no_grad()
def by_count(
    objective: MaskedObjective, network: nn.Module, texts_NL: Tensor, scored_L: Tensor | None = None
) -> Tensor:
    """The exact expectation of the estimate of each text, over all numbers of masked tokens and all their orders."""
    length = texts_NL.shape[1]
    scored = length if scored_L is None else int(scored_L.sum())
    edges_E = _quantiles(objective, length, scored, scored_L)
    u_U, share_U = (edges_E[:-1] + edges_E[1:]) / 2, edges_E.diff()
    orders_PL = torch.tensor(list(itertools.permutations(range(length))))
    times_R = u_U.repeat_interleave(len(orders_PL))
    masks_RL = ((orders_PL + 0.5) / length).repeat(len(u_U), 1)
    batch = windows_of(texts_NL.repeat_interleave(len(times_R), dim=0), objective.end_of_text, scored_L)
    task = objective.task(batch, chosen(times_R.repeat(len(texts_NL)), masks_RL.repeat(len(texts_NL), 1)))
    total_NUP = objective.loss(network, task, {}).total_B.double().view(len(texts_NL), len(u_U), -1)
    return total_NUP.mean(dim=2) @ share_U


def _quantiles(objective: MaskedObjective, length: int, scored: int, scored_L: Tensor | None) -> Tensor:
    """0, then the quantiles up to which at most 1, 2, …, n-1 tokens are masked, found by bisection, then 1."""
    texts_KL = torch.zeros(scored - 1, length, dtype=torch.int64)
    batch, order_KL = windows_of(texts_KL, objective.end_of_text, scored_L), torch.full(texts_KL.shape, 0.5).double()
    low_K, high_K = torch.zeros(scored - 1).double(), torch.ones(scored - 1).double()
    for _ in range(54):
        middle_K = (low_K + high_K) / 2
        count_K = objective.task(batch, chosen(middle_K, order_KL)).masked_BL.sum(dim=1)
        is_below_K = count_K <= torch.arange(1, scored)
        low_K, high_K = torch.where(is_below_K, middle_K, low_K), torch.where(is_below_K, high_K, middle_K)
    return torch.cat([torch.zeros(1).double(), low_K, torch.ones(1).double()])


def mask_probability(objective: MaskedObjective, u_U: Tensor) -> Tensor:
    """The probability with which the objective masks a token, for each number that its time may be drawn from.

    Found by bisection of the objective's decision: the largest number drawn for a position for which it is masked.
    """
    batch = windows_of(torch.zeros(len(u_U), 1, dtype=torch.int64), objective.end_of_text)
    low_U, high_U = torch.zeros_like(u_U), torch.ones_like(u_U)
    for _ in range(54):
        middle_U = (low_U + high_U) / 2
        masked_U = objective.task(batch, chosen(u_U, middle_U[:, None])).masked_BL[:, 0]
        low_U, high_U = torch.where(masked_U, middle_U, low_U), torch.where(masked_U, high_U, middle_U)
    return low_U


@torch.no_grad()
def continuous(
    objective: MaskedObjective, network: nn.Module, texts_NL: Tensor, scored_L: Tensor | None = None
) -> Tensor:
    """The exact expectation of the continuous-time estimate of each text: masks by enumeration, time by quadrature."""
    length = texts_NL.shape[1]
    nodes, shares = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(_NODES))
    u_U, share_U = (nodes + 1) / 2, shares / 2
    masked_U = mask_probability(objective, u_U)
    sets_SL = all_subsets(length)  # of positions whose number is low: also of those that are not scored
    size_S = sets_SL.sum(dim=1)
    probability_US = masked_U[:, None] ** size_S * (1 - masked_U[:, None]) ** (length - size_S)
    masks_RL = torch.where(sets_SL, 0.0, _ALMOST_ONE).double().repeat(_NODES, 1)
    times_R = u_U.repeat_interleave(len(sets_SL))
    rows = len(times_R)
    batch = windows_of(texts_NL.repeat_interleave(rows, dim=0), objective.end_of_text, scored_L)
    task = objective.task(batch, chosen(times_R.repeat(len(texts_NL)), masks_RL.repeat(len(texts_NL), 1)))
    total_NUS = objective.loss(network, task, {}).total_B.double().view(-1, _NODES, len(sets_SL))
    return torch.einsum("nus,us,u->n", total_NUS, probability_US, share_U)


ESTIMATORS: dict[Estimator, Callable[[MaskedObjective, nn.Module, Tensor, Tensor | None], Tensor]] = {
    "root-k": by_count,
    "fixed-k": by_count,
    "continuous": continuous,
}
"""The exact expectation of each estimator."""


@torch.no_grad()
def any_order(network: nn.Module, mask: int, texts_NL: Tensor, scored: tuple[int, ...]) -> Tensor:
    """E_π Σ_j -log q(x_{π_j} | x_{π_<j}) of each text by its definition: all orders of the scored positions."""
    return -any_order_log_probs(network, mask, texts_NL, scored).mean(dim=0)


@torch.no_grad()
def any_order_log_probs(network: nn.Module, mask: int, texts_NL: Tensor, scored: tuple[int, ...]) -> Tensor:
    """Σ_j log q(x_{π_j} | x_{π_<j}) of each text along each of the O orders π of the scored positions, [O, N]."""
    orders = list(itertools.permutations(scored))
    log_p_ON = torch.zeros(len(orders), len(texts_NL), dtype=torch.float64)
    for order, log_p_N in zip(orders, log_p_ON, strict=True):
        for j, position in enumerate(order):
            inputs_NL = texts_NL.clone()
            inputs_NL[:, list(order[j:])] = mask
            log_q_NV = network(inputs_NL)[:, position].double().log_softmax(dim=-1)
            log_p_N += log_q_NV.gather(1, texts_NL[:, position, None])[:, 0]
    return log_p_ON


def subs(build: Build = MaskedObjective, generator: BuildGenerator = MaskedGenerator) -> Check:
    """p([MASK]) = 0 exactly; visible tokens are copied, cost exactly 0 and are never changed by a sampler."""
    home = assets(VOCABULARY, LENGTH)
    objective = build(Masked(), home)
    parts = {
        "p([MASK]) = 0": _ignores_mask_logit(objective),
        "visible tokens are copied and cost 0": _visible_cost_nothing(objective),
        "nothing masked costs 0": _nothing_masked_costs_nothing(build(Masked(estimator="continuous"), home)),
        "samplers write no [MASK] and change no fixed token": _sampler_keeps(generator(Masked(), home)),
    }
    failed = [name for name, holds in parts.items() if not holds]
    return Check("subs", "SUBS", not failed, f"NOT {', NOT '.join(failed)}" if failed else "; ".join(parts))


def _eager(vocabulary: int) -> ToyTable:
    """A network with an output for [MASK], like one with tied embeddings, that nearly always chooses it."""
    table = arbitrary_table(vocabulary, LENGTH).logits_MLV.detach()
    return ToyTable(nn.functional.pad(table, (0, 1), value=30.0), vocabulary + 1)


def _ignores_mask_logit(objective: MaskedObjective) -> bool:
    texts_NL = all_texts(VOCABULARY, LENGTH)
    draws = Draws(seed=0, scope="identity 1", positions_B=torch.arange(len(texts_NL)), group=9)
    task = objective.task(windows_of(texts_NL, objective.end_of_text), draws)
    totals = [
        objective.loss(network, task, {}).total_B
        for network in (_eager(VOCABULARY), arbitrary_table(VOCABULARY, LENGTH))
    ]
    return torch.equal(*totals)


def _visible_cost_nothing(objective: MaskedObjective) -> bool:
    texts_NL, scored_L = all_texts(VOCABULARY, LENGTH), torch.tensor([True, False, True, True])
    draws = Draws(seed=0, scope="identity 1", positions_B=torch.arange(len(texts_NL)), group=9)
    task = objective.task(windows_of(texts_NL, objective.end_of_text, scored_L), draws)
    logits_NLV = numbers("logits", len(texts_NL), LENGTH, VOCABULARY).requires_grad_()
    (slope_NLV,) = torch.autograd.grad(objective.loss(Answer(lambda _: logits_NLV), task, {}).total_B.sum(), logits_NLV)
    hidden_NL = task.inputs_BL == objective.mask
    counted_NL = (slope_NLV != 0).any(dim=-1)
    copied = torch.equal(task.inputs_BL[~hidden_NL], texts_NL[~hidden_NL])
    return torch.equal(counted_NL, hidden_NL) and copied and not bool((hidden_NL & ~scored_L).any())


def _nothing_masked_costs_nothing(objective: MaskedObjective) -> bool:
    texts_NL = all_texts(VOCABULARY, LENGTH)
    draws = chosen(torch.full((len(texts_NL),), 0.5).double(), torch.full(texts_NL.shape, _ALMOST_ONE).double())
    task = objective.task(windows_of(texts_NL, objective.end_of_text), draws)
    total_N = objective.loss(arbitrary_table(VOCABULARY, LENGTH), task, {}).total_B
    return bool((total_N == 0).all()) and torch.equal(task.inputs_BL, texts_NL)


def _sampler_keeps(generator: MaskedGenerator) -> bool:
    fixed_L = torch.tensor([True, False, True, False])
    canvas = Canvas(torch.tensor([1, 0, 0, 0]), fixed_L)
    draws = Draws(seed=0, scope="identity 1", positions_B=torch.arange(100))
    for order in ("random", "confidence", "ancestral"):
        for steps in (None, 1, 3):
            request = MaskedRequest(order=order, steps=steps)
            decoding = Decoding(network=_eager(VOCABULARY), request=request, draws=draws)
            filled = generator.fill(decoding, [canvas] * 100)
            if any(len(text) != LENGTH for text in filled):
                return False
            written_BL = torch.tensor(filled)
            kept = torch.equal(written_BL[:, fixed_L], canvas.tokens_L[fixed_L].expand(100, -1))
            if not kept or int(written_BL.max()) >= VOCABULARY:
                return False
    return True


def nelbo_three_ways(build: Build = MaskedObjective) -> Check:
    """∫₀¹ (1/t) E_{S~Bernoulli(t)} CE dt = E_{k~q} 1/(k q(k)) E_{|S|=k} CE = the any-order bound, for any network.

    Checked for every text with an inconsistent network, and for windows in which not every token is scored.
    """
    network, texts_NL = arbitrary_table(VOCABULARY, LENGTH), all_texts(VOCABULARY, LENGTH)
    home, some_L = assets(VOCABULARY, LENGTH), torch.tensor([False, True, True, False])
    by_order_N = any_order(network, VOCABULARY, texts_NL, tuple(range(LENGTH)))
    some_N = any_order(network, VOCABULARY, texts_NL, (1, 2))
    means, difference = [], 0.0
    for estimator, expectation in ESTIMATORS.items():
        objective = build(Masked(estimator=estimator), home)
        whole_N = expectation(objective, network, texts_NL, None)
        means.append(f"{float(whole_N.mean()):.6f}")
        difference = max(difference, relative_error(whole_N, by_order_N))
        difference = max(difference, relative_error(expectation(objective, network, texts_NL, some_L), some_N))
    return Check(
        "nelbo-forms",
        "NELBO three ways",
        difference < ROUNDING,
        f"{' = '.join([*means, f'{float(by_order_N.mean()):.6f}'])} nats ({', '.join(ESTIMATORS)}, any order; "
        f"difference {difference:.0e})",
    )


def schedule_invariance(
    build: Build = MaskedObjective,
    alpha: Callable[[str, Tensor], Tensor] = alpha,
    weight: Callable[[str, Tensor], Tensor] = masked.weight,
) -> Check:
    """With the weight -α'/(1-α), every noise schedule α has the same NELBO (Sahoo et al. 2024, section 3.5)."""
    network, texts_NL = arbitrary_table(VOCABULARY, LENGTH), all_texts(VOCABULARY, LENGTH)
    means, difference, derivative = [], 0.0, 0.0
    expected_N = any_order(network, VOCABULARY, texts_NL, tuple(range(LENGTH)))
    for schedule in SCHEDULES:
        options = Masked(estimator="continuous", schedule=schedule)
        found_N = continuous(build(options, assets(VOCABULARY, LENGTH)), network, texts_NL)
        means.append(f"{float(found_N.mean()):.6f} ({schedule})")
        difference = max(difference, relative_error(found_N, expected_N))
        t_T = (torch.arange(1, 201, dtype=torch.float64) / 201).requires_grad_()
        (slope_T,) = torch.autograd.grad(alpha(schedule, t_T).sum(), t_T)
        derivative = max(derivative, relative_error(weight(schedule, t_T), -slope_T / (1 - alpha(schedule, t_T))))
    holds = difference < ROUNDING and derivative < 1e-12
    detail = f"{' = '.join(means)} nats (difference {difference:.0e}); weight = -α'/(1-α) (difference {derivative:.0e})"
    return Check("schedule-invariance", "schedule invariance", holds, detail)


def tightness(build: Build = MaskedObjective) -> Check:
    """With the exact conditionals of a known p, the NELBO of *every* text is -log p."""
    law = Law(VOCABULARY, LENGTH)
    exact_N = -law.probabilities.log()
    difference = 0.0
    for estimator, expectation in ESTIMATORS.items():
        objective = build(Masked(estimator=estimator), assets(VOCABULARY, LENGTH))
        difference = max(difference, relative_error(expectation(objective, law.network(), law.texts, None), exact_N))
    detail = f"NELBO = -log p for each of {len(exact_N)} texts (largest difference {difference:.0e})"
    return Check("tightness", "tightness", difference < ROUNDING, detail)


def uniform_network(
    build: Build = MaskedObjective,
    autoregressive: Callable[[Autoregressive, TextAssets], AutoregressiveObjective] = AutoregressiveObjective,
) -> Check:
    """The uniform network scores exactly L·log V in every estimator, and with fixed k in every single draw."""
    exact, texts_NL = LENGTH * math.log(VOCABULARY), all_texts(VOCABULARY, LENGTH)
    network = arbitrary_table(VOCABULARY, LENGTH)
    nn.init.zeros_(network.logits_MLV)
    home = assets(VOCABULARY, LENGTH)
    found: dict[str, Tensor] = {
        name: by_count(build(Masked(estimator=name), home), network, texts_NL) for name in COUNTED
    }
    for schedule in SCHEDULES:
        found[schedule] = continuous(build(Masked(estimator="continuous", schedule=schedule), home), network, texts_NL)
    objective = build(Masked(estimator="fixed-k"), home)  # whose every draw is exact
    draws = Draws(seed=0, scope="identity 5", positions_B=torch.arange(len(texts_NL)))
    task = objective.task(windows_of(texts_NL, objective.end_of_text), draws)
    found["one draw"] = objective.loss(network, task, {}).total_B
    history = arbitrary_history(VOCABULARY, LENGTH)
    nn.init.zeros_(history.logits_MV)
    causal = autoregressive(Autoregressive(), home)
    found["autoregressive"] = causal.loss(
        history, causal.task(windows_of(texts_NL, causal.end_of_text), draws), {}
    ).total_B
    difference = max(relative_error(each, exact) for each in found.values())
    detail = f"{exact:.6f} = L·log V in {', '.join(found)} (largest difference {difference:.0e})"
    return Check("uniform-network", "uniform network", difference < ROUNDING, detail)


def loss_variance(build: Build = MaskedObjective, length: int = 16, batch: int = 32, batches: int = 200) -> Check:
    """At equal cost, the loss of uniform k stratified over the batch deviates far less than that of iid 1/t weighting.

    The ratio depends on the text: for the exact models of random chains of five symbols, 0.16 at 1.57 nats a token
    (nearly uniform), 0.31 at 1.45, 0.47 at 1.12 (this one), 0.66 at 0.80. The second moment of 1/t weighting is
    infinite (rare tasks of huge weight), so these ratios fall slowly with the number of batches.
    """
    source = Markov()
    stream = torch.from_numpy(source.tokens(batch * length, length).astype(np.int64))
    texts_NL = stream[1:].view(batch, length).repeat(batches, 1)
    network, home = source.bidirectional(), assets(source.vocabulary, length)
    positions = torch.arange(batch * batches)

    def deviation(options: Masked, group: int) -> float:
        objective = build(options, home)
        draws = Draws(seed=0, scope="identity 6", positions_B=positions, group=group)
        task = objective.task(windows_of(texts_NL, objective.end_of_text), draws)
        return float(objective.loss(network, task, {}).total_B.double().view(batches, batch).mean(dim=1).std()) / length

    ours, usual = deviation(Masked(estimator="fixed-k"), batch), deviation(Masked(estimator="continuous"), 1)
    detail = f"{ours:.4f} nats per token against {usual:.4f} of iid 1/t weighting: {ours / usual:.2f} of it"
    return Check("estimator-variance", "loss deviation", ours < 0.6 * usual, detail)


def gradient_variance(build: Build = MaskedObjective, length: int = 64, texts: int = 2000) -> Check:
    """The gradient of a text deviates less with q(k) ∝ 1/√k than with k uniform.

    It is the gradient of one bias of the logits that all positions share, in expectation zero for this exact network.
    If tokens were independent and alike, the ratio would be (Σ 1/√k) / √(n Σ 1/k), 0.84 for 64 tokens.
    """
    source = Markov()
    stream = torch.from_numpy(source.tokens(texts * length, length).astype(np.int64))
    texts_NL = stream[1:].view(texts, length)
    exact, home = source.bidirectional(), assets(source.vocabulary, length)

    def deviation(options: Masked) -> float:
        """√E|g|² of a text's loss per token."""
        bias_NV = torch.zeros(texts, source.vocabulary, requires_grad=True)
        network = Answer(lambda tokens_NL: exact(tokens_NL) + bias_NV[:, None])
        objective = build(options, home)
        draws = Draws(seed=0, scope="identity 6", positions_B=torch.arange(texts), group=texts)
        task = objective.task(windows_of(texts_NL, objective.end_of_text), draws)
        (slope_NV,) = torch.autograd.grad(objective.loss(network, task, {}).total_B.sum(), bias_NV)
        return float(slope_NV.double().square().sum(dim=1).mean().sqrt()) / length

    ours, uniform = deviation(Masked()), deviation(Masked(estimator="fixed-k"))
    detail = f"{ours:.4f} with q(k) ∝ 1/√k against {uniform:.4f} with k uniform: {ours / uniform:.2f} of it"
    return Check("estimator-variance", "gradient deviation", ours < 0.95 * uniform, detail)
