"""Remasking (ReMDM): the masked fraction stays that of the schedule, and independent tokens keep their law."""

import math
from collections.abc import Sequence

import pytest
import torch
from tests.helpers.proofreading import FixedLogits
from tests.helpers.quick import slow_but
from torch import Tensor, nn

from seedfast.errors import UserError
from seedfast.families.text import unmask_step
from seedfast.families.text.block_diffusion import Block
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.masked import Masked, MaskedGenerator
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest, Policy
from seedfast.keys import Draws
from seedfast.models.transformer import Transformer
from seedfast.verify.identities.check import p_value
from seedfast.verify.identities.toys import assets

WORDS, LENGTH, ROWS = 4, 16, 3000
LAW = torch.tensor([0.5, 0.3, 0.2])
BLANK = Canvas(torch.zeros(LENGTH, dtype=torch.int64), torch.zeros(LENGTH, dtype=torch.bool))


class Careless(Policy):
    """It remasks generated tokens without unmasking more than usual."""

    def remdm_unmasked(self, index: int) -> float:
        before, after = (self.masked(min(1.0, done / 5)) for done in (index, index + 1))
        return 1 - after / before


class CarelessGenerator(MaskedGenerator):
    def policy(self, request: MaskedRequest) -> Policy:
        return Careless(request, self.schedule)


def independent(tokens_BL: Tensor) -> Tensor:
    """Every token has the same distribution, independently of the others; end-of-text has probability 0."""
    return torch.cat([LAW.log(), torch.tensor([-torch.inf])]).expand(*tokens_BL.shape, -1)


def masked_after_each_step(generator: MaskedGenerator, request: MaskedRequest) -> tuple[list[float], list[list[int]]]:
    fractions = torch.zeros(5)
    steps = [0] * ROWS

    def trace(row: int, tokens: Sequence[int], is_open: Sequence[bool]) -> None:
        fractions[steps[row]] += sum(is_open) / LENGTH / ROWS
        steps[row] += 1

    draws = Draws(seed=1, scope="remdm", positions_B=torch.arange(ROWS))
    decoding = Decoding(network=FixedLogits(independent), request=request, draws=draws, trace=trace)
    texts = generator.fill(decoding, [BLANK] * ROWS)
    return fractions.tolist(), texts


REMASKING = [(0.0, "rescale"), (0.5, "rescale"), (1.0, "rescale"), (0.2, "cap")]
QUICK = [(0.0, "rescale", "linear"), (0.5, "rescale", "cosine"), (1.0, "rescale", "linear"), (0.2, "cap", "linear")]


@pytest.mark.parametrize(
    ("eta", "rule", "schedule"),
    slow_but(QUICK, [(*each, schedule) for each in REMASKING for schedule in ("linear", "cosine")]),
)
def test_remasking_keeps_the_masked_fraction_of_the_schedule(eta: float, rule: str, schedule: str) -> None:
    generator = MaskedGenerator(Masked(schedule=schedule), assets(WORDS, LENGTH))  # type: ignore[arg-type]
    request = MaskedRequest(steps=5, order="ancestral", remdm=eta, remdm_rule=rule)  # type: ignore[arg-type]
    fractions, texts = masked_after_each_step(generator, request)
    t = [1 - (step + 1) / 5 for step in range(5)]
    expected = t if schedule == "linear" else [math.cos(math.pi / 2 * (1 - u)) for u in t]
    assert fractions == pytest.approx(expected, abs=0.01)
    assert fractions[-1] == 0
    counts = torch.bincount(torch.tensor(texts).flatten(), minlength=WORDS)
    assert p_value(counts[:3], LAW) > 1e-5
    assert counts[3] == 0


def test_twin_that_remasks_without_unmasking_more_masks_too_much() -> None:
    generator = CarelessGenerator(Masked(), assets(WORDS, LENGTH))
    fractions, _ = masked_after_each_step(generator, MaskedRequest(steps=5, order="ancestral", remdm=0.5))
    assert fractions[2] > 0.4 + 0.05


