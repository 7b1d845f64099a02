"""The network of a `Transformer` configuration.

Shapes: B batch, L new positions, M memory, N selected positions, V vocabulary, W width (D in the inputs),
P = head size / 2.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models.attention import CrossAttention, SelfAttention, rotary_table
from seedfast.models.attention_mask import AttentionMask, with_padding
from seedfast.models.decode_step import DecodeStep
from seedfast.models.kv_cache import KVCache
from seedfast.models.network import CompiledInTraining, recomputed
from seedfast.models.ngrams import NGramEmbedding, preceding_in_blocks, read_ngrams
from seedfast.models.rms_norm import RMSNorm
from seedfast.models.token_network import SequenceInputs, TokenNetwork
from seedfast.models.transformer_block import MLP, BlockContext, TransformerBlock, modulate, select_positions, sinusoid
from seedfast.models.transformer_init import initialise

if TYPE_CHECKING:
    from seedfast.models.transformer import Transformer

_TIME_CHANNELS = 128


class TransformerNetwork(TokenNetwork[KVCache]):
    """The network that `Transformer.build` returns, with the arguments of `build`."""

    rotary: Tensor
    head: nn.Linear

    def __init__(
        self,
        config: "Transformer",
        *,
        vocabulary: int,
        context: int,
        causal: bool,
        block: int | None,
        outputs: int,
        time_conditioned: bool,
        memory_width: int | None,
    ) -> None:
        super().__init__()
        self.config, self.context, self.causal, self.block = config, context, causal, block
        self.memory_width = memory_width
        width = config.width
        self.tokens = nn.Embedding(vocabulary, width)
        self.ngrams: NGramEmbedding | None = None
        if config.ngrams:
            self.ngrams = NGramEmbedding(rows=config.ngrams, vocabulary=vocabulary, width=width)
        self.positions = nn.Embedding(context, width) if config.positions == "learned" else None
        if self.positions is None:
            self.register_buffer("rotary", rotary_table(context, width // config.heads), persistent=False)
        self.time: nn.Sequential | None = None
        self.modulation: nn.Linear | None = None
        if time_conditioned:
            self.time = nn.Sequential(nn.Linear(_TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
            self.modulation = nn.Linear(width, 2 * width)
        self.blocks = nn.ModuleList(self._block(layer) for layer in range(config.layers))
        self.norm = self._norm()
        self.head = nn.Linear(width, outputs, bias=False)
        if config.tied:
            self.head.weight = self.tokens.weight
        initialise(self)

    def _norm(self) -> nn.Module:
        if self.config.norm == "rms":
            return RMSNorm(self.config.width)
        affine = self.time is None  # with a time, its scale and shift replace gain and bias
        return nn.LayerNorm(self.config.width, elementwise_affine=affine, bias=self.config.bias)

    def _block(self, layer: int) -> TransformerBlock:
        config = self.config
        cross = self.memory_width is not None and CrossAttention(
            width=config.width,
            heads=config.heads,
            memory_width=self.memory_width,
            qk_norm=config.qk_norm,
            bias=config.bias,
            dropout=config.dropout,
            layer=layer,
        )
        return TransformerBlock(
            attention=SelfAttention(
                width=config.width,
                heads=config.heads,
                qk_norm=config.qk_norm,
                bias=config.bias,
                dropout=config.dropout,
                layer=layer,
            ),
            mlp=MLP(kind=config.mlp, width=config.width, hidden=config.mlp_width, bias=config.bias),
            cross=cross or None,
            modulation=nn.Linear(config.width, 6 * config.width) if self.time is not None else None,
            ngrams=read_ngrams(config.width) if layer and config.ngrams_in == "layers" else None,
            norm=self._norm,
            dropout=config.dropout,
        )

    @property
    def blocks_in_order(self) -> list[nn.Module]:
        """Each block."""
        return list(self.blocks)

    @property
    def compiled_parts(self) -> list[CompiledInTraining]:
        """Each block, and the loss."""
        return [*cast("list[TransformerBlock]", list(self.blocks)), self.cross_entropy]

    @property
    def output_layer(self) -> nn.Linear:
        """The layer from hidden states to logits."""
        return self.head

    def cache(self, batch: int, length: int | None = None) -> KVCache:
        """An empty key-value cache of `length` slots (default: the context); padding uses slots too.

        A block network is called with one whole block at a time. Raises UserError for any other bidirectional network:
        there, new tokens change the hidden states of earlier ones.
        """
        if not self.causal and self.block is None:
            raise UserError("Only a causal network can use a key-value cache; this one is bidirectional.")
        length = self.context if length is None else length
        config, weight = self.config, self.tokens.weight
        shape = (config.layers, batch, 2 * config.heads, length, config.width // config.heads)
        return KVCache(
            pairs_NBPCD=torch.zeros(shape, dtype=weight.dtype, device=weight.device),
            documents_BC=torch.zeros(batch, length, dtype=torch.int64, device=weight.device),
            next_B=torch.zeros(batch, dtype=torch.int64, device=weight.device),
            tokens_BC=torch.zeros(batch, length, dtype=torch.int64, device=weight.device) if self.ngrams else None,
        )

    def reader(self) -> Callable[[Tensor, KVCache], Tensor]:
        """`TokenNetwork.reader`, a `DecodeStep` where there is no autocast and no shard."""
        plain = self.causal and self.time is None and self.memory_width is None and not self.training
        plain = plain and not self.same_passes
        if plain and not torch.is_autocast_enabled(self.tokens.weight.device.type):
            return DecodeStep(self)
        return super().reader()

    def hidden_states(self, inputs: SequenceInputs[KVCache]) -> Tensor:
        """The input of the output layer, [B, L, W]; with `where_N` only at those positions, [N, W].

        The last block's MLP, which does not mix positions, is then computed only there: masked diffusion needs a
        third of the positions or a little more. Raises UserError if the sequence is longer than the context.
        """
        x_BLW = self._embed(inputs)
        length, where_N, is_block_pass = x_BLW.shape[1], inputs.where_N, inputs.clean_BL is not None
        positions = self._positions(inputs, length, x_BLW.device)
        context = self._context(inputs, positions, length, x_BLW.device)
        if self.ngrams is not None:
            ngrams_BLG = self._look_up(self.ngrams, inputs)
            x_BLW = x_BLW + self.ngrams.read(ngrams_BLG)
            context = replace(context, ngrams_BLG=ngrams_BLG)
        if is_block_pass:
            x_BLW, context = self._with_clean(x_BLW, context, inputs)
        if self.positions is not None:
            x_BLW = x_BLW + self.positions(positions)
        if self.config.dropout:
            x_BLW = F.dropout(x_BLW, self.config.dropout, self.training)
        if is_block_pass and where_N is not None:  # in each row, L clean tokens come before the L noisy ones
            where_N = where_N + (torch.div(where_N, length, rounding_mode="floor") + 1) * length
        *blocks, last = self.blocks
        for block in blocks:
            x_BLW = self._through(block, x_BLW, context)
        x: Tensor = self._through(last, x_BLW, context, where_N)
        if inputs.cache is not None:
            inputs.cache.length += length
        x = self.norm(x if where_N is not None else x[:, -length:])
        if self.modulation is None:
            return x
        shift_scale = self.modulation(context.time_BW)[:, None].expand(-1, length, -1)
        return modulate(x, *select_positions(shift_scale, inputs.where_N).chunk(2, dim=-1))

    def _through(self, block: nn.Module, x_BLW: Tensor, context: BlockContext, where_N: Tensor | None = None) -> Tensor:
        is_recomputed = self.config.gradient_checkpointing and context.cache is None
        x: Tensor = recomputed(block, x_BLW, context, where_N) if is_recomputed else block(x_BLW, context, where_N)
        return x

    def _embed(self, inputs: SequenceInputs[KVCache]) -> Tensor:
        assert (inputs.tokens_BL is None) != (inputs.embeddings_BLD is None), "a network takes tokens or embeddings"
        x_BLW: Tensor = self.tokens(inputs.tokens_BL) if inputs.embeddings_BLD is None else inputs.embeddings_BLD
        assert x_BLW.shape[-1] == self.config.width, "embeddings must have the network's width"
        return x_BLW

    def _look_up(self, ngrams: NGramEmbedding, inputs: SequenceInputs[KVCache]) -> Tensor:
        """The n-grams that end at the new tokens, [B, L, G]; a cache holds the tokens before them."""
        tokens_BL, cache = inputs.tokens_BL, inputs.cache
        assert tokens_BL is not None, "n-grams are of tokens"
        length, documents_BL = tokens_BL.shape[1], with_padding(inputs.documents_BL, inputs.real_BL)
        if cache is not None:
            tokens_BL, documents_BL = cache.add_tokens(tokens_BL, ngrams.reach)
        before = ngrams.preceding(tokens_BL, documents_BL)
        if inputs.clean_BL is not None and self.block is not None:
            before = preceding_in_blocks(before, ngrams.preceding(inputs.clean_BL, documents_BL), self.block)
        return ngrams.look_up(tokens_BL[:, -length:], [each_BL[:, -length:] for each_BL in before])

    def _with_clean(
        self, x_BLW: Tensor, context: BlockContext, inputs: SequenceInputs[KVCache]
    ) -> tuple[Tensor, BlockContext]:
        """The embedded noisy tokens of a block pass, and the blocks' context, with the clean tokens in front."""
        clean_BLW: Tensor = self.tokens(inputs.clean_BL)
        if self.ngrams is not None and inputs.clean_BL is not None and context.ngrams_BLG is not None:
            documents_BL = with_padding(inputs.documents_BL, inputs.real_BL)
            ngrams_BLG = self.ngrams.look_up(inputs.clean_BL, self.ngrams.preceding(inputs.clean_BL, documents_BL))
            clean_BLW = clean_BLW + self.ngrams.read(ngrams_BLG)
            context = replace(context, ngrams_BLG=torch.cat([ngrams_BLG, context.ngrams_BLG], dim=1))
        return torch.cat([clean_BLW, x_BLW], dim=1), context

    def _positions(self, inputs: SequenceInputs[KVCache], length: int, device: torch.device) -> Tensor:
        """The position of each token, [L] or [B, L]; repeated if the clean tokens of the same positions come first."""
        cache = inputs.cache
        start = cache.length if cache is not None else 0
        room = cache.room if cache is not None else self.context
        if start + length > room:
            raise UserError(
                f"A sequence of {start + length} tokens is longer than the {room} positions of this "
                f"{'cache' if cache is not None else 'network'}; shorten it or build with a longer context."
            )
        positions_BL = inputs.positions_BL
        if positions_BL is None and cache is not None:
            positions_BL = cache.next_positions(inputs.real_BL, length)
        elif positions_BL is None and inputs.real_BL is not None:
            positions_BL = (inputs.real_BL.cumsum(1) - 1).clamp(min=0)
        positions = torch.arange(start, start + length, device=device) if positions_BL is None else positions_BL
        if inputs.clean_BL is None:
            return positions
        return positions.repeat(2) if positions.ndim == 1 else positions.repeat(1, 2)

    def _context(
        self, inputs: SequenceInputs[KVCache], positions: Tensor, length: int, device: torch.device
    ) -> BlockContext:
        mask = self._mask(inputs, length, device)
        rope_BLP2: Tensor | None = None
        if self.positions is None:
            rope_BLP2 = self.rotary.view(torch.float32)[positions]
            rope_BLP2 = rope_BLP2 if rope_BLP2.ndim == 4 else rope_BLP2[None]
        return BlockContext(
            mask=mask,
            rope_BLP2=rope_BLP2,
            cache=inputs.cache,
            time_BW=self._embed_time(inputs.time_B),
            memory_BMU=inputs.memory_BMD,
            memory_mask=self._memory_mask(inputs),
        )

    def _mask(self, inputs: SequenceInputs[KVCache], length: int, device: torch.device) -> AttentionMask:
        cache, documents_BL = inputs.cache, with_padding(inputs.documents_BL, inputs.real_BL)
        cached, cached_BC = 0, None
        if cache is not None:
            documents_BL = cache.add_documents(documents_BL, length)
            cached, cached_BC = cache.length, cache.documents_BC[:, : cache.length + length]
        assert (self.block is None or cache is not None) == (inputs.clean_BL is None), (
            "a block network needs clean_BL or a cache, and no other network takes clean_BL"
        )
        if self.block is not None and cache is None:
            return AttentionMask.of_blocks(length, self.block, documents_BL, device)
        return AttentionMask.of_documents(
            documents_BL, length=length, causal=self.causal, device=device, cached_BC=cached_BC, cached=cached
        )

    def _memory_mask(self, inputs: SequenceInputs[KVCache]) -> AttentionMask:
        given = inputs.memory_BMD is not None
        assert not given or self.memory_width is not None, "memory_BMD needs a network built with memory_width"
        assert given or inputs.memory_mask_BM is None, "memory_mask_BM needs memory_BMD"
        cache = inputs.cache
        if cache is None:
            return AttentionMask.of_memory(inputs.memory_mask_BM)
        if given:
            cache.memory_mask_BM, cache.memory_row_B = inputs.memory_mask_BM, None
        return AttentionMask.of_memory(cache.memory_mask_BM)

    def _embed_time(self, time_B: Tensor | None) -> Tensor | None:
        assert (time_B is None) == (self.time is None), "time_B and time_conditioned belong together"
        if time_B is None or self.time is None:
            return None
        time_BW: Tensor = self.time(sinusoid(time_B, _TIME_CHANNELS).to(self.tokens.weight.dtype))
        return time_BW
