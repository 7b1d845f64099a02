"""Remasking (ReMDM): the share of hidden tokens stays that of the schedule, and independent tokens keep their law."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from tests.helpers.proofreading import Chosen
from torch import Tensor, nn

from seedfast.errors import UserError
from seedfast.families.text.masked import Masked, MaskedDiffusion
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_sampler import MaskedRequest
from seedfast.keys import Draws
from seedfast.verify.identities.check import p_value
from seedfast.verify.identities.toys import assets

WORDS, LENGTH, ROWS = 4, 16, 3000
LAW = torch.tensor([0.5, 0.3, 0.2])
Show = Callable[[int, Sequence[int], Sequence[bool]], None]


class Careless(MaskedDiffusion):
    """It hides written tokens, but writes no more than without."""

    def _share(self, request: MaskedRequest, step: int) -> float:
        before, after = (self._hidden(request, min(1.0, at / 5)) for at in (step, step + 1))
        return 1 - after / before


def independent(tokens_BL: Tensor) -> Tensor:
    """Every token is drawn from one law, whatever stands beside it; the end of a text never comes."""
    return torch.cat([LAW.log(), torch.tensor([-torch.inf])]).expand(*tokens_BL.shape, -1)


def hidden_after_each_step(family: MaskedDiffusion, request: MaskedRequest) -> tuple[list[float], list[list[int]]]:
    shares = torch.zeros(5)
    seen = [0] * ROWS

    def show(row: int, tokens: Sequence[int], is_open: Sequence[bool]) -> None:
        shares[seen[row]] += sum(is_open) / LENGTH / ROWS
        seen[row] += 1

    canvas = Canvas(torch.zeros(LENGTH, dtype=torch.int64), torch.zeros(LENGTH, dtype=torch.bool))
    draws = Draws(seed=1, scope="remdm", positions_B=torch.arange(ROWS))
    texts = family.fill(Chosen(independent), [canvas] * ROWS, request, draws, show)
    return shares.tolist(), texts


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(("eta", "rule"), [(0.0, "rescale"), (0.5, "rescale"), (1.0, "rescale"), (0.2, "cap")])
def test_remasking_keeps_the_schedule_s_share_hidden(schedule: str, eta: float, rule: str) -> None:
    family = MaskedDiffusion(Masked(schedule=schedule), assets(WORDS, LENGTH))  # type: ignore[arg-type]
    request = MaskedRequest(steps=5, order="ancestral", remdm=eta, remdm_rule=rule)  # type: ignore[arg-type]
    shares, texts = hidden_after_each_step(family, request)
    t = [1 - (step + 1) / 5 for step in range(5)]
    expected = t if schedule == "linear" else [math.cos(math.pi / 2 * (1 - u)) for u in t]
    assert shares == pytest.approx(expected, abs=0.01)
    assert shares[-1] == 0
    counts = torch.bincount(torch.tensor(texts).flatten(), minlength=WORDS)
    assert p_value(counts[:3], LAW) > 1e-5
    assert counts[3] == 0


def test_twin_remasking_without_writing_more_hides_too_much() -> None:
    family = Careless(Masked(), assets(WORDS, LENGTH))
    shares, _ = hidden_after_each_step(family, MaskedRequest(steps=5, order="ancestral", remdm=0.5))
    assert shares[2] > 0.4 + 0.05


def test_remasking_mends_what_a_network_comes_to_regret() -> None:
    """Once the network sees anything it wants only token 1: what was written before is mended by remasking alone."""

    def regrets(tokens_BL: Tensor) -> Tensor:
        sees = (tokens_BL < WORDS).any(dim=1)[:, None, None]
        sure = torch.tensor([-torch.inf, 0.0, -torch.inf, -torch.inf])
        even = torch.tensor([0.0, 0.0, 0.0, -torch.inf])
        return torch.where(sees, sure, even).expand(*tokens_BL.shape, -1)

    family = MaskedDiffusion(Masked(), assets(WORDS, LENGTH))
    canvas = Canvas(torch.zeros(LENGTH, dtype=torch.int64), torch.zeros(LENGTH, dtype=torch.bool))
    draws = Draws(seed=1, scope="remdm", positions_B=torch.arange(500))

    def wrong(eta: float) -> float:
        request = MaskedRequest(steps=8, order="ancestral", remdm=eta)
        texts = torch.tensor(family.fill(Chosen(regrets), [canvas] * 500, request, draws, None))
        return float((texts != 1).double().mean())

    assert wrong(1.0) < wrong(0.5) < wrong(0.0)


class Counting(nn.Module):
    """Counts how often the network is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, tokens_BL: Tensor, **_: object) -> Tensor:
        self.calls += 1
        return independent(tokens_BL)


def test_a_step_is_one_evaluation_of_the_network() -> None:
    family, network = MaskedDiffusion(Masked(), assets(WORDS, LENGTH)), Counting()
    draws = Draws(seed=1, scope="s", positions_B=torch.arange(2))
    for request in (MaskedRequest(num=2, steps=7), MaskedRequest(num=2, steps=7, order="ancestral", remdm=0.5)):
        network.calls = 0
        family.sample(network, request, draws, {})
        assert network.calls == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remdm": 0.5}, "goes with --order ancestral"),
        ({"remdm": 0.5, "order": "ancestral"}, "a number of --steps"),
        ({"remdm": 1.5, "order": "ancestral", "steps": 4}, "remdm must lie"),
        ({"remdm_rule": "cap"}, "no meaning without --remdm"),
    ],
)
def test_requests_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MaskedRequest(**options)  # type: ignore[arg-type]
