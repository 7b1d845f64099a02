"""The likelihood of unmasking policies and the bracket, and broken twins that each fail an identity."""

import math
from dataclasses import replace

import pytest
import torch
from tests.identities.test_masked_identities import Unweighted
from torch import Tensor

from seedfast.families.text.block_diffusion import BlockGenerator
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.masked import MaskedGenerator
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest, Policy
from seedfast.families.text.unmask_step import Step
from seedfast.verify.identities import bracket


class LooksAhead(Policy):
    """Positions whose own token is likely come first: the order depends on tokens that are not visible."""

    def priority(self, step: Step) -> Tensor:
        given, open_BL = step.given, step.page.open_BL
        if given is None or self.request.order == "random":
            return super().priority(step)

        def own(where_N: Tensor) -> Tensor:
            q_NV = step.probabilities(where_N)
            return q_NV.gather(1, given(q_NV, where_N)[:, None])[:, 0]

        return torch.zeros(open_BL.shape, dtype=torch.float64).masked_scatter(open_BL, step.at(open_BL, own))


class OwnConfidence(MaskedGenerator):
    """Its order looks ahead."""

    def policy(self, request: MaskedRequest) -> Policy:
        return LooksAhead(request, self.schedule)


class ScoresUnshaped(MaskedGenerator):
    """It scores texts as if there were no temperature, but draws with it."""

    def fill(self, decoding: Decoding[MaskedRequest], canvases: list[Canvas]) -> list[list[int]]:
        if decoding.forced:
            decoding = replace(decoding, request=replace(decoding.request, temperature=1.0))
        return super().fill(decoding, canvases)


class ForgetsBlocks(BlockGenerator):
    """It records each block as the first one, so that only the last block counts."""

    def _recorded(self, decoding, record, written, canvases):  # type: ignore[no-untyped-def]
        return super()._recorded(decoding, record, [[] for _ in written], canvases)


class RecordsTwice(MaskedGenerator):
    """It draws with the numbers of one text and is scored in another number of steps."""

    def fill(self, decoding: Decoding[MaskedRequest], canvases: list[Canvas]) -> list[list[int]]:
        steps = 1 if decoding.forced else decoding.request.steps
        return super().fill(replace(decoding, request=replace(decoding.request, steps=steps)), canvases)


@pytest.mark.parametrize("twin", [OwnConfidence, ScoresUnshaped])
def test_a_policy_that_is_not_the_samplers_fails(twin: type[MaskedGenerator]) -> None:
    assert not bracket.deployed_likelihood(twin).holds


def test_blocks_that_are_not_counted_fail() -> None:
    assert not bracket.deployed_blocks(ForgetsBlocks).holds


def test_what_samplers_record_of_their_tokens_is_the_likelihood_of_the_text() -> None:
    assert not bracket.explained(RecordsTwice).holds


def of_the_same_draws(log_p_RP: Tensor) -> Tensor:
    """log c with the draw itself among its draws."""
    return (log_p_RP.logsumexp(dim=0) - math.log(len(log_p_RP))).expand_as(log_p_RP)


def test_a_bound_that_chooses_c_on_its_own_draws_lies_above_the_likelihood() -> None:
    check = bracket.inside(reference=of_the_same_draws)
    assert not check.holds
    assert "inside in 0 of 100" in check.detail


def test_a_bound_that_lacks_its_weight_lies_below_the_likelihood() -> None:
    assert not bracket.inside(build=Unweighted).holds
