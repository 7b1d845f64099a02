"""The configuration of the transformer, the backbone of every text family."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

from seedfast.errors import UserError
from seedfast.models.config import Size, TokenModel
from seedfast.models.transformer_block import Nonlinearity
from seedfast.models.transformer_network import TransformerNetwork
from seedfast.options import SET, AddedLater, Affects, AtLeast, Between, Example, OnlyWith, check

_SIZES: Mapping[Size, tuple[int, int, int]] = {
    "tiny": (4, 4, 128),
    "small": (12, 12, 768),
    "medium": (24, 16, 1024),
    "large": (36, 20, 1280),
    "xl": (48, 25, 1600),
}
"""Layers, heads and width of GPT-2's sizes (Radford et al. 2019, table 2), and of the recipes ("tiny")."""


@dataclass(frozen=True, kw_only=True)
class Transformer(TokenModel):
    """The shape of a transformer that a user chooses; the data and the family fix the arguments of `build`.

    The defaults train best in few steps; `Transformer.gpt2()` is GPT-2's architecture.
    """

    layers: Annotated[int, AtLeast(1)] = 4
    """Number of blocks, each of attention and MLP."""
    heads: Annotated[int, AtLeast(1)] = 4
    """Attention heads; must divide the width."""
    width: Annotated[int, AtLeast(1)] = 128
    """Channels of the residual stream."""
    mlp: Nonlinearity = "swiglu"
    """`swiglu`: gated SiLU (Shazeer 2020); `relu2`: squared ReLU (So et al. 2021); `gelu`: GPT-2's tanh approximation;
    `gelu-erf`: the exact function, as in nanoGPT."""
    hidden: Annotated[int | None, AtLeast(1), Example(24)] = None
    """Channels inside the MLP (default: 4 × width; for swiglu 8/3 × width, rounded to a multiple of eight, which has
    the same number of parameters)."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm (Zhang & Sennrich 2019) without a gain, or LayerNorm with a gain."""
    qk_norm: bool = True
    """Normalise queries and keys, which bounds the attention logits (Henry et al. 2020)."""
    positions: Literal["rope", "learned"] = "rope"
    """Rotary embedding (Su et al. 2021), or a learned embedding of each position."""
    ngrams: Annotated[tuple[int, ...], AtLeast(1), Example((64, 32)), AddedLater(())] = ()
    """Rows of tables for 2-grams, 3-grams, …: each position also receives a learned vector for the last two, three, …
    tokens together (Huang et al. 2025). The row is a hash of the tokens, so some n-grams share one."""
    ngrams_in: Annotated[
        Literal["embedding", "layers"],
        OnlyWith(ngrams=SET),
        Example("layers", ngrams=(64, 32), layers=2),
        AddedLater("embedding"),
    ] = "embedding"
    """Where the vectors of n-grams are added: to the embedding of the tokens, or also in front of every later block,
    by a matrix of each block (several layers read them in Cheng et al. 2026, "Engram", there through gates)."""
    bias: bool = False
    """Use biases in all linear layers of the blocks and in LayerNorm."""
    init: Literal["identity", "gpt2"] = "identity"
    """`identity`: matrices N(0, 1 / fan-in), embeddings N(0, 1) (N(0, 0.02²) if tied), zero for residual outputs and
    for an untied output layer: the first loss is log V. `gpt2`: N(0, 0.02²), residual outputs divided by
    √(2 · layers) (Radford et al. 2019, section 2.3)."""
    tied: bool = False
    """Share the weight of the token embedding with the output layer."""
    dropout: Annotated[float, Between(0, 1, open_high=True)] = 0.0
    """Dropout rate of embeddings, attention weights and the outputs of attention and MLP."""
    gradient_checkpointing: Annotated[bool, Affects("computation"), AddedLater(False)] = False
    """Recompute each block's activations in the backward pass instead of storing them: a third slower, much less
    memory, the same numbers."""

    def __post_init__(self) -> None:
        check(self, "model.")
        if self.width % self.heads:
            low, high = self.width // self.heads * self.heads, -(-self.width // self.heads) * self.heads
            raise UserError(
                f"model.heads ({self.heads}) must divide model.width ({self.width}); "
                f"the nearest possible widths are {f'{low} and ' if low else ''}{high}."
            )
        if self.ngrams_in == "layers" and self.layers == 1:
            raise UserError(
                "model.ngrams_in layers adds n-grams in front of every block but the first, and model.layers is 1: "
                "set it to embedding, or have more layers."
            )
        if self.positions == "rope" and self.width // self.heads % 2:
            raise UserError(
                "Rotary embeddings rotate pairs of channels, so the head size must be even, but model.width / "
                f"model.heads is {self.width // self.heads}; change one or set model.positions to learned."
            )

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
        """GPT-2's architecture (Radford et al. 2019); the default is its smallest size."""
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

    def shaped(self, layers: int, heads: int, width: int) -> Self:
        """The same architecture in another shape."""
        return replace(self, layers=layers, heads=heads, width=width)

    def sizes(self) -> Mapping[Size, Self]:
        """The shapes of GPT-2, with this architecture."""
        return {size: self.shaped(*shape) for size, shape in _SIZES.items()}

    @property
    def mlp_width(self) -> int:
        """Channels inside the MLP."""
        if self.hidden is not None:
            return self.hidden
        # A multiple of eight: tensor cores are slow for other sizes.
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
    ) -> TransformerNetwork:
        """A newly initialised network; torch's generator draws the weights.

        vocabulary: number of input tokens. outputs: number of logits (default: the vocabulary).
        context: length of the longest sequence. causal: whether a position attends only to itself and earlier ones.
        block: block size of block diffusion: a position attends to the noisy tokens of its own block and to the clean
            tokens of earlier blocks. time_conditioned: whether the network takes a time.
        memory_width: channels of the memory that cross-attention attends to; None: no cross-attention.
        Raises UserError if a size is below 1, or if tied weights would need two shapes.
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
