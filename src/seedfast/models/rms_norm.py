"""RMSNorm without a gain: x / √(mean x² + ε) over the last dimension (Zhang & Sennrich 2019, equation 4).

On a CPU torch has no kernel for it: `F.rms_norm` is eight operations, and autograd differentiates each by itself, in
twice to three times the time of the few passes below.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6
"""Added to the mean square before the square root."""


class RMSNorm(nn.Module):
    """`rms_norm` as a module. No gain: the next matrix can scale as well, and on a CPU a gain doubles the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] to the same shape."""
        assert x.shape[-1] == self.width, "the last dimension must be the width"
        return rms_norm(x)

    def extra_repr(self) -> str:
        """The width."""
        return str(self.width)


def rms_norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension: the bits of `F.rms_norm`, forward and backward."""
    is_trained = x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if is_trained and x.device.type == "cpu" and x.dtype == torch.float32:
        normalised: Tensor = _RMSNorm.apply(x, x)  # type: ignore[no-untyped-call]
        return normalised
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


class _RMSNorm(torch.autograd.Function):
    """With y = r x and r = 1 / √(mean x² + ε), a gradient g of y makes the gradient g r - (r³ Σ g x / D) x of x.

    The two terms are the gradients of two inputs, which are the same tensor: autograd then adds each of them to what x
    receives elsewhere, in the order in which it adds those of the single operations. One sum would round differently.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, again: Tensor) -> Tensor:
        del again
        r = x.pow(2).mean(-1, keepdim=True).add_(EPSILON).rsqrt_()
        ctx.save_for_backward(x, r)
        return x * r

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, r = ctx.saved_tensors
        product = grad * x
        factor = -0.5 * product.sum(-1, keepdim=True) * r.pow(3) / x.shape[-1] * 2
        return grad * r, torch.mul(x, factor, out=product)
