"""One block of the transformer: self-attention, optional cross-attention, MLP."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.models.attention import CrossAttention, SelfAttention
from seedfast.models.attention_mask import NO_MASK, AttentionMask
from seedfast.models.kv_cache import KVCache
from seedfast.models.network import CompiledInTraining

Nonlinearity = Literal["relu2", "swiglu", "gelu", "gelu-erf"]


@dataclass(frozen=True, kw_only=True)
class BlockContext:
    """The inputs that all blocks share, besides the residual stream. Every field is optional.

    mask: of self-attention. rope_BLP2: rotary cosines and sines. time_BW: the embedding of the time.
    ngrams_BLG: the vectors of n-grams, for blocks that read them.
    memory_BMU: what cross-attention attends to, under `memory_mask`.
    """

    mask: AttentionMask = NO_MASK
    rope_BLP2: Tensor | None = None
    cache: KVCache | None = None
    time_BW: Tensor | None = None
    ngrams_BLG: Tensor | None = None
    memory_BMU: Tensor | None = None
    memory_mask: AttentionMask = NO_MASK


class MLP(nn.Module):
    """The position-wise MLP of a block, with `hidden` channels inside."""

    def __init__(self, *, kind: Nonlinearity, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.kind = kind
        self.up = nn.Linear(width, hidden, bias=bias)
        self.gate = nn.Linear(width, hidden, bias=bias) if kind == "swiglu" else None
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """[B, L, W] or [N, W] to the same shape."""
        h = self.up(x_BLW)
        h = self.bend(h) if self.gate is None else F.silu(self.gate(x_BLW)) * h
        y_BLW: Tensor = self.down(h)
        return y_BLW

    def bend(self, h: Tensor) -> Tensor:
        """The nonlinearity of an MLP without a gate."""
        if self.kind == "relu2":
            h = F.relu(h)
            return h * h  # half the time of .square(), whose backward pass computes a general power
        return F.gelu(h, approximate="tanh" if self.kind == "gelu" else "none")


class TransformerBlock(CompiledInTraining):
    """Attention, cross-attention and MLP, each with a norm in front and a residual connection.

    modulation: [B, W] to [B, 6 W]. If given, the embedding of the time shifts, scales and gates attention and MLP, and
    the gates start at zero ("adaLN-Zero", Peebles & Xie 2023, section 3.2).
    ngrams: [B, L, G] to [B, L, W]. If given, vectors of n-grams are added in front of the block.
    """

    def __init__(
        self,
        *,
        attention: SelfAttention,
        mlp: MLP,
        cross: CrossAttention | None,
        modulation: nn.Linear | None,
        ngrams: nn.Linear | None = None,
        norm: Callable[[], nn.Module],
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm_attention, self.attention = norm(), attention
        self.norm_cross = norm() if cross is not None else None
        self.cross = cross
        self.norm_mlp, self.mlp = norm(), mlp
        self.modulation, self.ngrams, self.dropout = modulation, ngrams, dropout

    def residual_outputs(self) -> list[nn.Linear]:
        """The layers whose outputs are added to the residual stream."""
        sometimes = [self.cross.out if self.cross is not None else None, self.ngrams]
        return [self.attention.out, self.mlp.down, *(layer for layer in sometimes if layer is not None)]

    def forward(self, x_BLW: Tensor, context: BlockContext, where_N: Tensor | None = None) -> Tensor:
        """The residual stream after this block, [B, L, W]; [N, W] at the positions `where_N` (`select_positions`)."""
        if self.ngrams is not None:
            x_BLW = x_BLW + self.ngrams(context.ngrams_BLG)
        if self.modulation is None:
            x_BLW = x_BLW + self._drop(self._attend(self.norm_attention(x_BLW), context))
            x = select_positions(self._cross_attend(x_BLW, context), where_N)
            return x + self._drop(self.mlp(self.norm_mlp(x)))
        six: tuple[Tensor, ...] = self.modulation(context.time_BW)[:, None].chunk(6, dim=-1)
        shift_a, scale_a, gate_a, *of_mlp = six
        h_BLW = modulate(self.norm_attention(x_BLW), shift_a, scale_a)
        x_BLW = x_BLW + gate_a * self._drop(self._attend(h_BLW, context))
        x = select_positions(self._cross_attend(x_BLW, context), where_N)
        shift_m, scale_m, gate_m = (select_positions(each.expand_as(x_BLW), where_N) for each in of_mlp)
        return x + gate_m * self._drop(self.mlp(modulate(self.norm_mlp(x), shift_m, scale_m)))

    def _attend(self, x_BLW: Tensor, context: BlockContext) -> Tensor:
        y_BLW: Tensor = self.attention(x_BLW, context.mask, rope_BLP2=context.rope_BLP2, cache=context.cache)
        return y_BLW

    def _cross_attend(self, x_BLW: Tensor, context: BlockContext) -> Tensor:
        if self.cross is None or self.norm_cross is None:
            return x_BLW
        y_BLW = self.cross(self.norm_cross(x_BLW), context.memory_BMU, context.memory_mask, cache=context.cache)
        return x_BLW + self._drop(y_BLW)

    def _drop(self, x_BLW: Tensor) -> Tensor:
        return F.dropout(x_BLW, self.dropout, self.training) if self.dropout else x_BLW


def select_positions(x_BLW: Tensor, where_N: Tensor | None) -> Tensor:
    """The positions at these indices into the flattened B · L, [N, W]; all of them, [B, L, W], for None."""
    return x_BLW if where_N is None else x_BLW.flatten(0, 1).index_select(0, where_N)


def modulate(x_BLW: Tensor, shift_B1W: Tensor, scale_B1W: Tensor) -> Tensor:
    """adaLN: x · (1 + scale) + shift (Peebles & Xie 2023)."""
    return torch.addcmul(shift_B1W, x_BLW, 1 + scale_B1W)


def sinusoid(time_B: Tensor, channels: int) -> Tensor:
    """cos and sin of a time in [0, 1], float32 [B, channels].

    DiT's embedding of 1000 · time (Peebles & Xie 2023, after Vaswani et al. 2017, section 3.5).
    """
    rate_P = 1000 * torch.exp(-math.log(1e4) / (channels // 2) * torch.arange(channels // 2, device=time_B.device))
    angle_BP = time_B.float()[:, None] * rate_P
    return torch.cat([angle_BP.cos(), angle_BP.sin()], dim=-1)
