"""Any causal language model of transformers, called as our own networks are.

The loss is never the model's own: transformers shifts labels by itself, so a data set that has shifted them already
trains token t+2, which looks like a good perplexity. Here a network gives features and logits, and the family shifts
once.

Shapes: B batch, L new positions, C positions in sight (old and new), W width.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from seedfast.errors import UserError
from seedfast.models import hf_causal_lm
from seedfast.models.adapter import Adapter
from seedfast.models.attention import PADDING, sight
from seedfast.models.config import ModelConfig
from seedfast.models.token_network import TokenNetwork
from seedfast.models.transformer_block import wanted

_DROPOUT = ("dropout", "pdrop", "dropout_rate", "dropout_prob")


@dataclass(frozen=True, kw_only=True)
class PretrainedLM(ModelConfig):
    """A causal language model of transformers, and how it is trained on."""

    path: str = ""
    """The pretrained model: a folder that save_pretrained wrote, or a name on the Hugging Face hub. Read when a run
    starts; from then on the run has all that it needs."""
    architecture: str = ""
    """The shape as a transformers configuration in JSON (default: that of `path`; without a path the weights are drawn
    anew)."""
    adapter: Adapter = field(default_factory=Adapter)
    dropout: float | None = None
    """Every dropout rate of the architecture (default: as it says itself)."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Which of transformers' attention implementations computes; some architectures have only `eager`."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: a third slower, far less memory."""

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout must lie in [0, 1), not {self.dropout}.")

    @property
    def tied(self) -> bool:
        """Its output layer has a row for everything that can go in."""
        return True

    def located(self) -> Self:
        """The same model with its architecture written out, and a path that holds from any folder.

        Raises UserError if there is no such model, or the hub cannot be reached.
        """
        if not (self.path or self.architecture):
            raise UserError("Fine-tuning starts from a pretrained model: name a folder or a hub name with --model.")
        folder = Path(self.path).expanduser()
        is_folder = self.path.startswith((".", "~")) or (self.path and folder.exists())
        return replace(
            self,
            path=os.path.normpath(folder.absolute()) if is_folder else self.path,
            architecture=self.architecture or hf_causal_lm.architecture(self.path),
        )

    def build(
        self, *, vocabulary: int, context: int, causal: bool, block: int | None = None, outputs: int | None = None
    ) -> "CausalLMNetwork":
        """A network of this shape. Its weights come from `initialise` or a checkpoint; without a path, from torch's
        generator.

        vocabulary: how many tokens go in; more than the architecture knows get new rows. It has as many outputs.
        causal: False makes attention bidirectional and keeps the shift: a position is answered by the one before it.
        Raises UserError for blocks, a context that is longer than the architecture's, or one without such a network.
        """
        if block is not None:
            raise UserError("A pretrained causal model cannot be continued as block diffusion; use finetune-masked.")
        del outputs  # whoever needs fewer says so in each call
        located = self.located()
        shape = hf_causal_lm.configuration(located.architecture, attention=self.attention)
        longest = getattr(shape, "max_position_embeddings", None)
        if longest is not None and context > longest:
            raise UserError(f"This model sees {longest} tokens at most, so --data.context cannot be {context}.")
        shape.vocab_size = max(shape.vocab_size, vocabulary)
        if self.dropout is not None:
            rates = [k for k, v in shape.to_dict().items() if k.endswith(_DROPOUT) and isinstance(v, int | float)]
            if not rates:
                raise UserError(f"{shape.model_type} has no dropout to set; leave model.dropout out.")
            for rate in rates:
                setattr(shape, rate, self.dropout)
        model = self.adapter.wrap(hf_causal_lm.shell(shape, drawn=not self.path))
        return CausalLMNetwork(model, causal=causal, context=context, recompute=self.gradient_checkpointing)

    def initialise(self, network: "CausalLMNetwork") -> None:
        """Give a new network the pretrained weights (and a new adapter, which torch's generator draws).

        Rows for tokens that the pretrained model does not know begin as the mean of those that it knows.
        """
        if self.path:
            shape = network.plain.config
            network.adopt(self.adapter.wrap(hf_causal_lm.weights(self.path, shape)))


@dataclass(kw_only=True)
class Cache:
    """Keys and values of what has been read, in the model's own cache, and which of it is no padding."""

    past: Any
    real_BC: Tensor

    def select(self, rows_B: Tensor) -> None:
        """Keep these rows, in this order, a row perhaps twice."""
        self.past.batch_select_indices(rows_B)
        self.real_BC = self.real_BC[rows_B]


class CausalLMNetwork(TokenNetwork):
    """What `PretrainedLM.build` builds."""

    def __init__(self, model: Any, *, causal: bool, context: int, recompute: bool) -> None:
        super().__init__()
        self.causal, self.context, self.recompute = causal, context, recompute
        self.isolates: set[bool] = set()
        self.adopt(model)

    def adopt(self, model: Any) -> None:
        """Take a transformers model (or a peft model around one) for one's own."""
        self.model = model
        if self.recompute:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is about to get another name
                self.plain.gradient_checkpointing_enable({"use_reentrant": False})
        if not self.causal:
            self.plain.config.is_causal = False
            for part in self.plain.modules():
                if hasattr(part, "is_causal"):
                    part.is_causal = False
        self._check_head()

    @property
    def plain(self) -> Any:
        """The transformers model itself, whose layers an adapter may have replaced."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        """From features to logits."""
        return _Head(self.plain.get_output_embeddings(), self.plain.config)

    def get_output_embeddings(self) -> nn.Module:
        """The output layer, by the name that transformers gives it."""
        layer: nn.Module = self.plain.get_output_embeddings()
        return layer

    def cache(self, batch: int, length: int | None = None) -> Cache:
        """An empty cache (it grows as it needs to). Raises UserError for a network that is not causal."""
        if not self.causal:
            raise UserError("Only a causal network can use a key-value cache; this one sees both directions.")
        device = self.plain.get_input_embeddings().weight.device
        return Cache(
            past=hf_causal_lm.cache(self.plain.config), real_BC=torch.ones(batch, 0, dtype=torch.bool, device=device)
        )

    def features(  # type: ignore[override]  # it says which inputs there are
        self,
        tokens_BL: Tensor | None = None,
        *,
        where_N: Tensor | None = None,
        documents_BL: Tensor | None = None,
        real_BL: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """What the output layer sees, [B, L, W]; only at `where_N` among the flattened positions, [N, W].

        documents_BL: ids ≥ 0, side by side: a position sees only its own document, and positions count from its start,
            so that a packed document is answered as if it were alone (identity 14). real_BL: false where a sequence is
            padded (under a cache, on the left). Raises UserError if the sequence outgrows the context.
        """
        assert tokens_BL is not None, "a pretrained model takes tokens"
        return wanted(self._read(tokens_BL, documents_BL, real_BL, cache), where_N)

    def _read(
        self, tokens_BL: Tensor, documents_BL: Tensor | None, real_BL: Tensor | None, cache: Cache | None
    ) -> Tensor:
        if tokens_BL.shape[1] > self.context and cache is None:
            raise UserError(f"A sequence of {tokens_BL.shape[1]} tokens is longer than the context of {self.context}.")
        if documents_BL is not None and cache is None:
            self._check_isolation(tokens_BL.device)
        if not self.causal:
            return self._both_ways(tokens_BL, documents_BL, real_BL)
        if cache is not None:
            return self._continue(tokens_BL, real_BL, cache)
        positions_BL = None if documents_BL is None else _positions(documents_BL)
        if real_BL is None:
            return self._run(tokens_BL, position_ids=positions_BL)
        assert documents_BL is None, "a batch is packed or padded, not both"
        return self._run(tokens_BL, attention_mask=real_BL.long(), position_ids=(real_BL.cumsum(1) - 1).clamp(min=0))

    def _run(self, tokens_BL: Tensor, **inputs: Any) -> Tensor:
        answer = self.plain.base_model(input_ids=tokens_BL, use_cache="past_key_values" in inputs, **inputs)
        features: Tensor = answer.last_hidden_state
        return features

    def _continue(self, tokens_BL: Tensor, real_BL: Tensor | None, cache: Cache) -> Tensor:
        new_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if real_BL is None else real_BL
        cache.real_BC = torch.cat([cache.real_BC, new_BL], dim=1)
        positions_BL = (cache.real_BC.cumsum(1) - 1).clamp(min=0)[:, -tokens_BL.shape[1] :]
        return self._run(
            tokens_BL,
            attention_mask=cache.real_BC.long(),
            position_ids=positions_BL,
            past_key_values=cache.past,
        )

    def _both_ways(self, tokens_BL: Tensor, documents_BL: Tensor | None, real_BL: Tensor | None) -> Tensor:
        """Bidirectional features, shifted: what answers for a token is the position before it, as in pretraining.

        The first position of a document has none before it in its document and answers for itself (Gong et al. 2024,
        "Scaling Diffusion Language Models via Adaptation from Autoregressive Models"; Dream, Ye et al. 2025).
        """
        if documents_BL is None:
            documents_BL = torch.zeros_like(tokens_BL)
        if real_BL is not None:
            documents_BL = torch.where(real_BL, documents_BL, PADDING)
        seen, _ = sight(documents_BL, length=tokens_BL.shape[1], causal=False, cache=None, device=tokens_BL.device)
        assert seen is not None
        # Additive, because eager attention adds it: of a boolean mask, 1 would be added where nothing may be seen.
        mask = torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, torch.finfo(torch.float32).min)
        x_BLW = self._run(tokens_BL, attention_mask=mask, position_ids=_positions(documents_BL))
        follows_BL = documents_BL[:, 1:] == documents_BL[:, :-1]
        shifted_BLW = torch.where(follows_BL.unsqueeze(-1), x_BLW[:, :-1], x_BLW[:, 1:])
        return torch.cat([x_BLW[:, :1], shifted_BLW], dim=1)

    @contextmanager
    def _probing(self) -> Iterator[None]:
        """Without gradients or dropout, so that no generator moves."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            yield
        self.train(was_training)

    def _check_head(self) -> None:
        """That features and head are the whole of the model: some architectures do more behind their last layer."""
        tokens_BL = torch.zeros(1, 2, dtype=torch.int64, device=self.plain.get_input_embeddings().weight.device)
        with self._probing():
            own = self.plain(input_ids=tokens_BL, use_cache=False).logits
            ours = self.head(self._run(tokens_BL))
        if not torch.allclose(own, ours, rtol=1e-5, atol=1e-5, equal_nan=True):
            raise UserError(
                f"{type(self.plain).__name__} changes its logits in a way that is not known here, so its loss would be "
                "wrong; please use another architecture."
            )

    def _check_isolation(self, device: torch.device) -> None:
        """That documents of one window really do not see each other: a recurrent state, say, would leak."""
        if self.causal in self.isolates:
            return
        self.isolates.add(self.causal)
        ids = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 1]], device=device)
        with self._probing():
            one, other = self.features(ids, documents_BL=torch.tensor([[0, 0, 1, 1]] * 2, device=device))[:, 2:]
        if not torch.equal(one, other):
            raise UserError(
                f"{type(self.plain).__name__} lets documents that share a window see each other; "
                "set objective.document_mask to false, or use another model or model.attention."
            )


class _Head(nn.Module):
    """The output layer and what some architectures do behind it: a scale (Cohere, Granite), a cap (Gemma 2)."""

    def __init__(self, layer: nn.Module, config: Any) -> None:
        super().__init__()
        self.layer = layer
        self.scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        self.cap: float | None = getattr(config, "final_logit_softcapping", None)
        self.out_features = config.vocab_size

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] to [..., V]."""
        logits: Tensor = self.layer(x)
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def _positions(documents_BL: Tensor) -> Tensor:
    """Each position's place in its document, [B, L]; documents lie side by side."""
    place_L = torch.arange(documents_BL.shape[1], device=documents_BL.device).expand_as(documents_BL)
    starts_BL = torch.ones_like(documents_BL, dtype=torch.bool)
    starts_BL[:, 1:] = documents_BL[:, 1:] != documents_BL[:, :-1]
    return place_L - place_L.masked_fill(~starts_BL, 0).cummax(dim=1).values
