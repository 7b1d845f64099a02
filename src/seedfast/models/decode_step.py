"""One new token of each row through a causal transformer: the network's forward pass specialised for generation.

At one position a kernel takes microseconds, less than the checks, masks, views and modules around it, and all weights
pass through the processor's cache for each token, so that the code of those is fetched anew. So the weights of a layer
that read the same input are merged once, and a step is a short list of kernels, in place where a tensor is not needed
again. The logits are those of the network up to rounding.

Shapes: B rows, W width, H heads, P = 2 H (keys, then values), T = 3 H, D head size, C slots, V vocabulary.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models.kv_cache import KVCache
from seedfast.models.rms_norm import EPSILON, RMSNorm
from seedfast.models.transformer_block import MLP, TransformerBlock

if TYPE_CHECKING:
    from seedfast.models.transformer_network import TransformerNetwork

Function = Callable[[Tensor], Tensor]


class DecodeStep:
    """The logits after one more token of each row, from the weights that the network has now.

    network: causal, without time and cross-attention, in evaluation mode. Not for use under autocast.
    """

    def __init__(self, network: "TransformerNetwork") -> None:
        self.embedding, self.ngrams = network.tokens.weight, network.ngrams
        self.places = None if network.positions is None else network.positions.weight
        self.rope = None
        if network.positions is None:
            config = network.config
            scale = (config.width // config.heads) ** 0.5 if config.qk_norm else 1.0
            self.rope = torch.view_as_complex(network.rotary.view(torch.float32)) * scale
        self.layers = [_Layer(cast("TransformerBlock", block)) for block in network.blocks]
        self.norm, scale = _norm(network.norm, self.embedding.device)
        self.head_WV = network.head.weight.t() if scale == 1 else (scale * network.head.weight).t()

    @torch.inference_mode()
    def __call__(self, tokens_B: Tensor, cache: KVCache) -> Tensor:
        """Logits [B, V]; the cache holds the token afterwards. Raises UserError if the cache is full."""
        slot = cache.length
        if slot >= cache.room:
            raise UserError(f"The key-value cache has no room for more than {slot} tokens.")
        mask_B11C = ngrams_BG = None
        position: Tensor | int = slot
        if cache.has_documents:  # padding on the left: a row's position is not its slot
            cache.documents_BC[:, slot] = 0
            mask_B11C = (cache.documents_BC[:, : slot + 1] == 0)[:, None, None]
            position = cache.next_B.clone()
        x_BW = torch.embedding(self.embedding, tokens_B)
        if self.ngrams is not None:
            recent_BL, documents_BL = cache.add_tokens(tokens_B.unsqueeze(1), self.ngrams.reach)
            before = [each_BL[:, -1] for each_BL in self.ngrams.preceding(recent_BL, documents_BL)]
            ngrams_BG = self.ngrams.look_up(tokens_B, before)
            x_BW += self.ngrams.read(ngrams_BG)
        if self.places is not None:
            x_BW += self.places[position]
        rope = None if self.rope is None else self.rope[position]
        if rope is not None and rope.ndim == 2:
            rope = rope[:, None, None]
        for layer, views in zip(self.layers, cache.layers, strict=True):
            layer(x_BW, rope, mask_B11C, views, slot, ngrams_BG)
        cache.next_B += 1
        cache.length += 1
        return torch.mm(self.norm(x_BW), self.head_WV)


class _Layer:
    """The weights of a block, transposed, merged where they read the same input, and with the factors beside them."""

    def __init__(self, block: TransformerBlock) -> None:
        attention, mlp, qkv = block.attention, block.mlp, block.attention.qkv
        self.ngrams = None if block.ngrams is None else block.ngrams.weight.t()
        self.heads, self.size, self.qk_norm = attention.heads, attention.size, attention.qk_norm
        self.qk_rest = _rest(self.size, qkv.q.device)
        self.norm_attention, scale = _norm(block.norm_attention, qkv.q.device)
        self.qkv, self.qkv_bias = _merged([qkv.q, qkv.k, qkv.v], scale), qkv.bias
        self.out, self.out_bias = attention.out.weight.t(), attention.out.bias
        self.norm_mlp, scale = _norm(block.norm_mlp, qkv.q.device)
        self.bend, bend_scale = _bend(mlp)
        reading = [mlp.up] if mlp.gate is None else [mlp.up, mlp.gate]
        self.up = _merged([linear.weight for linear in reading], scale * bend_scale)
        self.up_bias = None if mlp.up.bias is None else bend_scale * torch.cat([linear.bias for linear in reading])
        self.down = mlp.down.weight.t() if bend_scale == 1 else bend_scale * mlp.down.weight.t()
        self.down_bias = mlp.down.bias

    def __call__(
        self,
        x_BW: Tensor,
        rope: Tensor | None,
        mask_B11C: Tensor | None,
        views: tuple[Tensor, Tensor, Tensor],
        slot: int,
        ngrams_BG: Tensor | None,
    ) -> None:
        """Add attention and MLP to the residual stream.

        rope: complex64, [D / 2] or [B, 1, 1, D / 2], with the factor √D of QK-norm. views: of the layer's cache.
        """
        if self.ngrams is not None and ngrams_BG is not None:
            x_BW.addmm_(ngrams_BG, self.ngrams)
        heads, (pairs_BPCD, keys_BHCD, values_BHCD) = self.heads, views
        qkv = _product(self.norm_attention(x_BW), self.qkv, self.qkv_bias)
        qkv_BT1D = qkv.view(x_BW.shape[0], 3 * heads, 1, self.size)
        if self.qk_norm or rope is not None:
            qk = qkv_BT1D.narrow(1, 0, 2 * heads)
            if self.qk_norm:
                qk /= _length(qk, self.qk_rest)
            if rope is not None:
                qk.view(torch.complex64).mul_(rope)
            elif self.qk_norm:
                qk *= self.size**0.5
        pairs_BPCD.narrow(2, slot, 1).copy_(qkv_BT1D.narrow(1, heads, 2 * heads))
        q_BH1D = qkv_BT1D.narrow(1, 0, heads)
        keys_BHCD, values_BHCD = keys_BHCD.narrow(2, 0, slot + 1), values_BHCD.narrow(2, 0, slot + 1)
        y_BH1D = F.scaled_dot_product_attention(q_BH1D, keys_BHCD, values_BHCD, attn_mask=mask_B11C)
        _add_product(x_BW, y_BH1D.view(x_BW.shape), self.out, self.out_bias)
        h = self.bend(_product(self.norm_mlp(x_BW), self.up, self.up_bias))
        _add_product(x_BW, h, self.down, self.down_bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _add_product(to: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    to.addmm_(x, weight)
    if bias is not None:
        to += bias


def _merged(weights: list[Tensor], scale: float) -> Tensor:
    """Weights that read the same input as one matrix, transposed, times a factor."""
    merged = torch.cat(weights).t()
    return (merged if scale == 1 else scale * merged).contiguous()


def _norm(norm: nn.Module, device: torch.device) -> tuple[Function, float]:
    """The norm of a block as a function, and the factor that its result lacks."""
    if isinstance(norm, RMSNorm):
        rest = _rest(norm.width, device)
        return lambda x: x / _length(x, rest), norm.width**0.5
    assert isinstance(norm, nn.LayerNorm)
    shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps), 1.0


def _rest(size: int, device: torch.device) -> Tensor:
    """√(size · ε), on the device, where `hypot` takes no number of the host."""
    return torch.tensor((size * EPSILON) ** 0.5, device=device)


def _length(x: Tensor, rest: Tensor) -> Tensor:
    """√(Σ x² + size · ε) over the last dimension: what RMSNorm divides by, times √size.

    Two kernels, the root as a hypotenuse. `F.rms_norm` takes eight on a CPU, and at one position each costs more than
    its numbers.
    """
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(rest)
    return length


def _bend(mlp: MLP) -> tuple[Function, float]:
    """The nonlinearity of an MLP as a function, and the factor of both its argument and its result.

    x / 2 · (1 + erf(x / √2)) is z / √2 · (1 + erf z) with z = x / √2. For `F.gelu` a CPU makes a oneDNN primitive,
    which costs more than two kernels.
    """
    match mlp.kind:
        case "swiglu":
            return _swiglu, 1.0
        case "gelu-erf":
            return lambda z: torch.addcmul(z, z, torch.erf(z)), 0.5**0.5
    return mlp.bend, 1.0


def _swiglu(h: Tensor) -> Tensor:
    up, gate = h.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
