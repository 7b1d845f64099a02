"""The network of a causal language model from transformers, with the interface of every `TokenNetwork`.

The loss of the transformers model is never used: it shifts the labels itself, so a data set with shifted labels would
train token t+2, at a perplexity that looks good. This network returns hidden states and logits, and the family shifts
the targets once.

Shapes: B batch, L new positions, C cached and new positions, W width.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from seedfast import huggingface
from seedfast.errors import UserError
from seedfast.models import hf_causal_lm
from seedfast.models.adapter import is_adapted, without_adapter
from seedfast.models.attention_mask import AttentionMask, with_padding
from seedfast.models.token_network import Scores, SequenceInputs, TokenNetwork
from seedfast.models.transformer_block import select_positions


@dataclass(kw_only=True)
class TransformersCache:
    """The key-value cache of the transformers model, and a mask that is false at its padding."""

    past: Any
    real_BC: Tensor

    def select(self, rows_B: Tensor) -> None:
        """Keep these rows in this order; a row may be repeated."""
        self.past.batch_select_indices(rows_B)
        self.real_BC = self.real_BC[rows_B]


class CausalLMNetwork(TokenNetwork[TransformersCache]):
    """The network that `PretrainedLM.build` returns.

    model: the transformers model, or a peft model around one.
    """

    def __init__(self, model: Any, *, causal: bool, context: int, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.causal, self.context, self.gradient_checkpointing = causal, context, gradient_checkpointing
        self._isolation_checked = False
        self._keeps_reference = self._is_reference = False
        self.reference: Any = None
        self.set_model(model)

    def set_model(self, model: Any) -> None:
        """Use this transformers model (or peft model around one)."""
        self.model = model
        if self.gradient_checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about a name that transformers is going to change
                self.plain.gradient_checkpointing_enable({"use_reentrant": False})
        if not self.causal:
            self.plain.config.is_causal = False
            for module in self.plain.modules():
                if hasattr(module, "is_causal"):  # attention classes of transformers have no common base class
                    module.is_causal = False
        if self._keeps_reference:
            self.keep_reference()
        self._check_head()

    def keep_reference(self) -> None:
        """Keep the model as it is now for calls with `reference=True`, whatever is trained.

        An adapter's base is never trained, so only a model without one is copied; the copy is frozen.
        """
        self._keeps_reference = True
        if not is_adapted(self.model):
            self.reference = copy.deepcopy(self.model).requires_grad_(False)

    def forward(self, tokens_BL: Tensor | None = None, *, reference: bool = False, **inputs: Any) -> Tensor | Scores:
        """`TokenNetwork.forward`; with `reference`, of the model that `keep_reference` kept, without gradients."""
        if not reference:
            return super().forward(tokens_BL, **inputs)
        assert self._keeps_reference, "a reference is kept before it is called"
        with self._probing(), self._as_reference():
            return super().forward(tokens_BL, **inputs)

    @contextmanager
    def _as_reference(self) -> Iterator[None]:
        if self.reference is None:
            with without_adapter(self.model):
                yield
            return
        self._is_reference = True
        try:
            yield
        finally:
            self._is_reference = False

    @property
    def blocks_in_order(self) -> list[nn.Module]:
        """The layers of the model, and those of its reference."""
        return [*huggingface.blocks(self.model), *huggingface.blocks(self.reference)]

    @property
    def plain(self) -> Any:
        """The transformers model without the peft wrapper; an adapter may have replaced some of its layers."""
        if self._is_reference:
            return self.reference
        return self.model.get_base_model() if is_adapted(self.model) else self.model

    @property
    def head(self) -> "_Head":  # type: ignore[override]
        """From hidden states to logits."""
        return _Head(self.output_layer, self.plain.config)

    @property
    def output_layer(self) -> nn.Module:
        """The linear layer of the language modelling head."""
        layer: nn.Module = self.plain.get_output_embeddings()
        return layer

    @property
    def has_cache(self) -> bool:
        """Whether the architecture takes a key-value cache; the first GPT, for instance, has none."""
        return "past_key_values" in signature(self.plain.base_model.forward).parameters

    def cache(self, batch: int, length: int | None = None) -> TransformersCache:
        """An empty cache, which grows as needed. Raises UserError for a network that is not causal."""
        if not self.causal:
            raise UserError("Only a causal network can use a key-value cache; this one is bidirectional.")
        device = self.plain.get_input_embeddings().weight.device
        return TransformersCache(
            past=hf_causal_lm.cache(self.plain.config), real_BC=torch.ones(batch, 0, dtype=torch.bool, device=device)
        )

    def hidden_states(self, inputs: SequenceInputs[TransformersCache]) -> Tensor:
        """The input of the output layer, [B, L, W]; with `where_N` only at those positions, [N, W].

        Documents lie side by side, and positions count from the start of each: a packed document gets the hidden states
        that it would get alone. Raises UserError if the sequence is longer than the context.
        """
        tokens_BL, cache = inputs.tokens_BL, inputs.cache
        assert tokens_BL is not None, "a pretrained model takes tokens, no embeddings"
        if tokens_BL.shape[1] > self.context and cache is None:
            raise UserError(f"A sequence of {tokens_BL.shape[1]} tokens is longer than the context of {self.context}.")
        if inputs.documents_BL is not None and cache is None:
            self._check_isolation(tokens_BL.device)
        if not self.causal:
            x_BLW = self._bidirectional(tokens_BL, inputs.documents_BL, inputs.real_BL)
        elif cache is not None:
            x_BLW = self._continue(tokens_BL, inputs.real_BL, cache)
        else:
            x_BLW = self._causal(tokens_BL, inputs.documents_BL, inputs.real_BL)
        return select_positions(x_BLW, inputs.where_N)

    def _run(self, tokens_BL: Tensor, **inputs: Any) -> Tensor:
        output = self.plain.base_model(input_ids=tokens_BL, use_cache="past_key_values" in inputs, **inputs)
        x_BLW: Tensor = output.last_hidden_state
        return x_BLW

    def _causal(self, tokens_BL: Tensor, documents_BL: Tensor | None, real_BL: Tensor | None) -> Tensor:
        if real_BL is None:
            return self._run(tokens_BL, position_ids=None if documents_BL is None else _positions(documents_BL))
        assert documents_BL is None, "a batch is packed or padded, not both"
        return self._run(tokens_BL, attention_mask=real_BL.long(), position_ids=(real_BL.cumsum(1) - 1).clamp(min=0))

    def _continue(self, tokens_BL: Tensor, real_BL: Tensor | None, cache: TransformersCache) -> Tensor:
        new_BL = torch.ones_like(tokens_BL, dtype=torch.bool) if real_BL is None else real_BL
        cache.real_BC = torch.cat([cache.real_BC, new_BL], dim=1)
        positions_BL = (cache.real_BC.cumsum(1) - 1).clamp(min=0)[:, -tokens_BL.shape[1] :]
        return self._run(
            tokens_BL,
            attention_mask=cache.real_BC.long(),
            position_ids=positions_BL,
            past_key_values=cache.past,
        )

    def _bidirectional(self, tokens_BL: Tensor, documents_BL: Tensor | None, real_BL: Tensor | None) -> Tensor:
        """Bidirectional hidden states, shifted: position i-1 predicts token i, as in pretraining.

        The first position of a document has no predecessor and predicts its own token (Gong et al. 2024, "Scaling
        Diffusion Language Models via Adaptation from Autoregressive Models"; Dream, Ye et al. 2025).
        """
        if documents_BL is None:
            documents_BL = torch.zeros_like(tokens_BL)
        padded_BL = with_padding(documents_BL, real_BL)
        assert padded_BL is not None
        mask = AttentionMask.of_documents(
            padded_BL, length=tokens_BL.shape[1], causal=False, device=tokens_BL.device
        ).additive()  # eager attention adds the mask: a boolean one would add 1 where attention is allowed
        x_BLW = self._run(tokens_BL, attention_mask=mask, position_ids=_positions(padded_BL))
        follows_BL = padded_BL[:, 1:] == padded_BL[:, :-1]
        shifted_BLW = torch.where(follows_BL.unsqueeze(-1), x_BLW[:, :-1], x_BLW[:, 1:])
        return torch.cat([x_BLW[:, :1], shifted_BLW], dim=1)

    @contextmanager
    def _probing(self) -> Iterator[None]:
        """Without gradients and dropout, so that no random generator advances."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            yield
        self.train(was_training)

    def _check_head(self) -> None:
        """Raise UserError if the architecture computes more after its last layer than `_Head` does."""
        tokens_BL = torch.zeros(1, 2, dtype=torch.int64, device=self.plain.get_input_embeddings().weight.device)
        with self._probing():
            expected = self.plain(input_ids=tokens_BL, use_cache=False).logits
            logits = self.head(self._run(tokens_BL))
        if not torch.allclose(expected, logits, rtol=1e-5, atol=1e-5, equal_nan=True):
            raise UserError(
                f"{type(self.plain).__name__} changes its logits in an unknown way, so its loss would be wrong; use "
                "another architecture."
            )

    def _check_isolation(self, device: torch.device) -> None:
        """Raise UserError if documents of one window influence each other (through a recurrent state, for instance).

        Checked once, at the first packed batch.
        """
        if self._isolation_checked:
            return
        self._isolation_checked = True
        tokens_BL = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 1]], device=device)
        documents_BL = torch.tensor([[0, 0, 1, 1]] * 2, device=device)
        with self._probing():
            one, other = self.hidden_states(SequenceInputs(tokens_BL=tokens_BL, documents_BL=documents_BL))[:, 2:]
        if not torch.equal(one, other):
            raise UserError(
                f"{type(self.plain).__name__} lets documents in the same window influence each other; "
                "set objective.document_mask to false, or use another model or model.attention."
            )


class _Head(nn.Module):
    """The output layer and what some architectures apply after it: a scale (Cohere, Granite), a cap (Gemma 2).

    config: the transformers configuration. Its class depends on the architecture, so optional keys are looked up.
    """

    def __init__(self, layer: nn.Module, config: Any) -> None:
        super().__init__()
        self.layer = layer
        self.scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        self.cap: float | None = getattr(config, "final_logit_softcapping", None)
        self.out_features: int = config.vocab_size

    def forward(self, x: Tensor) -> Tensor:
        """[..., W] to [..., V]."""
        logits: Tensor = self.layer(x)
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def _positions(documents_BL: Tensor) -> Tensor:
    """Each position's index in its document, [B, L]; documents lie side by side."""
    place_L = torch.arange(documents_BL.shape[1], device=documents_BL.device).expand_as(documents_BL)
    starts_BL = torch.ones_like(documents_BL, dtype=torch.bool)
    starts_BL[:, 1:] = documents_BL[:, 1:] != documents_BL[:, :-1]
    return place_L - place_L.masked_fill(~starts_BL, 0).cummax(dim=1).values
