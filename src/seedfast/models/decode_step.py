"""New tokens of each row through a causal transformer: the network's forward pass specialised for generation.

At one position a kernel takes microseconds, less than the checks, masks, views and modules around it, and all weights
pass through the processor's cache for each token, so that the code of those is fetched anew. So the weights of a layer
that read the same input are merged once, and a step is a short list of kernels, in place where a tensor is not needed
again. The logits are those of the network up to rounding.

Shapes: B rows, L new tokens of each, N = B L, W width, H heads, P = 2 H (keys, then values), T = 3 H, D head size,
C slots, V vocabulary.
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
    """The logits after the next tokens of each row, from the weights that the network has now.

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
    def __call__(self, tokens_BL: Tensor, cache: KVCache) -> Tensor:
        """Logits after the last token, [B, V]; the cache holds the tokens afterwards.

        Several tokens are read into an empty cache. Raises UserError if the cache is full.
        """
        slot, (size, length) = cache.length, tokens_BL.shape
        end = slot + length
        if end > cache.room:
            tokens = "token" if cache.room == 1 else "tokens"
            raise UserError(f"The key-value cache has no room for more than {cache.room} {tokens}.")
        assert length == 1 or not (slot or cache.has_documents), "several tokens are read into an empty cache"
        mask_B11C = ngrams_NG = None
        position: Tensor | slice = slice(slot, end)
        if cache.has_documents:  # padding on the left: a row's position is not its slot
            cache.documents_BC[:, slot] = 0
            mask_B11C = (cache.documents_BC[:, :end] == 0)[:, None, None]
            position = cache.next_B.unsqueeze(1)
        x_BLW = torch.embedding(self.embedding, tokens_BL)
        if self.ngrams is not None:
            recent_BL, documents_BL = cache.add_tokens(tokens_BL, self.ngrams.reach)
            before = [each_BL[:, -length:] for each_BL in self.ngrams.preceding(recent_BL, documents_BL)]
            ngrams_BLG = self.ngrams.look_up(tokens_BL, before)
            x_BLW += self.ngrams.read(ngrams_BLG)
            ngrams_NG = ngrams_BLG.flatten(0, 1)
        if self.places is not None:
            x_BLW += self.places[position]
        rope = None if self.rope is None else self.rope[position]
        if rope is not None and rope.ndim == 3:
            rope = rope[:, None]
        x = x_BLW.view(size * length, -1)
        for layer, views in zip(self.layers, cache.layers, strict=True):
            x = layer(x, rope, mask_B11C, views, slice(slot, end), ngrams_NG, is_last=layer is self.layers[-1])
        cache.next_B += length
        cache.length = end
        return torch.mm(self.norm(x), self.head_WV)


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
        x_NW: Tensor,
        rope: Tensor | None,
        mask_B11C: Tensor | None,
        views: tuple[Tensor, Tensor, Tensor],
        slots: slice,
        ngrams_NG: Tensor | None,
        *,
        is_last: bool,
    ) -> Tensor:
        """Add attention and MLP to the residual stream, in place; returns it, [N, W].

        The last layer computes and returns only what the last token of each row needs, [B, W]. rope: complex64,
        [L, D / 2] or [B, 1, 1, D / 2], with the factor √D of QK-norm. views: of the layer's cache.
        """
        if self.ngrams is not None and ngrams_NG is not None:
            x_NW.addmm_(ngrams_NG, self.ngrams)
        heads, (pairs_BPCD, keys_BHCD, values_BHCD) = self.heads, views
        length = slots.stop - slots.start
        qkv = _product(self.norm_attention(x_NW), self.qkv, self.qkv_bias)
        if length == 1:  # the same without a view more
            qkv_BTLD = qkv.view(-1, 3 * heads, 1, self.size)
        else:
            qkv_BTLD = qkv.view(-1, length, 3 * heads, self.size).transpose(1, 2)
        if self.qk_norm or rope is not None:
            qk = qkv_BTLD.narrow(1, 0, 2 * heads)
            if self.qk_norm:
                qk /= _length(qk, self.qk_rest)
            if rope is not None:
                qk.view(torch.complex64).mul_(rope)
            elif self.qk_norm:
                qk *= self.size**0.5
        pairs_BPCD.narrow(2, slots.start, length).copy_(qkv_BTLD.narrow(1, heads, 2 * heads))
        q_BHLD = qkv_BTLD.narrow(1, 0, heads)
        keys_BHCD, values_BHCD = keys_BHCD.narrow(2, 0, slots.stop), values_BHCD.narrow(2, 0, slots.stop)
        if is_last and length > 1:
            q_BHLD, x_NW = q_BHLD.narrow(2, length - 1, 1), x_NW[length - 1 :: length].contiguous()
        is_causal = q_BHLD.shape[2] > 1
        y_BHLD = F.scaled_dot_product_attention(q_BHLD, keys_BHCD, values_BHCD, mask_B11C, is_causal=is_causal)
        y_NW = y_BHLD.transpose(1, 2).reshape(x_NW.shape) if is_causal else y_BHLD.view(x_NW.shape)
        _add_product(x_NW, y_NW, self.out, self.out_bias)
        h = self.bend(_product(self.norm_mlp(x_NW), self.up, self.up_bias))
        _add_product(x_NW, h, self.down, self.down_bias)
        return x_NW


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
