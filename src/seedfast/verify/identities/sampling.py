"""Samplers reproduce the distribution that the network describes, tails of 1e-8 included.

See docs/identities.md#sampler-exactness and docs/identities.md#categorical-draws.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from seedfast import keys
from seedfast.data.text.corpus import TextAssets
from seedfast.families.text import categorical
from seedfast.families.text.autoregressive import AutoregressiveGenerator
from seedfast.families.text.causal_sampler import AutoregressiveRequest
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.masked import Masked, MaskedGenerator
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.keys import Draws
from seedfast.verify.identities.check import LEAST_P_VALUE, Check, p_value, total_variation
from seedfast.verify.identities.masked import BuildGenerator
from seedfast.verify.identities.toys import Law, assets

_LAW = Law(vocabulary=4, length=4, ends=False)  # three letters; end-of-text would cut texts short
_ROWS = 12_000
Plan = Mapping[tuple[int, ...], float]
"""The probability of each assignment of steps to positions."""


def exact_sampler(build: BuildGenerator = MaskedGenerator, *, whole: bool = True) -> Check:
    """With exact conditionals and one *sampled* token a step, samples have the distribution p, whatever the order.

    With several tokens a step, they have the distribution that enumeration of the steps gives (not p, because tokens of
    one step are independent): MDLM's reverse process for "ancestral", a fixed number in each step for "random".
    whole: check several tokens a step too.
    """
    generator = build(Masked(), assets(_LAW.vocabulary, _LAW.length))
    results = {
        "random": _compare(generator, MaskedRequest(order="random"), _LAW.probabilities),
        "confidence": _compare(generator, MaskedRequest(order="confidence"), _LAW.probabilities),
    }
    if whole:
        results |= _in_parallel(generator, build(Masked(schedule="cosine"), assets(_LAW.vocabulary, _LAW.length)))
    return _verdict(results, "masked sampler")


def _in_parallel(generator: MaskedGenerator, cosine: MaskedGenerator) -> dict[str, "Result"]:
    """The comparisons with several tokens a step, under the linear and under the cosine schedule."""
    return {
        "random, 2 steps": _compare(generator, MaskedRequest(order="random", steps=2), parallel(_LAW, halves())),
        "ancestral, 6 steps": _compare(
            generator, MaskedRequest(order="ancestral", steps=6), parallel(_LAW, independent([1 / 6] * 6))
        ),
        # α = 1 - cos(π/2 (1-t)) at t = 1, 2/3, 1/3, 0: the fraction that each of three steps unmasks.
        "ancestral, 3 cosine steps": _compare(
            cosine,
            MaskedRequest(order="ancestral", steps=3),
            parallel(_LAW, independent([1 - 3**0.5 / 2, 3**0.5 / 2 - 0.5, 0.5])),
        ),
    }


def exact_generation(
    build: Callable[[TextAssets], AutoregressiveGenerator] = AutoregressiveGenerator,
) -> Check:
    """Autoregressive generation with exact conditionals has the distribution p (the chain rule)."""
    generator = build(assets(_LAW.vocabulary, _LAW.length))
    decoding = Decoding(network=_LAW.causal_network(), request=AutoregressiveRequest(), draws=_draws())
    texts = generator.fill(decoding, [_empty_canvas()] * _ROWS)
    return _verdict({"left to right": _measure(texts, _LAW.probabilities)}, "autoregressive generation")


Result = tuple[float, float, float]
"""The p-value of the χ² test, the total variation, and that of sampling noise alone."""


def _verdict(results: Mapping[str, Result], name: str) -> Check:
    detail = "; ".join(
        f"{case}: total variation {tv:.4f} (noise {noise:.4f}, χ² p = {p:.2g})"
        for case, (p, tv, noise) in results.items()
    )
    return Check("sampler-exactness", name, all(p > LEAST_P_VALUE for p, _, _ in results.values()), detail)


def _draws() -> Draws:
    return Draws(seed=0, scope="identity 7", positions_B=torch.arange(_ROWS))


def _empty_canvas() -> Canvas:
    return Canvas(torch.zeros(_LAW.length, dtype=torch.int64), torch.zeros(_LAW.length, dtype=torch.bool))


def _compare(generator: MaskedGenerator, request: MaskedRequest, probabilities_N: Tensor) -> Result:
    decoding = Decoding(network=_LAW.network(), request=request, draws=_draws())
    return _measure(generator.fill(decoding, [_empty_canvas()] * _ROWS), probabilities_N)


def _measure(texts: list[list[int]], probabilities_N: Tensor) -> Result:
    counts = Counter(map(tuple, texts))
    counts_N = torch.tensor([counts.pop(tuple(text), 0) for text in _LAW.texts.tolist()])
    if counts:
        return 0.0, 1.0, 0.0  # some texts are impossible
    return p_value(counts_N, probabilities_N), *total_variation(counts_N, probabilities_N)


def independent(shares: Sequence[float]) -> Plan:
    """Each position independently belongs to step s with probability shares[s]."""
    steps = itertools.product(range(len(shares)), repeat=_LAW.length)
    return {plan: float(torch.tensor([shares[s] for s in plan], dtype=torch.float64).prod()) for plan in steps}


def halves() -> Plan:
    """A random half of the positions first, then the others."""
    plans = [plan for plan in itertools.product(range(2), repeat=_LAW.length) if sum(plan) * 2 == _LAW.length]
    return dict.fromkeys(plans, 1 / len(plans))


def parallel(law: Law, plans: Plan) -> Tensor:
    """The probability of each text when positions are unmasked in steps, those of one step independently."""
    network, texts_NL = law.network(), law.texts

    @cache
    def step(known: tuple[bool, ...], drawn: tuple[bool, ...]) -> Tensor:
        """The probability of each text's tokens at the positions that are drawn, given those at the known ones, [N]."""
        inputs_NL = texts_NL.masked_fill(~torch.tensor(known), law.vocabulary)
        q_NL = network(inputs_NL).softmax(dim=-1).gather(2, texts_NL[..., None])[..., 0].detach()
        return torch.where(torch.tensor(drawn), q_NL, 1.0).prod(dim=1)

    total_N = torch.zeros(len(texts_NL), dtype=torch.float64)
    for plan, share in plans.items():
        probability_N = torch.full((len(texts_NL),), share, dtype=torch.float64)
        for now in set(plan):
            probability_N = probability_N * step(tuple(s < now for s in plan), tuple(s == now for s in plan))
        total_N += probability_N
    return total_N


