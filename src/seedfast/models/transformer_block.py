"""One block of the transformer: attention, cross-attention if there is a memory, MLP, and what they see."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.models.attention import Cache, CrossAttention, SelfAttention

Nonlinearity = Literal["relu2", "swiglu", "gelu", "gelu-erf"]


class Inputs(TypedDict, total=False):
    """What a network may be given beside its tokens; whatever is left out is absent."""

    embeddings_BLD: Tensor | None
    """Vectors of the network's width, instead of tokens."""
    clean_BL: Tensor | None
    """The same positions' tokens without noise; needed by a network that reads in blocks, unless it has a cache."""
    time_B: Tensor | None
    """In [0, 1]; needed by a network that was built with a time."""
    memory_BMD: Tensor | None
    """What cross-attention reads. With a cache, later calls may leave it (and its mask) out."""
    memory_mask_BM: Tensor | None
    """True where the memory may be read (somewhere in each row)."""
    documents_BL: Tensor | None
    """Ids ≥ 0: a position sees only its own document."""
    positions_BL: Tensor | None
    """Each token's position (default: counted from the start of the sequence, padding left out).
    With a cache: at every call or at none."""
    real_BL: Tensor | None
    """False where a sequence is padded: real positions do not see padding. Under a cache, pad on the left."""
    cache: Cache | None
    """Holds the positions before these ones, and takes these in."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every block is given beside the residual stream."""

    turn_BLP: Tensor | None
    """RoPE's angles, complex64."""
    mask: Tensor | None
    """Who sees whom, as `sight` returns it, with `is_causal`."""
    is_causal: bool
    cache: Cache | None
    time_BW: Tensor | None
    """The embedding of the time."""
    memory_BMU: Tensor | None
    """What cross-attention reads, with its mask (true where it may be read)."""
    memory_mask_BM: Tensor | None


class MLP(nn.Module):
    """The position-wise half of a block, [B, L, W] to the same, with `hidden` channels inside."""

    def __init__(self, *, kind: Nonlinearity, width: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.kind = kind
        self.up = nn.Linear(width, hidden, bias=bias)
        self.gate = nn.Linear(width, hidden, bias=bias) if kind == "swiglu" else None
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x_BLW: Tensor) -> Tensor:
        """[B, L, W] to the same."""
        h = self.up(x_BLW)
        if self.gate is not None:
            h = F.silu(self.gate(x_BLW)) * h
        elif self.kind == "relu2":
            h = F.relu(h)
            h = h * h  # half the time of .square(), whose backward pass is that of a general power
        else:
            h = F.gelu(h, approximate="tanh" if self.kind == "gelu" else "none")
        y_BLW: Tensor = self.down(h)
        return y_BLW


class Block(nn.Module):
    """Attention, cross-attention and MLP, each behind its own norm.

    modulation: [B, W] to [B, 6 W]. If there is one, attention and MLP are shifted, scaled and gated by the
    time's embedding, and the gates start at zero ("adaLN-Zero", Peebles & Xie 2023, section 3.2).
    """

    def __init__(
        self,
        *,
        attention: SelfAttention,
        mlp: MLP,
        cross: CrossAttention | None,
        modulation: nn.Linear | None,
        norm: Callable[[], nn.Module],
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm_attention, self.attention = norm(), attention
        self.norm_cross = norm() if cross is not None else None
        self.cross = cross
        self.norm_mlp, self.mlp = norm(), mlp
        self.modulation, self.dropout = modulation, dropout

    def writers(self) -> list[nn.Linear]:
        """The matrices that write to the residual stream."""
        return [self.attention.out, self.mlp.down, *([self.cross.out] if self.cross is not None else [])]

    def forward(self, x_BLW: Tensor, around: Surroundings, where_N: Tensor | None = None) -> Tensor:
        """The residual stream after this block, [B, L, W]; or [N, W], if only the positions `where_N` are wanted."""
        if self.modulation is None:
            x_BLW = x_BLW + self._drop(self.attention(self.norm_attention(x_BLW), *_sight(around)))
            x = wanted(self._recall(x_BLW, around), where_N)
            return x + self._drop(self.mlp(self.norm_mlp(x)))
        six: tuple[Tensor, ...] = self.modulation(around.time_BW)[:, None].chunk(6, dim=-1)
        shift_a, scale_a, gate_a, *of_mlp = six
        h_BLW = modulate(self.norm_attention(x_BLW), shift_a, scale_a)
        x_BLW = x_BLW + gate_a * self._drop(self.attention(h_BLW, *_sight(around)))
        x = wanted(self._recall(x_BLW, around), where_N)
        shift_m, scale_m, gate_m = (wanted(each.expand_as(x_BLW), where_N) for each in of_mlp)
        return x + gate_m * self._drop(self.mlp(modulate(self.norm_mlp(x), shift_m, scale_m)))

    def _recall(self, x_BLW: Tensor, around: Surroundings) -> Tensor:
        if self.cross is None or self.norm_cross is None:
            return x_BLW
        taken = self.cross(self.norm_cross(x_BLW), around.memory_BMU, around.memory_mask_BM, around.cache)
        return x_BLW + self._drop(taken)

    def _drop(self, x_BLW: Tensor) -> Tensor:
        return F.dropout(x_BLW, self.dropout, self.training) if self.dropout else x_BLW


def wanted(x_BLW: Tensor, where_N: Tensor | None) -> Tensor:
    """The positions at these indices into the flattened B · L, [N, W]; all of them, [B, L, W], without indices."""
    return x_BLW if where_N is None else x_BLW.flatten(0, 1).index_select(0, where_N)


def _sight(around: Surroundings) -> tuple[Tensor | None, Tensor | None, bool, Cache | None]:
    return around.turn_BLP, around.mask, around.is_causal, around.cache


def modulate(x_BLW: Tensor, shift_B1W: Tensor, scale_B1W: Tensor) -> Tensor:
    """adaLN: x · (1 + scale) + shift (Peebles & Xie 2023)."""
    return torch.addcmul(shift_B1W, x_BLW, 1 + scale_B1W)


def sinusoid(time_B: Tensor, channels: int) -> Tensor:
    """cos and sin of a time in [0, 1], float32 [B, channels].

    DiT's embedding (Peebles & Xie 2023, after Vaswani et al. 2017, section 3.5) of the time in thousandths.
    """
    rate_P = 1000 * torch.exp(-math.log(1e4) / (channels // 2) * torch.arange(channels // 2, device=time_B.device))
    angle_BP = time_B.float()[:, None] * rate_P
    return torch.cat([angle_BP.cos(), angle_BP.sin()], dim=-1)
