"""One step of unmasking as a value: the page before it, the network's distributions there, and its randomness."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seedfast.data.text.corpus import TextAssets
from seedfast.families.text.categorical import shape
from seedfast.families.text.request import TextRequest
from seedfast.families.text.written import Record
from seedfast.keys import Draws

LOGITS = 1 << 22
"""Largest number of logits in memory at once: 32 MiB in float64."""
Logits = Callable[[Tensor], Tensor]
"""Flattened positions [N] → their logits [N, V]."""


@dataclass(frozen=True, kw_only=True)
class MaskedVocabulary:
    """The symbols of a masked diffusion model: `size` tokens, of which special ones are never generated, and [MASK]."""

    size: int
    end_of_text: int
    special_ids: tuple[int, ...]
    mask: int

    @classmethod
    def of(cls, assets: TextAssets, *, mask: int | None = None) -> "MaskedVocabulary":
        """The vocabulary of a tokenizer; [MASK] has the id after its last token, unless `mask` is given."""
        tokenizer = assets.tokenizer
        return cls(
            size=tokenizer.size,
            end_of_text=tokenizer.end_of_text,
            special_ids=tokenizer.never_generate,
            mask=tokenizer.size if mask is None else mask,
        )

    def probabilities(self, request: TextRequest, logits_NV: Tensor, may_end_N: Tensor) -> Tensor:
        """The distributions over tokens as a request shapes them, float64 [N, V].

        may_end_N: whether end-of-text may be generated; an infill continues after its gaps, so it cannot end in one.
        """
        logits_NV = logits_NV[..., : self.size].double()
        if self.special_ids:
            logits_NV[:, list(self.special_ids)] = -torch.inf
        logits_NV[:, self.end_of_text].masked_fill_(~may_end_N, -torch.inf)
        return shape(logits_NV, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)


@dataclass(frozen=True)
class MaskedPage:
    """A batch of texts during unmasking: their tokens, which are open, and which may be changed at all, each [B, L]."""

    tokens_BL: Tensor
    open_BL: Tensor
    writable_BL: Tensor

    @property
    def written(self) -> Tensor:
        """The tokens that the model has generated."""
        return self.writable_BL & ~self.open_BL

    def remask(self, where_BL: Tensor, mask: int) -> "MaskedPage":
        """The page with these positions masked and open again."""
        return replace(self, tokens_BL=self.tokens_BL.masked_fill(where_BL, mask), open_BL=self.open_BL | where_BL)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One evaluation of the network.

    index: its number, from 0. left: how many follow. progress: the fraction of its own unmasking steps that each text
    has after it, [B].
    page: the network's input. logits: its output at N flattened positions, [N, V].
    count_B: positions that were open before the first step.
    draws: the randomness of this step. text_draws: that of the whole text, the same in every step.
    mask: the id of [MASK]. probabilities: the distributions over tokens, float64 [N, V], at N flattened positions.
    confidence: the largest probability there before temperature, top-k and top-p, float64 [N]. given: of forced texts,
    (probabilities [N, V], flattened positions [N]) → the tokens to write; None where they are drawn. record: called
    with what is written.
    """

    index: int
    left: int
    progress: Sequence[float]
    page: MaskedPage
    logits: Logits
    count_B: Tensor
    draws: Draws
    text_draws: Draws
    mask: int
    probabilities: Callable[[Tensor], Tensor]
    confidence: Callable[[Tensor], Tensor]
    symbols: int
    given: Callable[[Tensor, Tensor], Tensor] | None = None
    record: Record | None = None

    def at(self, where_BL: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """`compute` of the N true positions of `where_BL`, [N, …], in parts of at most `LOGITS` logits."""
        where_N = where_BL.flatten().nonzero().squeeze(1)
        return torch.cat([compute(part_N) for part_N in torch.split(where_N, max(1, LOGITS // self.symbols))])
