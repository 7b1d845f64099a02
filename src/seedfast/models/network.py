"""The base class of networks, and what training compiles of them."""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


class CompiledInTraining(nn.Module):
    """A module whose `compile()` concerns training passes alone.

    Without gradients and in evaluation mode it computes as if it were not compiled: validations, samples and first
    estimates have many shapes, and the loss that a validation reports is the one that `seedfast evaluate` finds.
    """

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compile `forward`, in place; the arguments are those of torch.compile.

        The hooks around it, by which FSDP gathers and releases the weights, stay outside of the compiled code.
        """
        plain = MethodType(type(self).forward, self)
        compiled = torch.compile(plain, *arguments, **options)

        def forward(*inputs: Any, **named: Any) -> Any:
            return (compiled if self.training and torch.is_grad_enabled() else plain)(*inputs, **named)

        self.forward = forward

    def __getstate__(self) -> dict[str, Any]:
        """Copies are not compiled."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name != "forward"}


def recomputed(block: nn.Module, *inputs: Any) -> Any:
    """The output of a block whose activations are computed again in the backward pass (Chen et al. 2016).

    Dropout draws the same masks then: the state of torch's generator is kept with the inputs.
    """
    return checkpoint(block, *inputs, use_reentrant=False) if torch.is_grad_enabled() else block(*inputs)


class Network(nn.Module):
    """A network that the configuration of a model builds."""

    same_passes: bool = False
    """Whether other processes hold parts of the weights: all must then make the same passes, whatever their data."""

    def inside(self, compute: Callable[[], T]) -> T:
        """What `compute` returns; it may use all weights outside of the blocks, and call the blocks.

        Samplers call parts of a network, whose weights a placement gathers for this time.
        """
        return compute()

    @property
    def blocks_in_order(self) -> Sequence[nn.Module]:
        """The parts with most of the weights, which compute one after the other: each is gathered and recomputed by
        itself. None: the whole network is one."""
        return ()

    @property
    def unsharded(self) -> Sequence[nn.Module]:
        """Parts that stay whole in every process, as they are used outside of training passes."""
        return ()

    @property
    def compiled_parts(self) -> Sequence[CompiledInTraining]:
        """The modules that training compiles, each without a graph break; none for networks of other libraries.

        A placement that gathers each block by itself has the blocks compiled of a module that contains some."""
        return ()

    @property
    def output_layer(self) -> nn.Module | None:
        """The layer that computes the outputs; None if no single layer does.

        Its weight is no hidden matrix: an optimizer of hidden matrices (Muon) leaves it to AdamW.
        """
        return None

    @property
    def label_embedding(self) -> nn.Embedding | None:
        """The embedding of class labels, the null label's last; None if the network receives no labels."""
        return None
