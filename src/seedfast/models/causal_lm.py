"""The configuration of a pretrained causal language model from transformers."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from seedfast.errors import UserError
from seedfast.models import hf_causal_lm
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm_network import CausalLMNetwork
from seedfast.models.config import TokenModel
from seedfast.options import Affects, Between, Example, check

_DROPOUT = ("dropout", "pdrop", "dropout_rate", "dropout_prob")
"""Endings of the names under which transformers configurations store dropout rates."""


@dataclass(frozen=True, kw_only=True)
class PretrainedLM(TokenModel):
    """A causal language model of transformers, and how to continue its training."""

    path: str = ""
    """The pretrained model: a folder written by save_pretrained, or a name on the Hugging Face hub. A new run reads it;
    a resumed run does not need it."""
    architecture: Annotated[str, Example('{"model_type": "gpt2", "vocab_size": 40, "n_embd": 8, "n_head": 1}')] = ""
    """The transformers configuration in JSON (default: that of `path`). Without a path, the weights are initialised at
    random."""
    adapter: Adapter = field(default_factory=Adapter)
    dropout: Annotated[float | None, Between(0, 1, open_high=True), Example(0.5)] = None
    """Value of every dropout rate of the architecture (default: those of its configuration)."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """The attention implementation of transformers; some architectures have only `eager`."""
    gradient_checkpointing: Annotated[bool, Affects("computation")] = False
    """Recompute activations in the backward pass instead of storing them: a third slower, much less memory."""

    def __post_init__(self) -> None:
        check(self, "model.")

    @property
    def tied(self) -> bool:
        """Whether the output layer has one row for every input token: always, in transformers."""
        return True

    def located(self) -> Self:
        """The same model with its architecture resolved and an absolute path.

        Raises UserError if there is no such model, or if the hub cannot be reached.
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
    ) -> CausalLMNetwork:
        """A network of this architecture. Its weights come from `initialise` or from a checkpoint; without a path,
        torch's generator draws them.

        vocabulary: number of input tokens; the embedding gets new rows if the architecture has fewer. There is one
            output for each. outputs: ignored; callers select logits in each call.
        causal: False makes attention bidirectional and keeps the shift: position i-1 predicts token i.
        Raises UserError for blocks, or for a context that is longer than the architecture's.
        """
        if block is not None:
            raise UserError("A pretrained causal model cannot be continued as block diffusion; use finetune-masked.")
        del outputs
        located = self.located()
        shape = hf_causal_lm.configuration(located.architecture, attention=self.attention)
        longest = hf_causal_lm.longest_context(located.architecture)
        if longest is not None and context > longest:
            raise UserError(f"The context of this model is {longest} tokens, so --data.context cannot be {context}.")
        shape.vocab_size = max(shape.vocab_size, vocabulary)
        if self.dropout is not None:
            rates = [k for k, v in shape.to_dict().items() if k.endswith(_DROPOUT) and isinstance(v, int | float)]
            if not rates and self.dropout:
                raise UserError(f"{shape.model_type} has no dropout, so model.dropout has no effect: leave it out.")
            for rate in rates:
                setattr(shape, rate, self.dropout)
        model = self.adapter.wrap(hf_causal_lm.build(shape, initialise=not self.path, dtype=self.adapter.base_type))
        return CausalLMNetwork(
            model, causal=causal, context=context, gradient_checkpointing=self.gradient_checkpointing
        )

    def initialise(self, network: CausalLMNetwork) -> None:
        """Load the pretrained weights into a new network, with a new adapter that torch's generator draws.

        Embedding rows of tokens that the pretrained model lacks are initialised to the mean of its own rows.
        """
        if self.path:
            weights = hf_causal_lm.weights(self.path, network.plain.config, dtype=self.adapter.base_type)
            network.set_model(self.adapter.wrap(weights))
