"""Cross-entropy in chunks: the numbers and gradients of a plain one, without a tensor of all logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from seedfast.models.token_network import Scores, score

ROWS, VOCABULARY, WIDTH = 37, 50, 8


def case(seed: int = 0, bias: bool = False) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias).double()
    x = torch.randn(ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    return head, x, torch.randint(VOCABULARY, (ROWS,))


def plain(head: nn.Module, x: Tensor, targets: Tensor, outputs: int | None = None) -> Tensor:
    return F.cross_entropy(head(x)[..., :outputs].float(), targets, reduction="none")


@given(st.integers(1, 3 * ROWS * VOCABULARY), st.booleans(), st.integers(0, 5))
def test_any_chunk_gives_the_plain_numbers_and_gradients(chunk: int, bias: bool, seed: int) -> None:
    head, x, targets = case(seed, bias)
    weights = torch.rand(ROWS)  # as for examples with different weights
    nats = plain(head, x, targets)
    expected = torch.autograd.grad((nats * weights).sum(), [x, *head.parameters()])
    scores = score(head, x, targets, hits=True, chunk=chunk)
    gradients = torch.autograd.grad((scores.nats_N * weights).sum(), [x, *head.parameters()])
    torch.testing.assert_close(scores.nats_N, nats, rtol=1e-6, atol=1e-6)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert scores.hits_N is not None
    assert torch.equal(scores.hits_N, head(x).argmax(dim=-1) == targets)


def test_one_chunk_is_bit_for_bit_the_plain_computation() -> None:
    head, x, targets = case()
    assert torch.equal(score(head, x, targets).nats_N, plain(head, x, targets))


def test_logits_that_are_no_tokens_have_probability_zero() -> None:
    head, x, targets = case()
    targets = targets % 40
    for chunk in (1, 10**6):
        nats = score(head, x, targets, outputs=40, chunk=chunk).nats_N
        torch.testing.assert_close(nats, plain(head, x, targets, 40))
    assert not torch.allclose(nats, plain(head, x, targets))


def test_twin_a_mean_of_chunk_means_is_another_number() -> None:
    head, x, targets = case()
    means = torch.stack([part.mean() for part in plain(head, x, targets).split(10)]).mean()
    assert abs(float((means - score(head, x, targets).nats_N.mean()).detach())) > 1e-4


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                self.numel = max(self.numel, each.numel())
        return result


@pytest.mark.parametrize(
    ("how", "holds"),
    [
        (lambda head, x, targets: score(head, x, targets, chunk=5 * VOCABULARY), True),
        (lambda head, x, targets: Scores(plain(head, x, targets), None), False),
    ],
    ids=["chunked", "twin: plain"],
)
def test_no_tensor_holds_all_logits_forward_or_backward(how: Callable[..., Scores], holds: bool) -> None:
    head, x, targets = case()
    with Largest() as seen:
        how(head, x, targets).nats_N.sum().backward()
    largest_allowed = max(5 * VOCABULARY, VOCABULARY * WIDTH, ROWS * WIDTH)
    assert (seen.numel <= largest_allowed) == holds, seen.numel


def test_low_precision_logits_are_scored_in_float32() -> None:
    head, x, targets = case()
    head, x = head.float(), x.detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nats = score(head, x, targets, chunk=4 * VOCABULARY).nats_N
        whole = score(head, x, targets).nats_N
    assert nats.dtype == whole.dtype == torch.float32
    torch.testing.assert_close(nats, whole, rtol=1e-6, atol=1e-6)
