"""One new token of each row through a causal transformer: the network's forward pass specialised for generation.

At one position a layer takes microseconds, less than the checks, masks and modules around it. So the weights of a layer
that read the same input are merged once, and a step is a short list of kernels. The logits are those of the network up
to rounding.

Shapes: B rows, W width, H heads, D head size, P = D / 2, C slots, V vocabulary.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models.attention import EPSILON
from seedfast.models.kv_cache import KVCache
from seedfast.models.transformer_block import TransformerBlock

if TYPE_CHECKING:
    from seedfast.models.transformer_network import TransformerNetwork


class DecodeStep:
    """The logits after one more token of each row, from the weights that the network has now.

    network: causal, without time and cross-attention, in evaluation mode. Not for use under autocast.
    """

    def __init__(self, network: "TransformerNetwork") -> None:
        self.embedding, self.ngrams = network.tokens.weight, network.ngrams
        self.places = None if network.positions is None else network.positions.weight
        self.rope_CP = None
        if network.positions is None:
            self.rope_CP = torch.view_as_complex(network.rotary.view(torch.float32))
        self.layers = [_Layer(cast("TransformerBlock", block)) for block in network.blocks]
        self.norm, self.head_WV = _norm(network.norm), network.head.weight.t()

    @torch.inference_mode()
    def __call__(self, tokens_B: Tensor, cache: KVCache) -> Tensor:
        """Logits [B, V]; the cache holds the token afterwards. Raises UserError if the cache is full."""
        slot = cache.length
        if slot >= cache.keys_NBHCD.shape[3]:
            raise UserError(f"The key-value cache has no room for more than {slot} tokens.")
        mask_B11C = None
        position: Tensor | int = slot
        if cache.has_documents:  # padding on the left: a row's position is not its slot
            cache.documents_BC[:, slot] = 0
            mask_B11C = (cache.documents_BC[:, : slot + 1] == 0)[:, None, None]
            position = cache.next_B.clone()
        x_BW = self.embedding[tokens_B]
        if self.ngrams is not None:
            recent_BL, documents_BL = cache.add_tokens(tokens_B.unsqueeze(1), self.ngrams.reach)
            before = [each_BL[:, -1] for each_BL in self.ngrams.preceding(recent_BL, documents_BL)]
            x_BW = x_BW + self.ngrams(tokens_B, before)
        if self.places is not None:
            x_BW = x_BW + self.places[position]
        rope = None if self.rope_CP is None else self.rope_CP[position]
        if rope is not None and rope.ndim == 2:
            rope = rope[:, None]
        # Views of all layers at once: slicing each layer's cache would take longer than copying into it.
        views = (
            cache.keys_NBHCD[:, :, :, slot].unbind(0),
            cache.values_NBHCD[:, :, :, slot].unbind(0),
            cache.keys_NBHCD[:, :, :, : slot + 1].unbind(0),
            cache.values_NBHCD[:, :, :, : slot + 1].unbind(0),
        )
        for layer, key_BHD, value_BHD, keys_BHCD, values_BHCD in zip(self.layers, *views, strict=True):
            q_BHD, k_BHD, v_BHD = layer.project(x_BW, rope)
            key_BHD.copy_(k_BHD)
            value_BHD.copy_(v_BHD)
            y_BH1D = F.scaled_dot_product_attention(q_BHD.unsqueeze(2), keys_BHCD, values_BHCD, attn_mask=mask_B11C)
            x_BW = layer.add(x_BW, y_BH1D)
        cache.next_B += 1
        cache.length += 1
        return torch.mm(self.norm(x_BW), self.head_WV)


class _Layer:
    """The weights of a block, transposed, and merged where they read the same input."""

    def __init__(self, block: TransformerBlock) -> None:
        attention, mlp = block.attention, block.mlp
        self.norm_attention, self.norm_mlp, self.mlp = _norm(block.norm_attention), _norm(block.norm_mlp), mlp
        self.heads, self.size, self.qk_norm = attention.heads, attention.size, attention.qk_norm
        qkv = attention.qkv
        self.qkv, self.qkv_bias = torch.cat([qkv.q, qkv.k, qkv.v]).t(), qkv.bias
        self.out, self.out_bias = attention.out.weight.t(), attention.out.bias
        reading = [mlp.up] if mlp.gate is None else [mlp.up, mlp.gate]
        self.up = torch.cat([linear.weight for linear in reading]).t()
        self.up_bias = None if mlp.up.bias is None else torch.cat([linear.bias for linear in reading])
        self.down, self.down_bias = mlp.down.weight.t(), mlp.down.bias

    def project(self, x_BW: Tensor, rope: Tensor | None) -> tuple[Tensor, ...]:
        """Queries, keys and values of the new token, [B, H, D] each. rope: complex64, [P] or [B, 1, P]."""
        heads, size = self.heads, self.size
        qkv = _product(self.norm_attention(x_BW), self.qkv, self.qkv_bias).view(len(x_BW), 3 * heads, size)
        if not self.qk_norm and rope is None:
            return torch.split(qkv, heads, dim=1)
        qk, v = torch.split(qkv, [2 * heads, heads], dim=1)
        if self.qk_norm:
            qk = rms_normalised(qk)
        if rope is not None:
            pairs = torch.view_as_complex(qk.view(len(x_BW), 2 * heads, size // 2, 2))
            qk = torch.view_as_real(pairs * rope).view(len(x_BW), 2 * heads, size)
        return *torch.split(qk, heads, dim=1), v

    def add(self, x_BW: Tensor, y_BH1D: Tensor) -> Tensor:
        """The residual stream after attention and MLP."""
        x_BW = _add_product(x_BW, y_BH1D.reshape(x_BW.shape), self.out, self.out_bias)
        h = _product(self.norm_mlp(x_BW), self.up, self.up_bias)
        if self.mlp.gate is None:
            h = self.mlp.bend(h)
        else:
            up, gate = h.chunk(2, dim=-1)
            h = F.silu(gate) * up
        return _add_product(x_BW, h, self.down, self.down_bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _add_product(to: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.addmm(to if bias is None else to + bias, x, weight)


def rms_normalised(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension in four kernels: x / √(mean square + ε), the root as a hypotenuse.

    `F.rms_norm` takes eight on a CPU, and at one position each costs more than its numbers.
    """
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).mul_(x.shape[-1] ** -0.5)
    y: Tensor = x / scale.hypot_(_ROOT_OF_EPSILON.to(x.device))
    return y


_ROOT_OF_EPSILON = torch.tensor(EPSILON**0.5)


def _norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """The norm of a block as a function."""
    return rms_normalised if isinstance(norm, nn.RMSNorm) else norm.forward
