"""The token stream of many shards, as if their files were one: no shard is read before its tokens are needed."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.unsignedinteger]


_AT_ONCE = 1 << 24  # tokens


def places_of(tokens: TokenIds, token: int) -> npt.NDArray[np.int64]:
    """The places of all copies of a token, ascending, [N]; in parts, so that memory does not grow with the tokens."""
    starts = range(0, len(tokens) or 1, _AT_ONCE)
    return np.concatenate([np.flatnonzero(tokens[start : start + _AT_ONCE] == token) + start for start in starts])


class ShardedTokens:
    """The tokens of shards one after the other.

    Every shard begins with an end-of-text. All but the first leave it out, since the shard before them ends with one:
    the stream is that of one file with the documents of all.
    """

    def __init__(self, shards: Sequence[TokenIds]) -> None:
        """shards: the tokens of each, [EOT] document [EOT] …, usually memory-mapped."""
        filled = [tokens for tokens in shards if len(tokens) > 1]
        self._shards = [tokens[1:] if number else tokens for number, tokens in enumerate(filled)] or list(shards[:1])
        self._starts = np.array([0, *accumulate(map(len, self._shards))])

    def __len__(self) -> int:
        """The number of tokens."""
        return int(self._starts[-1])

    def between(self, start: int, stop: int) -> TokenIds:
        """The tokens start … stop-1."""
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts: list[TokenIds] = []
        while start < stop:
            here = self._shards[shard][start - self._starts[shard] : stop - self._starts[shard]]
            parts.append(here)
            start, shard = start + len(here), shard + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def __getitem__(self, places: npt.NDArray[np.int64]) -> TokenIds:
        """The tokens at these places, of any shape."""
        shard = np.searchsorted(self._starts, places, side="right") - 1
        found = np.empty(places.shape, self._shards[0].dtype)
        for number in np.unique(shard).tolist():
            here = shard == number
            found[here] = self._shards[number][places[here] - self._starts[number]]
        return found

    def places_of(self, token: int) -> npt.NDArray[np.int64]:
        """The places of all copies of a token after the first of the stream, ascending, [N]."""
        found = [places_of(tokens, token) + start for tokens, start in zip(self._shards, self._starts, strict=False)]
        places = np.concatenate(found)
        return places[places > 0]


class Rows:
    """The `size` tokens from each of some places on, like a sliding window view of one array."""

    def __init__(self, tokens: ShardedTokens, size: int) -> None:
        self._tokens, self._size = tokens, size

    def __getitem__(self, starts_B: npt.NDArray[np.int64]) -> TokenIds:
        """Row b holds the tokens from starts_B[b] on: [B, size]."""
        rows = [self._tokens.between(start, start + self._size) for start in starts_B.tolist()]
        return np.stack(rows) if rows else np.empty((0, self._size), np.uint16)
