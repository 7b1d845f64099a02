"""The transformer: one backbone for every text family.

Shapes: B batch, L new positions, M memory, V vocabulary, W width (D in the inputs), P = head size / 2.
"""

from dataclasses import dataclass
from typing import Literal, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.models.attention import (
    EPSILON,
    PADDING,
    QKV,
    Cache,
    CrossAttention,
    SelfAttention,
    block_sight,
    rotary_table,
    sight,
)
from seedfast.models.config import ModelConfig
from seedfast.models.token_network import TokenNetwork
from seedfast.models.transformer_block import MLP, Block, Inputs, Nonlinearity, Surroundings, modulate, sinusoid, wanted

_TIME_CHANNELS = 128


@dataclass(frozen=True, kw_only=True)
class Transformer(ModelConfig):
    """The shape of a transformer: what a user chooses. What the data and the family fix comes to `build`.

    The defaults train best in few steps; `Transformer.gpt2()` is GPT-2's setting.
    """

    layers: int = 4
    """Blocks, each of attention and MLP."""
    heads: int = 4
    """Attention heads; must divide the width."""
    width: int = 128
    """Channels of the residual stream."""
    mlp: Nonlinearity = "swiglu"
    """`swiglu`: gated SiLU (Shazeer 2020); `relu2`: squared ReLU (So et al. 2021); `gelu`: GPT-2's, by tanh;
    `gelu-erf`: nanoGPT's, exact."""
    hidden: int | None = None
    """Channels inside the MLP (default: 4 × width; for swiglu 8/3 × width in eights: as many parameters)."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm (Zhang & Sennrich 2019), without a gain, or LayerNorm with one."""
    qk_norm: bool = True
    """Normalise queries and keys, which bounds the attention logits (Henry et al. 2020)."""
    positions: Literal["rope", "learned"] = "rope"
    """Rotary (Su et al. 2021) or a learned embedding of each position."""
    bias: bool = False
    """Biases in all linear layers of the blocks and in LayerNorm."""
    init: Literal["identity", "gpt2"] = "identity"
    """`identity`: matrices N(0, 1 / fan-in), embeddings N(0, 1) (0.02² if tied), zero for what writes
    to the residual stream and for an untied output layer: the first loss is log V. `gpt2`: N(0, 0.02²), and
    what writes to the residual stream divided by √(2 · layers) (Radford et al. 2019, section 2.3)."""
    tied: bool = False
    """Use the token embedding as the output layer too."""
    dropout: float = 0.0
    """Of embeddings, attention weights and the output of each attention and MLP."""

    def __post_init__(self) -> None:
        for key in ("layers", "heads", "width", "hidden"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"model.{key} must be at least 1, not {value}.")
        if self.width % self.heads:
            low, high = self.width // self.heads * self.heads, -(-self.width // self.heads) * self.heads
            raise UserError(
                f"model.heads ({self.heads}) must divide model.width ({self.width}); "
                f"the nearest widths that fit are {f'{low} and ' if low else ''}{high}."
            )
        if self.positions == "rope" and self.width // self.heads % 2:
            raise UserError(
                "Rotary positions turn pairs of channels, so the head size must be even, but model.width / "
                f"model.heads is {self.width // self.heads}; change one or set model.positions to learned."
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout must lie in [0, 1), not {self.dropout}.")

    @classmethod
    def gpt2(
        cls,
        *,
        layers: int = 12,
        heads: int = 12,
        width: int = 768,
        hidden: int | None = None,
        mlp: Nonlinearity = "gelu",
        bias: bool = True,
        tied: bool = True,
        dropout: float = 0.0,
    ) -> "Transformer":
        """GPT-2's architecture (Radford et al. 2019): the default is its smallest size."""
        return cls(
            layers=layers,
            heads=heads,
            width=width,
            hidden=hidden,
            mlp=mlp,
            norm="layer",
            qk_norm=False,
            positions="learned",
            bias=bias,
            init="gpt2",
            tied=tied,
            dropout=dropout,
        )

    @property
    def mlp_width(self) -> int:
        """Channels inside the MLP."""
        if self.hidden is not None:
            return self.hidden
        # In eights, because tensor cores are slow on anything else.
        return max(1, round(self.width / 3)) * 8 if self.mlp == "swiglu" else 4 * self.width

    def build(
        self,
        *,
        vocabulary: int,
        context: int,
        causal: bool,
        block: int | None = None,
        outputs: int | None = None,
        time_conditioned: bool = False,
        memory_width: int | None = None,
    ) -> "TransformerNetwork":
        """A freshly initialised network (torch's generator draws).

        vocabulary: how many tokens go in; outputs: how many logits come out (default: as many).
        context: the longest sequence. causal: whether a position sees only itself and what is before it.
        block: positions see all of their own block of so many noisy tokens, and the clean tokens of the blocks before.
        time_conditioned: whether it takes a time. memory_width: channels of the memory that it takes.
        Raises UserError where sizes are below 1 or tied weights would need two shapes.
        """
        sizes = {
            "vocabulary": vocabulary,
            "context": context,
            "outputs": outputs,
            "memory_width": memory_width,
        }
        for key, value in sizes.items():
            if value is not None and value < 1:
                raise UserError(f"The {key} of a transformer must be at least 1, not {value}.")
        if self.tied and outputs not in (None, vocabulary):
            raise UserError(
                f"model.tied shares the embedding of {vocabulary} tokens with the output layer, but "
                f"{outputs} outputs are needed; set model.tied to false."
            )
        return TransformerNetwork(
            self,
            vocabulary=vocabulary,
            context=context,
            causal=causal,
            block=block,
            outputs=vocabulary if outputs is None else outputs,
            time_conditioned=time_conditioned,
            memory_width=memory_width,
        )


class TransformerNetwork(TokenNetwork):
    """What `Transformer.build` builds. Call it for logits or scores, `features` for what the output layer sees."""

    rotary: Tensor
    head: nn.Linear

    def __init__(
        self,
        config: Transformer,
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
        self._initialise()

    def _norm(self) -> nn.Module:
        if self.config.norm == "rms":
            # No gain: the matrix behind it can scale as well, and on a CPU a gain doubles the norm's time.
            return nn.RMSNorm(self.config.width, eps=EPSILON, elementwise_affine=False)
        affine = self.time is None  # with a time, its scale and shift take the place of gain and bias
        return nn.LayerNorm(self.config.width, elementwise_affine=affine, bias=self.config.bias)

    def _block(self, layer: int) -> Block:
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
        return Block(
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
            norm=self._norm,
            dropout=config.dropout,
        )

    @torch.no_grad()
    def _initialise(self) -> None:
        """Draw the weights as `Transformer.init` says."""
        gpt2, config = self.config.init == "gpt2", self.config
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        writers = {id(module) for block in blocks for module in block.writers()}
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02 if gpt2 or config.tied else 1.0)
            elif isinstance(module, QKV):
                module.initialise(0.02 if gpt2 else config.width**-0.5)
            elif isinstance(module, nn.Linear) and module is not self.head:
                std = 0.02 if gpt2 else module.in_features**-0.5
                if id(module) in writers:
                    # Behind a gate that starts at zero, a writer must not: neither would ever see a gradient.
                    std = std / (2 * config.layers) ** 0.5 if gpt2 or self.time is not None else 0.0
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if not config.tied:
            nn.init.normal_(self.head.weight, std=0.02 if gpt2 else 0.0)
        for modulation in [self.modulation, *(block.modulation for block in blocks)]:
            if modulation is not None:
                nn.init.zeros_(modulation.weight)

    def get_output_embeddings(self) -> nn.Linear:
        """The output layer, by the name that transformers gives it."""
        return self.head

    def cache(self, batch: int, length: int | None = None) -> Cache:
        """An empty key-value cache of `length` slots (default: the context), of which padding takes some too.

        Raises UserError for a network that sees both directions: there, new tokens change what the old ones saw. One
        that reads in blocks is given a whole block at each call.
        """
        if not self.causal and self.block is None:
            raise UserError("Only a causal network can use a key-value cache; this one sees both directions.")
        length = self.context if length is None else length
        config, weight = self.config, self.tokens.weight
        shape = (config.layers, batch, config.heads, length, config.width // config.heads)
        return Cache(
            keys_NBHCD=weight.new_zeros(shape),
            values_NBHCD=weight.new_zeros(shape),
            documents_BC=torch.zeros(batch, length, dtype=torch.int64, device=weight.device),
            next_B=torch.zeros(batch, dtype=torch.int64, device=weight.device),
        )

    def features(  # type: ignore[override]  # it says which inputs there are
        self, tokens_BL: Tensor | None = None, *, where_N: Tensor | None = None, **inputs: Unpack[Inputs]
    ) -> Tensor:
        """What the output layer sees, [B, L, W], of token ids (or of embeddings; `Inputs` says what else may be given).

        where_N: indices into the flattened B · L positions: only those are wanted, [N, W]. The last block's MLP, which
            mixes no positions, then leaves the others out; masked diffusion asks for half of them on average.
        Raises UserError if the sequence outgrows the context.
        """
        x_BLW: Tensor = self._embed(tokens_BL, inputs.get("embeddings_BLD"))
        around, positions = self._surroundings(x_BLW, inputs)
        length, clean_BL = x_BLW.shape[1], inputs.get("clean_BL")
        if clean_BL is not None:
            x_BLW = torch.cat([self.tokens(clean_BL), x_BLW], dim=1)
        if self.positions is not None:
            x_BLW = x_BLW + self.positions(positions)
        if self.config.dropout:
            x_BLW = F.dropout(x_BLW, self.config.dropout, self.training)
        inside_N = where_N
        if clean_BL is not None and where_N is not None:  # each row's noisy tokens stand behind as many clean ones
            inside_N = where_N + (torch.div(where_N, length, rounding_mode="floor") + 1) * length
        *blocks, last = self.blocks
        for block in blocks:
            x_BLW = block(x_BLW, around)
        x: Tensor = last(x_BLW, around, inside_N)
        if around.cache is not None:
            around.cache.length += length
        x = self.norm(x if where_N is not None else x[:, -length:])
        if self.modulation is None:
            return x
        shift_scale = self.modulation(around.time_BW)[:, None].expand(-1, length, -1)
        return modulate(x, *wanted(shift_scale, where_N).chunk(2, dim=-1))

    def _embed(self, tokens_BL: Tensor | None, embeddings_BLD: Tensor | None) -> Tensor:
        assert (tokens_BL is None) != (embeddings_BLD is None), "a network takes tokens or embeddings"
        if embeddings_BLD is None:
            embeddings_BLD = self.tokens(tokens_BL)
        assert embeddings_BLD.shape[-1] == self.config.width, "embeddings must have the network's width"
        return embeddings_BLD

    def _surroundings(self, x_BLW: Tensor, inputs: Inputs) -> tuple[Surroundings, Tensor]:
        """What the blocks are given, and the positions, [L] or [B, L]."""
        length, device, cache = x_BLW.shape[1], x_BLW.device, inputs.get("cache")
        positions = self._positions(x_BLW, inputs)
        documents_BL, real_BL = inputs.get("documents_BL"), inputs.get("real_BL")
        if real_BL is not None:
            documents_BL = torch.where(real_BL, 0 if documents_BL is None else documents_BL, PADDING)
        if cache is not None:
            documents_BL = cache.enter(documents_BL, length)
        assert (self.block is None or cache is not None) == (inputs.get("clean_BL") is None), (
            "a network that reads in blocks, and no other, needs clean_BL or a cache"
        )
        if self.block is not None and cache is None:
            sighted: tuple[Tensor | None, bool] = block_sight(length, self.block, documents_BL, device), False
            positions = positions.repeat(2) if positions.ndim == 1 else positions.repeat(1, 2)
        else:
            sighted = sight(documents_BL, length=length, causal=self.causal, cache=cache, device=device)
        turn_BLP: Tensor | None = None
        if self.positions is None:
            turn_BLP = torch.view_as_complex(self.rotary.view(torch.float32))[positions]
            turn_BLP = turn_BLP if turn_BLP.ndim == 3 else turn_BLP[None]
        around = Surroundings(
            turn_BLP=turn_BLP,
            mask=sighted[0],
            is_causal=sighted[1],
            cache=cache,
            time_BW=self._embed_time(inputs.get("time_B")),
            memory_BMU=inputs.get("memory_BMD"),
            memory_mask_BM=self._memory_mask(inputs),
        )
        return around, positions

    def _positions(self, x_BLW: Tensor, inputs: Inputs) -> Tensor:
        length, cache, real_BL = x_BLW.shape[1], inputs.get("cache"), inputs.get("real_BL")
        start = cache.length if cache is not None else 0
        room = cache.keys_NBHCD.shape[3] if cache is not None else self.context
        if start + length > room:
            raise UserError(
                f"A sequence of {start + length} tokens is longer than the {room} positions of this "
                f"{'cache' if cache is not None else 'network'}; shorten it or build with a longer context."
            )
        positions_BL = inputs.get("positions_BL")
        if positions_BL is None and cache is not None:
            positions_BL = cache.count(real_BL, length)
        elif positions_BL is None and real_BL is not None:
            positions_BL = (real_BL.cumsum(1) - 1).clamp(min=0)
        if positions_BL is not None:
            return positions_BL
        return torch.arange(start, start + length, device=x_BLW.device)

    def _embed_time(self, time_B: Tensor | None) -> Tensor | None:
        assert (time_B is None) == (self.time is None), "time_B and time_conditioned belong together"
        if time_B is None or self.time is None:
            return None
        time_BW: Tensor = self.time(sinusoid(time_B, _TIME_CHANNELS).to(self.tokens.weight.dtype))
        return time_BW

    def _memory_mask(self, inputs: Inputs) -> Tensor | None:
        cache, mask_BM = inputs.get("cache"), inputs.get("memory_mask_BM")
        given = inputs.get("memory_BMD") is not None
        assert not given or self.memory_width is not None, "memory_BMD needs a network built with memory_width"
        assert given or mask_BM is None, "memory_mask_BM needs memory_BMD"
        if cache is None:
            return mask_BM
        if given:
            cache.memory_mask_BM, cache.origin_B = mask_BM, None
        return cache.memory_mask_BM
