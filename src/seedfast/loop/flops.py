"""Model FLOPs: the floating-point operations of the matrix products that a training step cannot do without.

A product of an m × k and a k × n matrix takes 2 m k n of them. In the backward pass each of its two factors that has a
gradient takes as many again, so a product of activations and trained weights takes three times its forward pass, as in
"PaLM" (Chowdhery et al. 2022, appendix B) and "Training Compute-Optimal Large Language Models" (Hoffmann et al. 2022,
appendix F). Attention counts every pair of positions, masked or not, as there. What is computed again to save memory
does not count: these are not the operations that the hardware does.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode


def model_flops(network: nn.Module, loss: Callable[[nn.Module], object]) -> int | None:
    """Model FLOPs of the forward and backward pass of `loss(network)`.

    Only shapes are computed (on PyTorch's meta device), so `loss` must have its tensors there. None if its shapes
    depend on values, as those of a loss that samples texts.
    """
    weights = {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for named in (network.named_parameters(), network.named_buffers())
        for name, tensor in named
    }
    with _Count() as count, torch.compiler.set_stance("force_eager"):
        try:
            functional_call(_Bound(network, loss), {f"network.{name}": value for name, value in weights.items()}, ())
        except RuntimeError:  # meta tensors have no values
            return None
    total: int = count.total
    return total


class _Bound(nn.Module):
    """A loss of a network as a module, whose weights `functional_call` replaces."""

    def __init__(self, network: nn.Module, loss: Callable[[nn.Module], object]) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self) -> object:
        """The loss."""
        return self.loss(self.network)


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products of a forward pass, and those that their gradients will take."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        from torch.utils.flop_counter import flop_registry  # imports much, and only a known peak needs it

        self.total: int = 0
        self._formulas = flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True  # where transformers asks whether a mask masks nothing, both answers have the same products
        result = func(*args, **kwargs)
        if formula := self._formulas.get(func.overloadpacket):
            forward = formula(*args, **kwargs, out_val=result)
            factors = _factors(func.overloadpacket, args) if torch.is_grad_enabled() else []
            self.total += forward * (1 + sum(each.requires_grad for each in factors))
        return result


def _factors(operation: Any, args: Any) -> list[Tensor]:
    """The two factors of a product; of an attention, the queries and keys."""
    added = operation in (torch.ops.aten.addmm, torch.ops.aten.baddbmm)
    return [each for each in args[added : added + 2] if isinstance(each, Tensor)]
