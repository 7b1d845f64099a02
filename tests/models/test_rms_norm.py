"""RMSNorm: the bits of torch's own, in every place where autograd adds its gradient to another one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seedfast.models.rms_norm import EPSILON, rms_norm

Norm = Callable[[Tensor], Tensor]


def plain(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def through(norm: Norm, make: Callable[[Tensor], Tensor], width: int = 48) -> tuple[Tensor, Tensor]:
    """Output and gradient of a residual branch with the norm in front, as in a block."""
    x = numbers(6, 7, width).requires_grad_()
    y = make(x)
    out = y + torch.tanh(norm(y) * numbers(*y.shape))
    out.backward(numbers(*y.shape).sin())
    assert x.grad is not None
    return out.detach(), x.grad


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "a leaf": lambda x: x,
    "a result": lambda x: x * 3,
    "heads in a wider tensor": lambda x: x[..., :32].unflatten(-1, (2, 2, 8)),
    "one channel": lambda x: x[..., :1],
}


@pytest.mark.parametrize("view", VIEWS)
def test_output_and_gradient_are_those_of_torch_to_the_last_bit(view: str) -> None:
    for found, expected in zip(through(rms_norm, VIEWS[view]), through(plain, VIEWS[view]), strict=True):
        assert torch.equal(found, expected)


def test_a_gradient_that_is_added_up_before_it_is_returned_has_other_bits() -> None:
    """The twin: one sum of both terms is right up to rounding, and adds to the residual's gradient in another order."""

    def summed(x: Tensor) -> Tensor:
        return rms_norm(x.view_as(x))  # the view adds its two terms before they reach x

    (_, found), (_, expected) = through(summed, VIEWS["a result"]), through(plain, VIEWS["a result"])
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, expected)


def test_the_gradient_is_that_of_finite_differences() -> None:
    x = numbers(3, 8).double()
    x, at = x.float().requires_grad_(), x
    along, step = numbers(3, 8).cos().double(), 1e-6
    (rms_norm(x) * along.float()).sum().backward()
    direction = numbers(3, 8).sin().double()
    slope = ((plain(at + step * direction) - plain(at - step * direction)) * along).sum() / (2 * step)
    assert x.grad is not None
    assert float((x.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-4)


def test_rows_of_zeros_stay_zero_and_have_finite_gradients() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    rms_norm(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, EPSILON**-0.5))
