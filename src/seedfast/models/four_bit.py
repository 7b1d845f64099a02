"""Frozen linear layers in 4 bits: NormalFloat, the type of QLoRA (Dettmers et al. 2023, section 3).

A weight is an index into 16 quantiles of the normal distribution, and each block of 64 weights has its largest
magnitude in float32: 4.5 bits for each weight. The bits are those of bitsandbytes' nf4 without double quantisation.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 64
"""Weights that share a scale."""
CODE = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The values of the 16 indices, in units of the largest magnitude of a block (appendix E of the paper)."""


@lru_cache
def _code(device: torch.device) -> Tensor:
    """The values on a device, copied there once: the host waits for a copy."""
    return torch.tensor(CODE, device=device)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest values in 4 bits: two indices in each byte, uint8 [N / 2], and the scales, float32 [N / 64].

    weight: any shape; its elements are padded with zeros to a multiple of 64.
    """
    blocks_KB = F.pad(weight.flatten().float(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    scale_K = blocks_KB.abs().amax(dim=1)
    code = _code(weight.device)
    # A block of zeros has no scale; its elements are zero in any.
    relative_KB = blocks_KB / torch.where(scale_K > 0, scale_K, 1.0)[:, None]
    index_N2 = torch.bucketize(relative_KB, (code[1:] + code[:-1]) / 2, out_int32=True).view(-1, 2)
    return (index_N2[:, 0] * 16 + index_N2[:, 1]).to(torch.uint8), scale_K


def dequantise(packed: Tensor, scale_K: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The values that `quantise` stored, in this shape and type."""
    code = _code(packed.device)
    # Both values of a byte are looked up as one number of 64 bits.
    pairs = torch.stack([code.repeat_interleave(16), code.repeat(16)], dim=1).view(torch.int64).flatten()
    blocks_KB = pairs.index_select(0, packed.int()).view(torch.float32).view(-1, BLOCK)
    blocks_KB *= scale_K[:, None]
    return blocks_KB.flatten()[: torch.Size(shape).numel()].view(shape).to(dtype)


class FourBitLinear(nn.Linear):
    """A frozen linear layer whose weight is stored in 4 bits, and is expanded while it is used.

    weight: packed indices; scale: those of the blocks. Both are parameters without gradients, so that a run stores
    them once, as it does all frozen weights.
    """

    def __init__(self, layer: Any) -> None:
        """layer: an `nn.Linear`, or the `Conv1D` of transformers, whose weight is transposed."""
        nn.Module.__init__(self)
        self.is_transposed = not isinstance(layer, nn.Linear)
        self.original_type = layer.weight.dtype
        weight = layer.weight.detach().T if self.is_transposed else layer.weight.detach()
        self.out_features, self.in_features = weight.shape
        packed, scale = quantise(weight)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = layer.bias

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """The weight, [out, in]."""
        return dequantise(self.weight, self.scale, (self.out_features, self.in_features), dtype)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        output: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
        return output if self.bias is None else output + self.bias.to(output.dtype)

    def plain(self) -> nn.Module:
        """A layer of the original class with the weight that this one computes with."""
        weight = self.expanded(self.original_type)
        made: Any
        if self.is_transposed:
            from transformers.pytorch_utils import Conv1D

            made, weight = Conv1D(self.out_features, self.in_features), weight.T.contiguous()
        else:
            made = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        made.weight, made.bias = nn.Parameter(weight, requires_grad=False), self.bias
        layer: nn.Module = made
        return layer


class _Product(torch.autograd.Function):
    """x Wᵀ. The expanded weight is not kept for the backward pass, which expands it again."""

    @staticmethod
    def forward(context: Any, x: Tensor, layer: FourBitLinear) -> Tensor:
        context.layer = layer
        return F.linear(x, layer.expanded(x.dtype))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ context.layer.expanded(gradient.dtype), None


def quantise_layers(model: Any) -> None:
    """Replace the linear layers of a transformers model, except the output layer, by layers in 4 bits."""
    output = model.get_output_embeddings()
    for parent, name, layer in _linear_layers(model):
        if layer is not output:
            setattr(parent, name, FourBitLinear(layer))


def restore_layers(model: nn.Module) -> None:
    """Replace layers in 4 bits, also inside an adapter, by layers of the original class."""
    for parent, name, layer in _linear_layers(model):
        if isinstance(layer, FourBitLinear):
            setattr(parent, name, layer.plain())
            if hasattr(parent, "fan_in_fan_out"):  # where peft keeps whether the weight is transposed
                parent.fan_in_fan_out = layer.is_transposed


def _linear_layers(model: nn.Module) -> list[tuple[Any, str, Any]]:
    """Each linear layer with the module that holds it and its name there."""
    return [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if is_linear(layer)
    ]


def is_linear(layer: nn.Module) -> bool:
    """Whether a module is a linear layer, of torch or of GPT-2."""
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"
