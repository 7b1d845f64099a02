"""Embeddings of the last tokens together, added to the embedding of each token, and optionally in front of each block.

A small transformer spends its first layers on finding out which tokens stand next to each other. A table that is read
at the last two, three, … tokens gives it that for one lookup, which costs memory and hardly any time ("Over-Tokenized
Transformer", Huang et al. 2025, section 3.2).

Shapes: B batch, L positions, W width, G channels of the tables.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.models.attention_mask import PADDING

_BASE = 6364136223846793005
_MULTIPLIER = -7046029254386353131
"""An n-gram is a polynomial of its tokens' numbers modulo 2⁶⁴ (Karp & Rabin 1987; the base is that of Knuth's MMIX
generator), and its row the upper half of Fibonacci's product with 2⁶⁴ / golden ratio (Knuth 1998, section 6.4)."""


def channels_of(width: int) -> int:
    """Channels of the tables."""
    return max(1, width // 4)


def read_ngrams(width: int) -> nn.Linear:
    """A matrix from the channels of the tables to the width."""
    return nn.Linear(channels_of(width), width, bias=False)


class NGramEmbedding(nn.Module):
    """One learned vector for each n-gram that ends at a position, summed, and mapped to the width by `read`.

    The tables are narrower than the network: they cost a quarter of the memory and of the optimizer's time, for a loss
    that is hardly higher.

    rows: of the tables of 2-grams, 3-grams, … The row of an n-gram is a hash of its tokens, so some share one.
    vocabulary: number of tokens. They are hashed by their numbers, `numbers_V`: ids + 1, which an export that has
        fewer tokens keeps.
    """

    numbers_V: Tensor

    def __init__(self, *, rows: Sequence[int], vocabulary: int, width: int) -> None:
        super().__init__()
        self.register_buffer("numbers_V", torch.arange(1, vocabulary + 1))
        self.rows = tuple(rows)
        self.tables = nn.ModuleList(nn.Embedding(each, channels_of(width)) for each in rows)
        self.read = read_ngrams(width)

    @property
    def reach(self) -> int:
        """How many tokens before a position are read."""
        return len(self.tables)

    def forward(self, tokens_BL: Tensor, before: Sequence[Tensor]) -> Tensor:
        """[B, L] to [B, L, W]. before: what `preceding` returns for these tokens."""
        read_BLW: Tensor = self.read(self.look_up(tokens_BL, before))
        return read_BLW

    def look_up(self, tokens_BL: Tensor, before: Sequence[Tensor]) -> Tensor:
        """What `read` maps to the width, [B, L, G]."""
        code_BL, found = self.numbers_V[tokens_BL], []
        for table, rows, earlier_BL in zip(self.tables, self.rows, before, strict=True):
            code_BL = code_BL * _BASE + earlier_BL  # wraps around
            found.append(table(((code_BL * _MULTIPLIER) >> 32) % rows))
        found_BLG: Tensor = sum(found[1:], start=found[0])
        return found_BLG

    def preceding(self, tokens_BL: Tensor, documents_BL: Tensor | None = None) -> list[Tensor]:
        """For k = 1, 2, … `reach` the number of the token k positions before each, [B, L]; 0 before a document's first.

        documents_BL: the document of each position; None: all belong to one.
        """
        length, numbers_BL, found = tokens_BL.shape[1], self.numbers_V[tokens_BL], []
        for k in range(1, self.reach + 1):
            earlier_BL = F.pad(numbers_BL, (k, 0))[:, :length]
            if documents_BL is not None:
                is_same_BL = F.pad(documents_BL, (k, 0), value=PADDING - 1)[:, :length] == documents_BL
                earlier_BL = earlier_BL * is_same_BL
            found.append(earlier_BL)
        return found


def preceding_in_blocks(noisy: Sequence[Tensor], clean: Sequence[Tensor], block: int) -> list[Tensor]:
    """What precedes the noisy tokens of block diffusion: noisy tokens of their own block, clean ones of earlier blocks.

    noisy, clean: `NGramEmbedding.preceding` of the noisy tokens and of the same positions' clean ones.
    """
    place_L = torch.arange(noisy[0].shape[1], device=noisy[0].device) % block
    return [
        torch.where(place_L < k, clean_BL, noisy_BL)
        for k, (noisy_BL, clean_BL) in enumerate(zip(noisy, clean, strict=True), start=1)
    ]
