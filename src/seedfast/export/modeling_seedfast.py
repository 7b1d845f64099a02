"""Transformers of seedfast as classes of transformers. `seedfast export` copies this file into the folders that need
it, so it does not import seedfast.

Use: `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`, or AutoModelForMaskedLM for a model that
predicts masked tokens. Shapes: B batch, L positions, V vocabulary, W width, H heads, D head size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput, MaskedLMOutput

_EPSILON = 1e-6


class SeedfastConfig(PretrainedConfig):  # type: ignore[misc]  # transformers has no types
    """vocab_size: input tokens. outputs: logits. transformer: the shape, as seedfast's run.yaml has it.

    mask_token_id: of a model that predicts masked tokens, the one after the last token; None for a causal model.
    """

    model_type = "seedfast-transformer"

    def __init__(
        self,
        vocab_size: int = 257,
        outputs: int = 257,
        max_position_embeddings: int = 128,
        transformer: dict[str, Any] | None = None,
        mask_token_id: int | None = None,
        **rest: Any,
    ) -> None:
        self.vocab_size, self.outputs, self.max_position_embeddings = vocab_size, outputs, max_position_embeddings
        self.transformer = transformer or {}
        self.mask_token_id = mask_token_id
        if transformer:
            self.hidden_size, self.num_hidden_layers = transformer["width"], transformer["layers"]
            self.num_attention_heads = transformer["heads"]
            rest["tie_word_embeddings"] = transformer["tied"]
        super().__init__(**rest)


class _QKV(nn.Module):
    """The projections to queries, keys and values: three matrices and one bias."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.zeros(width, width)) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(3 * width)) if bias else None

    def forward(self, x_BLW: Tensor) -> tuple[Tensor, ...]:
        return F.linear(x_BLW, torch.cat([self.q, self.k, self.v]), self.bias).chunk(3, dim=-1)


class _Attention(nn.Module):
    """Multi-head self-attention with optional RMSNorm of queries and keys and optional rotary positions."""

    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        self.heads, self.qk_norm, self.dropout = shape["heads"], shape["qk_norm"], shape["dropout"]
        self.qkv = _QKV(shape["width"], shape["bias"])
        self.out = nn.Linear(shape["width"], shape["width"], bias=shape["bias"])

    def forward(self, x_BLW: Tensor, allowed_BHLL: Tensor, angles_BLP: Tensor | None) -> Tensor:
        heads = (*x_BLW.shape[:2], self.heads, x_BLW.shape[-1] // self.heads)
        q, k, v = (part.reshape(heads) for part in self.qkv(x_BLW))
        if self.qk_norm:
            q, k = (F.rms_norm(part, part.shape[-1:], eps=_EPSILON) for part in (q, k))
        if angles_BLP is not None:
            q, k = (_rotate(part, angles_BLP) for part in (q, k))
        y_BHLD = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=allowed_BHLL,
            dropout_p=self.dropout if self.training else 0.0,
        )
        y_BLW: Tensor = self.out(y_BHLD.transpose(1, 2).flatten(-2))
        return y_BLW


def _rotate(x_BLHD: Tensor, angles_BLP: Tensor) -> Tensor:
    """RoPE on pairs of neighbouring channels (Su et al. 2021, equation 15)."""
    pairs = x_BLHD.float().reshape(*x_BLHD.shape[:-1], -1, 2)
    cos, sin = angles_BLP.cos().float()[:, :, None], angles_BLP.sin().float()[:, :, None]
    even, odd = pairs.unbind(-1)
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2).type_as(x_BLHD)


class _MLP(nn.Module):
    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        self.kind, width, hidden, bias = shape["mlp"], shape["width"], shape["hidden"], shape["bias"]
        self.up = nn.Linear(width, hidden, bias=bias)
        self.gate = nn.Linear(width, hidden, bias=bias) if self.kind == "swiglu" else None
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x_BLW: Tensor) -> Tensor:
        h = self.up(x_BLW)
        if self.gate is not None:
            h = F.silu(self.gate(x_BLW)) * h
        elif self.kind == "relu2":
            h = F.relu(h).square()
        else:
            h = F.gelu(h, approximate="tanh" if self.kind == "gelu" else "none")
        y_BLW: Tensor = self.down(h)
        return y_BLW


def _norm(shape: dict[str, Any]) -> nn.Module:
    if shape["norm"] == "rms":
        return nn.RMSNorm(shape["width"], eps=_EPSILON, elementwise_affine=False)
    return nn.LayerNorm(shape["width"], bias=shape["bias"])


class _Block(nn.Module):
    def __init__(self, shape: dict[str, Any], reads_ngrams: bool) -> None:
        super().__init__()
        self.ngrams = _read_ngrams(shape) if reads_ngrams else None
        self.norm_attention, self.attention = _norm(shape), _Attention(shape)
        self.norm_mlp, self.mlp = _norm(shape), _MLP(shape)
        self.dropout = nn.Dropout(shape["dropout"])

    def forward(
        self, x_BLW: Tensor, allowed_BHLL: Tensor, angles_BLP: Tensor | None, ngrams_BLG: Tensor | None
    ) -> Tensor:
        if self.ngrams is not None:
            x_BLW = x_BLW + self.ngrams(ngrams_BLG)
        x_BLW = x_BLW + self.dropout(self.attention(self.norm_attention(x_BLW), allowed_BHLL, angles_BLP))
        y_BLW: Tensor = x_BLW + self.dropout(self.mlp(self.norm_mlp(x_BLW)))
        return y_BLW


