"""Captions as inputs and targets of next-token prediction.

Shapes: P captions, L positions, N positions that count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class TeacherForcing:
    """Captions laid out for a network that reads each true token and predicts the next.

    inputs_PL: the end-of-text token, then the caption. targets_PL: the caption, then end-of-text: the successors of
    the inputs. loss_mask_PL: which targets count: the caption's tokens and its end. A caption of `context` tokens or
    more is cut there and has no end.
    """

    inputs_PL: Tensor
    targets_PL: Tensor
    loss_mask_PL: Tensor

    @classmethod
    def of_padded(cls, tokens_PL: Tensor, lengths_P: Tensor, *, end: int, context: int) -> Self:
        """Captions as tokens that are padded with `end` after their lengths, on the CPU."""
        width = min(int(lengths_P.max()) + 1, context)
        targets_PL = F.pad(tokens_PL, (0, 1), value=end)[:, :width]
        inputs_PL = F.pad(targets_PL[:, :-1], (1, 0), value=end)
        return cls(inputs_PL, targets_PL, torch.arange(width) <= lengths_P[:, None])

    @classmethod
    def of_lists(cls, captions: Sequence[Sequence[int]], *, end: int, context: int) -> Self:
        """Captions as lists of tokens without their end."""
        tokens = [torch.tensor(caption, dtype=torch.int64) for caption in captions]
        lengths_P = torch.tensor([len(caption) for caption in captions])
        padded_PL = pad_sequence(tokens, batch_first=True, padding_value=end)
        return cls.of_padded(padded_PL, lengths_P, end=end, context=context)

    def positions(self) -> Tensor:
        """The flattened positions that count, int64 [N]."""
        return self.loss_mask_PL.flatten().nonzero().squeeze(1)