Sampler = Callable[[Tensor, Tensor], Tensor]
"""(probabilities [V], stream positions of the draws [N]) → categories [N]."""


def keyed_draws(probabilities_V: Tensor, positions_N: Tensor) -> Tensor:
    """Draws as in the generators: one keyed 53-bit number each, and the inverse cumulative distribution."""
    draws = Draws(seed=0, scope="identity 12", positions_B=positions_N)
    return categorical.draw(probabilities_V, draws.uniform("token", 1, dtype=torch.float64)[:, 0])


def tails() -> Tensor:
    """A distribution with four likely categories and 2^20 of probability 1e-8: together they make 1 percent."""
    rare_V = torch.full((1 << 20,), 1e-8, dtype=torch.float64)
    return torch.cat([torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64) * (1 - rare_V.sum()), rare_V])


def categorical_frequencies(sampler: Sampler = keyed_draws, count: int = 1 << 20) -> Check:
    """χ² of draws from a distribution with tails of 1e-8, which float32 Gumbel-max loses (Zheng et al. 2024)."""
    probabilities_V = tails()
    drawn_N = sampler(probabilities_V, torch.arange(count))
    # The rare categories in 32 groups; each is expected some three hundred times.
    group_N = torch.where(drawn_N < 4, drawn_N, 4 + (drawn_N - 4) // (1 << 15))
    expected = torch.cat([probabilities_V[:4], probabilities_V[4:].view(32, -1).sum(dim=1)])
    counts = torch.bincount(group_N, minlength=36)
    p, rare = p_value(counts, expected), float(counts[4:].sum()) / count
    detail = (
        f"χ² p = {p:.2g} over {count} draws; categories of 1e-8 together {rare:.5f} of {float(expected[4:].sum()):.5f}"
    )
    return Check("categorical-draws", "categorical draws", p > LEAST_P_VALUE, detail)


def categorical_boundaries(
    draw: Callable[[Tensor, Tensor], Tensor] = categorical.draw,
    shape: Callable[[Tensor], Tensor] = categorical.shape,
) -> Check:
    """The category at quantile u is exact to 1e-15 at both ends of every category, and never one of probability 0.

    So every category, of probability 1e-8 or 0.5, has its share of the unit interval. And `shape` without options
    returns exactly the softmax of its logits, with a small relative error in the tails too.
    """
    p_V = torch.tensor([0, 1e-8, 0.3, 0, 1e-8, 0.2, 0.5 - 3e-8, 1e-8, 0], dtype=torch.float64)
    upper_V = p_V.cumsum(dim=0)
    possible_K = p_V.nonzero()[:, 0]
    lower_K = (upper_V - p_V)[possible_K]
    inside = [lower_K + 1e-15, (lower_K + upper_V[possible_K]) / 2, upper_V[possible_K] - 1e-15]
    right = all(torch.equal(draw(p_V.expand(len(u_K), -1), u_K), possible_K) for u_K in inside)
    # The ends themselves, the smallest and the largest possible number, and a hundred thousand random ones.
    key, positions = keys.derive(0, "identity 12"), torch.arange(100_000)
    random = keys.uniform(key, positions, 1, dtype=torch.float64)[:, 0]
    edges = torch.cat(
        [upper_V[upper_V < 0.9], torch.tensor([0.0, 2.0**-53, 1 - 2.0**-53], dtype=torch.float64), random]
    )
    possible = bool((p_V[draw(p_V.expand(len(edges), -1), edges)] > 0).all())
    shaped_V = shape(p_V.log() + 3)
    error = float((shaped_V[possible_K] / p_V[possible_K] - 1).abs().max())
    detail = (
        f"right at both ends of {len(possible_K)} categories: {right}; only what has a probability: {possible}; "
        f"probabilities relatively right to {error:.0e}"
    )
    return Check("categorical-draws", "quantiles", right and possible and error < 1e-13, detail)