def _read_ngrams(shape: dict[str, Any]) -> nn.Linear:
    return nn.Linear(max(1, shape["width"] // 4), shape["width"], bias=False)


class _NGrams(nn.Module):
    """The sum of one vector for the last two, three, … tokens together, from tables that are looked up by a hash."""

    numbers_V: Tensor

    def __init__(self, shape: dict[str, Any], vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("numbers_V", torch.arange(1, vocabulary + 1))
        self.rows, self.read = shape["ngrams"], _read_ngrams(shape)
        self.tables = nn.ModuleList(nn.Embedding(rows, self.read.in_features) for rows in self.rows)

    def forward(self, input_ids: Tensor, real_BL: Tensor) -> Tensor:
        code_BL = self.numbers_V[input_ids].masked_fill(~real_BL, 0)  # 0: no token, as before the first
        numbers_BL, found = code_BL, []
        for distance, (rows, table) in enumerate(zip(self.rows, self.tables, strict=True), start=1):
            before_BL = F.pad(numbers_BL, (distance, 0))[:, : input_ids.shape[1]]
            code_BL = code_BL * 6364136223846793005 + before_BL
            found.append(table(((code_BL * -7046029254386353131) >> 32) % rows))
        found_BLG: Tensor = sum(found[1:], start=found[0])
        return found_BLG


class _Transformer(PreTrainedModel):  # type: ignore[misc]  # transformers has no types
    """The network, with the names of its weights in seedfast."""

    config_class = SeedfastConfig
    _tied_weights_keys = {"head.weight": "tokens.weight"}  # noqa: RUF012  # as transformers declares it
    _is_causal = True

    def __init__(self, config: SeedfastConfig) -> None:
        super().__init__(config)
        shape = config.transformer
        self.tokens = nn.Embedding(config.vocab_size, shape["width"])
        self.ngrams = _NGrams(shape, config.vocab_size) if shape.get("ngrams") else None
        is_learned = shape["positions"] == "learned"
        self.positions = nn.Embedding(config.max_position_embeddings, shape["width"]) if is_learned else None
        self.blocks = nn.ModuleList(
            _Block(shape, reads_ngrams=bool(layer) and shape.get("ngrams_in") == "layers")
            for layer in range(shape["layers"])
        )
        self.norm = _norm(shape)
        self.head = nn.Linear(shape["width"], config.outputs, bias=False)
        self.dropout = nn.Dropout(shape["dropout"])
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(std=0.02)

    def get_input_embeddings(self) -> nn.Module:
        return self.tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.tokens = value

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.head = new_embeddings

    def _logits(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The logits of a batch, [B, L, outputs]. attention_mask: 0 at padding, [B, L]."""
        length, most = input_ids.shape[1], self.config.max_position_embeddings
        if length > most:
            raise ValueError(f"{length} tokens are more than the {most} positions of this model")
        real_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real_BL = real_BL.bool()
        places_BL = (real_BL.long().cumsum(1) - 1).clamp(min=0)
        allowed = torch.ones(length, length, dtype=torch.bool, device=input_ids.device)
        allowed = allowed.tril() if self._is_causal else allowed
        itself = torch.eye(length, dtype=torch.bool, device=input_ids.device)  # a padded row needs one true entry
        allowed_BHLL = ((allowed & real_BL[:, None, :]) | itself)[:, None]
        x_BLW, ngrams_BLG = self.tokens(input_ids), None
        if self.ngrams is not None:
            ngrams_BLG = self.ngrams(input_ids, real_BL)
            x_BLW = x_BLW + self.ngrams.read(ngrams_BLG)
        angles_BLP = None
        if self.positions is not None:
            x_BLW = x_BLW + self.positions(places_BL)
        else:
            size = self.config.transformer["width"] // self.config.transformer["heads"]
            rates = torch.arange(0, size, 2, dtype=torch.float64, device=input_ids.device) / size
            angles_BLP = places_BL.unsqueeze(-1).double() * 10_000.0**-rates
        x_BLW = self.dropout(x_BLW)
        for block in self.blocks:
            x_BLW = block(x_BLW, allowed_BHLL, angles_BLP, ngrams_BLG)
        logits_BLV: Tensor = self.head(self.norm(x_BLW))
        return logits_BLV


class SeedfastForCausalLM(_Transformer, GenerationMixin):  # type: ignore[misc]  # transformers has no types
    """A causal language model. It has no key-value cache: `generate` computes all positions for each token."""

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor | None]:
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> CausalLMOutput:
        """Logits [B, L, V], and the mean loss of the labels, which are shifted here."""
        logits_BLV = self._logits(input_ids, attention_mask)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits_BLV[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits_BLV)


class SeedfastForMaskedLM(_Transformer):
    """A masked diffusion model: it predicts the tokens at [MASK] from both sides, and never [MASK] itself."""

    _is_causal = False

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **_: Any
    ) -> MaskedLMOutput:
        """Logits [B, L, V], in which [MASK] has probability 0, and the mean loss of the labels that are not -100."""
        words = self.config.mask_token_id
        logits_BLV = self._logits(input_ids, attention_mask)[..., :words]
        logits_BLV = F.pad(logits_BLV, (0, self.config.vocab_size - words), value=-torch.inf)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits_BLV.flatten(0, 1).float(), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits_BLV)

    @torch.no_grad()
    def unmask(
        self, input_ids: Tensor, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """The batch [B, L] with every [MASK] replaced: one random position of each row at a time, which is exact."""
        tokens_BL = input_ids.clone()
        while bool((masked_BL := tokens_BL == self.config.mask_token_id).any()):
            rows = masked_BL.any(dim=1).nonzero()[:, 0]
            places = torch.multinomial(masked_BL[rows].float(), 1, generator=generator)[:, 0]
            logits = self(tokens_BL[rows]).logits[torch.arange(len(rows)), places].double()
            drawn = torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)[:, 0]
            tokens_BL[rows, places] = drawn
        return tokens_BL
