"""What a sampler of text works with: the network, the request and the randomness, as one value."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from seedfast.families.generator import State
from seedfast.families.text.request import TextRequest
from seedfast.families.text.written import Record
from seedfast.keys import Draws

Trace = Callable[[int, Sequence[int], Sequence[bool]], None]
"""Called by a sampler after each step, for each row: the row, its tokens, and which of them are still open."""

Choose = Callable[[Tensor, Tensor], Tensor]
"""Called by a sampler of forced texts at each evaluation: (probabilities, float64 [N, V]; the tokens that the canvases
hold there, [N]) → the tokens to write, [N]."""

TextRequestT = TypeVar("TextRequestT", bound=TextRequest)


@dataclass
class Evaluations:
    """How often a sampler has evaluated its network. The parts of a sampler share one, and add to it."""

    count: int = 0


@dataclass(frozen=True, kw_only=True)
class Decoding(Generic[TextRequestT]):
    """One call of a sampler.

    network: in evaluation mode. draws: one random stream for each row. state: the family's adaptive state.
    trace: called after each step; None where no trace is requested. record: called with the tokens of each evaluation.
    forced: write the tokens that the canvases hold at their open positions instead of drawing some, to record how
    likely they are. choose: of forced texts, what decides about the tokens (default: those that the canvases hold).
    documents_BL: of forced texts, the document of each token, where attention is restricted to it.
    evaluations: of the network so far.
    """

    network: nn.Module
    request: TextRequestT
    draws: Draws
    state: State = field(default_factory=dict)
    trace: Trace | None = None
    record: Record | None = None
    forced: bool = False
    choose: Choose | None = None
    documents_BL: Tensor | None = None
    evaluations: Evaluations = field(default_factory=Evaluations)

    def forced_tokens(self, probabilities_NV: Tensor, held_N: Tensor) -> Tensor:
        """The tokens of a forced text at one evaluation: those that `choose` returns, or those that are held."""
        return held_N if self.choose is None else self.choose(probabilities_NV, held_N)

    @property
    def device(self) -> torch.device:
        """The device of the network and of all tensors."""
        return self.draws.positions_B.device

    def at(self, stage: int) -> Self:
        """The same with fresh random numbers, for one stage of a sampler with several."""
        return replace(self, draws=self.draws.at(stage))

    def row(self, index: int) -> Self:
        """The same for one row alone."""
        return replace(self, draws=replace(self.draws, positions_B=self.draws.positions_B[index : index + 1]))
