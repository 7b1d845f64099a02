"""Rotary positions, self-attention and cross-attention.

Shapes: B batch, L new positions, C keys (cached and new), M memory, W width, U width of the memory, H heads,
D head size, P = D / 2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.models.attention_mask import AttentionMask
from seedfast.models.kv_cache import KVCache
from seedfast.models.rms_norm import rms_norm


def rotary_table(context: int, size: int, base: float = 10_000.0) -> Tensor:
    """exp(i · angle) of RoPE (Su et al. 2021, equation 15), as the bits of complex64: int32 [context, P, 2].

    The angles are evaluated in float64. The table is stored as integers because casting a network to bfloat16 casts
    its floating-point buffers too, and neighbouring positions would become equal.
    """
    rate_P = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle_CP = torch.outer(torch.arange(context, dtype=torch.float64), rate_P)
    return torch.stack([angle_CP.cos(), angle_CP.sin()], dim=-1).float().view(torch.int32)


def rotate(x_BLNHD: Tensor, rope_BLP2: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels by its position's angle; `rope` is its cosine and sine, [B or 1, L, P].

    One complex product takes a quarter of the time of the equivalent real products and concatenation. Compiled, the
    real products are one kernel with the norm before them, and complex numbers would be none.
    """
    # No size is left to be inferred: there may be no rows.
    pairs = x_BLNHD.float().view(*x_BLNHD.shape[:-1], x_BLNHD.shape[-1] // 2, 2)
    rope = rope_BLP2[:, :, None, None]
    if torch.compiler.is_compiling():
        (x, y), (cos, sin) = pairs.unbind(-1), rope.unbind(-1)
        rotated = torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1)
    else:
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rope))
    return rotated.flatten(-2).type_as(x_BLNHD)


class QKV(nn.Module):
    """The projections to queries, keys and values: three weights, one matrix product.

    The weights are three parameters because Muon orthogonalises each matrix as a whole: with one parameter of three
    times the height, the same run ended 0.01 nats worse. Concatenating them for the product copies 3 W² numbers.
    """

    def __init__(self, *, width: int, bias: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.empty(width, width)) for _ in range(3))
        self.bias = nn.Parameter(torch.empty(3 * width)) if bias else None

    def initialise(self, std: float) -> None:
        """Draw the weights from N(0, std²); biases are zero."""
        for weight in (self.q, self.k, self.v):
            nn.init.normal_(weight, std=std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_BLW: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys concatenated, [B, L, 2 W], and values, [B, L, W]."""
        width = x_BLW.shape[-1]
        # split, not indexing: its backward pass is one concatenation instead of sums of zero-filled tensors.
        qkv = F.linear(x_BLW, torch.cat([self.q, self.k, self.v]), self.bias)
        qk, v_BLW = torch.split(qkv, [2 * width, width], dim=-1)
        return qk, v_BLW


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    QK-norm is RMSNorm of each head without a gain (Henry et al. 2020; Dehghani et al. 2023, section 2): it
    bounds the logits by √D, so large steps cannot saturate the softmax.
    """

    def __init__(self, *, width: int, heads: int, qk_norm: bool, bias: bool, dropout: float, layer: int) -> None:
        super().__init__()
        self.heads, self.size, self.layer = heads, width // heads, layer
        self.qk_norm, self.dropout = qk_norm, dropout
        self.qkv = QKV(width=width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(
        self,
        x_BLW: Tensor,
        mask: AttentionMask,
        *,
        rope_BLP2: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Attention output, [B, L, W]. A cache provides earlier keys and values and stores the new ones."""
        qk, v_BLW = self.qkv(x_BLW)
        qk_BLNHD = qk.unflatten(-1, (2, self.heads, self.size))
        if self.qk_norm:
            qk_BLNHD = rms_norm(qk_BLNHD)
        if rope_BLP2 is not None:
            qk_BLNHD = rotate(qk_BLNHD, rope_BLP2)
        q_BHLD, k_BHLD = qk_BLNHD.permute(2, 0, 3, 1, 4).unbind(0)
        v_BHLD = v_BLW.unflatten(-1, (self.heads, self.size)).transpose(1, 2)
        if cache is not None:
            k_BHLD, v_BHLD = cache.extend(self.layer, k_BHLD, v_BHLD)
        y_BHLD = F.scaled_dot_product_attention(
            q_BHLD,
            k_BHLD,
            v_BHLD,
            attn_mask=mask.allowed,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask.is_causal,
        )
        out_BLW: Tensor = self.out(y_BHLD.transpose(1, 2).flatten(-2))
        return out_BLW


class CrossAttention(nn.Module):
    """Multi-head attention from a sequence to a memory of any width (Vaswani et al. 2017, section 3.2.3)."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        memory_width: int,
        qk_norm: bool,
        bias: bool,
        dropout: float,
        layer: int,
    ) -> None:
        super().__init__()
        self.heads, self.size, self.layer = heads, width // heads, layer
        self.qk_norm, self.dropout = qk_norm, dropout
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(memory_width, 2 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def _heads(self, x: Tensor, norm: bool) -> Tensor:
        x_BLHD = x.view(*x.shape[:2], self.heads, self.size)
        return (rms_norm(x_BLHD) if norm else x_BLHD).transpose(1, 2)

    def _memory(self, memory_BMU: Tensor | None, cache: KVCache | None) -> tuple[Tensor, Tensor]:
        if memory_BMU is None:
            assert cache is not None, "cross-attention needs memory_BMD"
            return cache.memory[self.layer]
        k_BMW, v_BMW = self.kv(memory_BMU).chunk(2, dim=-1)
        pair = self._heads(k_BMW, self.qk_norm), self._heads(v_BMW, False)
        if cache is not None:
            cache.memory[self.layer] = pair
        return pair

    def forward(
        self, x_BLW: Tensor, memory_BMU: Tensor | None, mask: AttentionMask, *, cache: KVCache | None = None
    ) -> Tensor:
        """Attention output, [B, L, W]. A cache stores the memory's keys and values; later calls may omit it."""
        k_BHMD, v_BHMD = self._memory(memory_BMU, cache)
        y_BHLD = F.scaled_dot_product_attention(
            self._heads(self.q(x_BLW), self.qk_norm),
            k_BHMD,
            v_BHMD,
            attn_mask=mask.allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )
        out_BLW: Tensor = self.out(y_BHLD.transpose(1, 2).flatten(-2))
        return out_BLW

    def weights(self, x_BLW: Tensor, memory_BMU: Tensor) -> Tensor:
        """The attention weights, [B, H, L, M], for inspection."""
        k_BHMD, _ = self._memory(memory_BMU, None)
        q_BHLD = self._heads(self.q(x_BLW), self.qk_norm)
        weights_BHLM: Tensor = (q_BHLD @ k_BHMD.transpose(-2, -1) / self.size**0.5).softmax(dim=-1)
        return weights_BHLM