def test_remasking_corrects_tokens_that_the_network_no_longer_predicts() -> None:
    """The network predicts token 1 as soon as any token is visible; only remasking corrects the first tokens."""

    def changes_its_mind(tokens_BL: Tensor) -> Tensor:
        is_visible = (tokens_BL < WORDS).any(dim=1)[:, None, None]
        sure = torch.tensor([-torch.inf, 0.0, -torch.inf, -torch.inf])
        even = torch.tensor([0.0, 0.0, 0.0, -torch.inf])
        return torch.where(is_visible, sure, even).expand(*tokens_BL.shape, -1)

    generator = MaskedGenerator(Masked(), assets(WORDS, LENGTH))
    draws = Draws(seed=1, scope="remdm", positions_B=torch.arange(500))

    def wrong(eta: float) -> float:
        request = MaskedRequest(steps=8, order="ancestral", remdm=eta)
        decoding = Decoding(network=FixedLogits(changes_its_mind), request=request, draws=draws)
        texts = torch.tensor(generator.fill(decoding, [BLANK] * 500))
        return float((texts != 1).double().mean())

    assert wrong(1.0) < wrong(0.5) < wrong(0.0)


class Counting(nn.Module):
    """Counts the evaluations of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, tokens_BL: Tensor, **_: object) -> Tensor:
        self.calls += 1
        return independent(tokens_BL)


def test_a_step_is_one_evaluation_of_the_network() -> None:
    generator, network = MaskedGenerator(Masked(), assets(WORDS, LENGTH)), Counting()
    draws = Draws(seed=1, scope="s", positions_B=torch.arange(2))
    for request in (MaskedRequest(num=2, steps=7), MaskedRequest(num=2, steps=7, order="ancestral", remdm=0.5)):
        network.calls = 0
        generator.generate(network, request, draws, {})
        assert network.calls == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remdm": 0.5}, "needs --order ancestral"),
        ({"remdm": 0.5, "order": "ancestral"}, "a number of --steps"),
        ({"remdm": 1.5, "order": "ancestral", "steps": 4}, r"remdm must be in \[0, 1\], not 1.5"),
        ({"remdm_rule": "cap"}, "no effect without --remdm"),
    ],
)
def test_contradictory_requests_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MaskedRequest(**options)  # type: ignore[arg-type]


class Spread(nn.Module):
    """A vocabulary so large that float64 probabilities at all positions would be noticed."""

    def forward(self, tokens_BL: Tensor, **_: object) -> Tensor:
        return torch.linspace(0, 1, 5000).expand(*tokens_BL.shape, -1)


@pytest.mark.parametrize("order", ["random", "ancestral"])
def test_probabilities_are_computed_only_where_a_token_is_drawn(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    whole = unmask_step.shape
    monkeypatch.setattr(
        unmask_step, "shape", lambda logits, **options: rows.append(len(logits)) or whole(logits, **options)
    )
    generator = MaskedGenerator(Masked(), assets(26, LENGTH))
    draws = Draws(seed=1, scope="s", positions_B=torch.arange(3))
    generator.generate(Spread(), MaskedRequest(num=3, steps=4, order=order), draws, {})  # type: ignore[arg-type]
    assert sum(rows) == 3 * LENGTH


@pytest.mark.parametrize("order", ["random", "confidence", "ancestral"])
@pytest.mark.parametrize("options", [Masked(), Block(block=4)], ids=["masked", "block"])
def test_a_text_is_the_one_that_it_is_alone(options: Masked, order: str) -> None:
    """Texts with other numbers of open tokens beside it change nothing, also without a number of steps."""
    family = options.build(assets(WORDS, LENGTH))
    torch.manual_seed(0)
    network = family.objective.network(Transformer(layers=1, heads=1, width=8)).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    canvases = [
        Canvas(torch.zeros(length, dtype=torch.int64), torch.arange(length) < given)
        for length, given in ((16, 13), (16, 0), (16, 7), (9, 2), (16, 16))
    ]

    def texts(rows: list[int]) -> list[list[int]]:
        draws = Draws(seed=1, scope="alone", positions_B=torch.tensor(rows))
        decoding = Decoding(network=network, request=MaskedRequest(order=order), draws=draws)  # type: ignore[arg-type]
        found: list[list[int]] = family.generator.fill(decoding, [canvases[row] for row in rows])  # type: ignore[union-attr]
        return found

    assert texts([0, 1, 2, 3, 4]) == [texts([row])[0] for row in range(5)]
