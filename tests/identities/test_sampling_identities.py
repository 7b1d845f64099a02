"""The samplers reproduce the model's distribution; twins that each distort it must fail (test_every_identity)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from seedfast import keys
from seedfast.families.text import categorical
from seedfast.families.text.autoregressive import AutoregressiveGenerator
from seedfast.families.text.categorical import draw
from seedfast.families.text.causal_sampler import AutoregressiveRequest
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.masked import MaskedGenerator
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest, Policy
from seedfast.families.text.unmask_step import Step
from seedfast.keys import Draws
from seedfast.verify.identities import sampling
from seedfast.verify.identities.check import p_value, total_variation
from seedfast.verify.identities.masked import BuildGenerator
from seedfast.verify.identities.toys import Law, all_texts


@dataclass(frozen=True, kw_only=True)
class OneNumber(Draws):
    """All positions of an example share one random number."""

    def uniform(self, stream: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return super().uniform(stream, 1, dtype=dtype).expand(-1, *shape)

    def at(self, stage: int) -> "OneNumber":
        return self


def likeliest(decoding: Decoding[Any]) -> Decoding[Any]:
    """It takes the likeliest token instead of drawing one."""
    return replace(decoding, request=replace(decoding.request, temperature=0.0))


def cool(decoding: Decoding[Any]) -> Decoding[Any]:
    """Its temperature is a little too low."""
    return replace(decoding, request=replace(decoding.request, temperature=0.9))


def shares_numbers(decoding: Decoding[Any]) -> Decoding[Any]:
    """It draws all tokens of a text with the same number, in all steps."""
    draws = decoding.draws
    return replace(decoding, draws=OneNumber(seed=draws.seed, scope=draws.scope, positions_B=draws.positions_B))


def hurries(decoding: Decoding[Any]) -> Decoding[Any]:
    """It unmasks all positions at once, whatever the request."""
    return replace(decoding, request=replace(decoding.request, steps=1))


Change = Callable[[Decoding[Any]], Decoding[Any]]


def changed(change: Change) -> BuildGenerator:
    """The generator of masked diffusion with another decoding than it is given."""

    class Changed(MaskedGenerator):
        def fill(self, decoding: Decoding[MaskedRequest], canvases: list[Canvas]) -> list[list[int]]:
            return super().fill(change(decoding), canvases)

    return Changed


class ConfidentOfItsDraw(Policy):
    """It draws tokens everywhere and prefers those whose own probability is highest: likely tokens win too often."""

    def priority(self, step: Step) -> Tensor:
        open_BL = step.page.open_BL
        if self.request.order != "confidence":
            return super().priority(step)
        probabilities_NV = step.probabilities(open_BL.flatten().nonzero().squeeze(1))
        u_N = step.draws.uniform("token", open_BL.shape[1], dtype=torch.float64)[open_BL]
        drawn_N1 = draw(probabilities_NV, u_N).unsqueeze(1)
        return torch.zeros(open_BL.shape).double().masked_scatter(open_BL, probabilities_NV.gather(1, drawn_N1))


class ForgetsTimes(Policy):
    """In the reverse process, it draws new times of the positions in every step."""

    def select(self, step: Step) -> Tensor:
        return super().select(replace(step, text_draws=step.draws))


class IgnoresItsSchedule(Policy):
    """It unmasks the same number of tokens in every step, whatever the noise schedule."""

    def masked(self, progress: float) -> float:
        return 1 - progress


def with_policy(policy: type[Policy]) -> BuildGenerator:
    """The generator of masked diffusion with this policy."""

    class Changed(MaskedGenerator):
        def policy(self, request: MaskedRequest) -> Policy:
            return policy(request, self.schedule)

    return Changed


@pytest.mark.parametrize("change", [likeliest, cool, shares_numbers, hurries])
def test_twins_that_distort_every_order_fail(change: Change) -> None:
    check = sampling.exact_sampler(changed(change), whole=False)
    assert not check.holds
    assert all(p < 1e-5 for p in p_values(check.detail))


def p_values(detail: str) -> list[float]:
    return [float(part.split("χ² p = ")[1].rstrip(")")) for part in detail.split("; ")]


@pytest.mark.parametrize(("twin", "cases"), [(ConfidentOfItsDraw, [1]), (ForgetsTimes, [3]), (IgnoresItsSchedule, [4])])
def test_twins_that_distort_one_order_fail_for_that_order(twin: type[Policy], cases: list[int]) -> None:
    check = sampling.exact_sampler(with_policy(twin))
    assert not check.holds
    assert [case for case, p in enumerate(p_values(check.detail)) if p < 1e-5] == cases


@pytest.mark.parametrize("change", [likeliest, shares_numbers])
def test_twins_that_distort_generation_fail(change: Change) -> None:
    class Changed(AutoregressiveGenerator):
        def fill(self, decoding: Decoding[AutoregressiveRequest], canvases: list[Canvas]) -> list[list[int]]:
            return super().fill(change(decoding), canvases)

    assert not sampling.exact_generation(Changed).holds


def test_many_steps_of_the_reverse_process_approach_the_distribution() -> None:
    """The enumerated reference itself: with two, four, six steps it approaches p."""
    law = Law(vocabulary=4, length=4, ends=False)
    distances = [
        float((sampling.parallel(law, sampling.independent([1 / n] * n)) - law.probabilities).abs().sum() / 2)
        for n in (1, 2, 4, 6)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[3] < distances[0] / 4
    assert float(sampling.parallel(law, sampling.halves()).sum()) == pytest.approx(1, abs=1e-12)


def test_the_exact_conditionals_are_exact() -> None:
    """Along the chain rule they multiply to the law, in any order and in both networks."""
    law = Law(vocabulary=4, length=4, ends=False)
    texts_NL = law.texts
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        product_N = torch.ones(len(texts_NL), dtype=torch.float64)
        for j, position in enumerate(order):
            inputs_NL = texts_NL.clone()
            inputs_NL[:, order[j:]] = law.vocabulary
            q_NV = law.network()(inputs_NL)[:, position].softmax(dim=-1)
            product_N *= q_NV.gather(1, texts_NL[:, position, None])[:, 0].detach()
        assert torch.allclose(product_N, law.probabilities, rtol=1e-12)
    read_NL = torch.cat([torch.full((len(texts_NL), 1), 3), texts_NL[:, :-1]], dim=1)
    q_NLV = law.causal_network()(read_NL).softmax(dim=-1).detach()
    product_N = q_NLV.gather(2, texts_NL[..., None])[..., 0].prod(dim=1)
    assert torch.allclose(product_N, law.probabilities, rtol=1e-12)
    assert torch.equal(texts_NL, all_texts(3, 4))


def gumbel_max_in_float32(probabilities_V: Tensor, positions_N: Tensor) -> Tensor:
    """argmax of log p + G with G = -log(-log u) and u of 24 bits, as it is usually written.

    A million numbers per draw are too many. The rare categories are equally likely, so the largest of their numbers is
    drawn at once by its quantile function and rounded to the same grid.
    """
    head, rare = probabilities_V[:4], probabilities_V[4:]
    u_N5 = keys.uniform(7, positions_N, 6, dtype=torch.float64)
    u_N5[:, 4] = u_N5[:, 4] ** (1 / len(rare))
    grid_N5 = ((u_N5[:, :5] * 2**24).floor() / 2**24).clamp(min=2.0**-24).float()
    log_p_5 = torch.cat([head, rare[:1]]).log().float()
    winner_N = (log_p_5 - (-grid_N5.log()).log()).argmax(dim=1)
    return torch.where(winner_N < 4, winner_N, 4 + (u_N5[:, 5] * len(rare)).long())


def test_twin_with_gumbel_max_in_float32_loses_the_tails() -> None:
    check = sampling.categorical_frequencies(gumbel_max_in_float32)
    assert not check.holds
    drawn = gumbel_max_in_float32(sampling.tails(), torch.arange(1 << 18))
    assert float((drawn >= 4).double().mean()) < 0.005  # they should have one percent


def test_the_same_gumbel_max_is_right_without_tails() -> None:
    head = torch.tensor([0.4, 0.3, 0.2, 0.05], dtype=torch.float64)
    drawn = gumbel_max_in_float32(torch.cat([head, torch.tensor([0.05]).double()]), torch.arange(1 << 18))
    expected = torch.tensor([0.4, 0.3, 0.2, 0.05, 0.05], dtype=torch.float64)
    assert p_value(torch.bincount(drawn, minlength=5), expected) > 1e-5


def _float32(probabilities: Tensor, u: Tensor) -> Tensor:
    return categorical.draw(probabilities.float(), u.float()).clamp(max=probabilities.shape[-1] - 1)


def _left(probabilities: Tensor, u: Tensor) -> Tensor:
    """It takes the lower category at a boundary, hence an impossible first category at u = 0."""
    return torch.searchsorted(probabilities.cumsum(dim=-1), u.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("twin", [_float32, _left])
def test_twins_that_miss_a_boundary_fail(twin: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert not sampling.categorical_boundaries(twin).holds


def test_twin_with_a_softmax_in_float32_fails() -> None:
    assert not sampling.categorical_boundaries(shape=lambda logits: logits.float().softmax(dim=-1).double()).holds


def test_the_chi_square_test_is_the_textbook_s() -> None:
    from scipy import stats

    counts, probabilities = torch.tensor([18, 25, 31, 26]), torch.tensor([0.25] * 4)
    assert p_value(counts, probabilities) == pytest.approx(stats.chisquare(counts.numpy()).pvalue, rel=1e-9)
    assert p_value(torch.tensor([5, 5, 1]), torch.tensor([0.5, 0.5, 0.0])) == 0
    measured, noise = total_variation(torch.tensor([60, 40]), torch.tensor([0.5, 0.5]))
    assert measured == pytest.approx(0.1)
    assert noise == pytest.approx(math.sqrt(2 / math.pi * 0.25 / 100), rel=1e-6)
