"""Drawing without ranking or shaping the whole vocabulary: the same tokens as with it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from seedfast.families.text.categorical import draw, sample, shape
from seedfast.keys import Draws

DRAWS = Draws(seed=1, scope="categorical", positions_B=torch.arange(64))
U_B = DRAWS.uniform("u", 1, dtype=torch.float64)[:, 0]


def ranked_nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    """The reference: all probabilities in a stable order."""
    ranked, order = probabilities_BV.sort(dim=-1, descending=True, stable=True)
    before = torch.nn.functional.pad(ranked.cumsum(dim=-1)[..., :-1], (1, 0))
    nucleus = ranked.masked_fill(before >= top_p, 0.0)
    kept = torch.zeros_like(probabilities_BV).scatter(-1, order, nucleus)
    return kept / kept.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
@pytest.mark.parametrize("steps", [2, 1000], ids=["many equal", "few equal"])
def test_the_nucleus_is_that_of_a_full_ranking(top_p: float, spread: float, steps: int) -> None:
    logits_BV = (DRAWS.normal("logits", 3000) * spread * steps).round() / steps
    expected = ranked_nucleus(shape(logits_BV), top_p)
    assert torch.equal(shape(logits_BV, top_p=top_p), expected)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"top_k": 1}, {"top_k": 5}, {"top_k": 40, "top_p": 0.8}, {"temperature": 0.5}]
)
def test_a_sample_is_a_draw_from_the_shaped_distribution(options: dict[str, Any]) -> None:
    logits_BV = DRAWS.normal("logits", 3000) * 3
    assert torch.equal(sample(logits_BV, U_B, **options), draw(shape(logits_BV, **options), U_B))


def test_the_numbers_of_all_stages_are_those_of_each() -> None:
    together_SB = DRAWS.uniform_of_stages(range(3, 9), "token")
    each = [DRAWS.at(stage).uniform("token", 1, dtype=torch.float64)[:, 0] for stage in range(3, 9)]
    assert torch.equal(together_SB, torch.stack(each))


def test_a_nucleus_does_not_depend_on_the_rows_beside_it() -> None:
    """A flatter row has more tokens ranked; with `cumulative - ranked` the nucleus beside it had 129 tokens."""
    flat = torch.zeros(1, 2050)
    half = flat.clone()
    half[:, 1025:] = -torch.inf
    p = float(half.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)[0, 127])
    alone = shape(half, top_p=p)
    assert int((alone > 0).sum()) == 128
    assert torch.equal(shape(torch.cat([half, flat]), top_p=p)[:1], alone)
