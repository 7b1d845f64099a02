"""Windows over a stream of tokens: every token except the first is scored exactly once in an epoch."""

from functools import cached_property

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from seedfast.data.dataset import Batch, Integers
from seedfast.data.text.batch import text_batch
from seedfast.data.text.sharded_tokens import Rows, ShardedTokens, TokenIds, places_of


class Windows:
    """Window i holds the L targets from min(i·L, M-L) on; the last window overlaps, and scores only the new targets.

    So nothing is padded, nothing is dropped, and all examples have the same shape.
    """

    def __init__(
        self, tokens: TokenIds | ShardedTokens, context: int, *, prompt: int = 0, end_of_text: int = -1
    ) -> None:
        """tokens: the stream [M+1], usually memory-mapped; M ≥ L, or M = 0 for no window. context: the length L.

        prompt: number of preceding tokens P given with each window, at most back to the last end-of-text.
        """
        self.targets = len(tokens) - 1
        if context < 1 or 0 < self.targets < context:
            raise ValueError(f"windows of {context} tokens do not fit into {self.targets} targets")
        self.context = context
        self._last_start = self.targets - context
        width = min(context, self.targets) + 1
        self._tokens: TokenIds | ShardedTokens
        self._rows: TokenIds | Rows
        if isinstance(tokens, ShardedTokens):
            self._tokens, self._rows = tokens, Rows(tokens, width)
        else:
            self._tokens = np.asarray(tokens)  # a plain array: np.memmap's own indexing costs microseconds
            self._rows = sliding_window_view(self._tokens, width)  # a view: row s is tokens[s : s+L+1]
        self._columns = np.arange(context)
        self._prompt, self.end_of_text = prompt, end_of_text

    def __len__(self) -> int:
        """⌈M / L⌉ windows."""
        return -(-self.targets // self.context)

    def batch(self, ids: list[int]) -> Batch:
        """The windows with these ids, as a `TextBatch`: `tokens` and `scored`, with prompts also `prompt`."""
        first_B = self._checked(ids) * self.context
        start_B = np.minimum(first_B, self._last_start)
        tokens_BL = self._rows[start_B].astype(np.int64)
        scored_BL = self._columns >= (first_B - start_B)[:, None]
        batch = text_batch(tokens=torch.from_numpy(tokens_BL), scored=torch.from_numpy(scored_BL))
        return batch | (self._prompts(start_B) if self._prompt else {})

    def documents(self, ids: Integers) -> Integers | None:
        """The document that the middle of each window lies in, counted from 0, int64 [B]."""
        first_B = ids * self.context
        return self._document_of(first_B, np.minimum(self.context, self.targets - first_B))

    def _document_of(self, start_B: Integers, size_B: Integers) -> Integers:
        """The document of the middle one of `size` targets from each start on. An end belongs to what it ends."""
        return np.searchsorted(self._document_ends, start_B + 1 + (size_B - 1) // 2)

    @cached_property
    def _document_ends(self) -> Integers:
        """The places of all ends of text but the first, ascending."""
        if isinstance(self._tokens, ShardedTokens):
            return self._tokens.places_of(self.end_of_text)
        return places_of(self._tokens[1:], self.end_of_text) + 1

    def _checked(self, ids: list[int]) -> Integers:
        """The ids [B]. Raises IndexError for an unknown one."""
        ids_B = np.array(ids, np.int64)
        if len(ids) and not 0 <= ids_B.min() <= ids_B.max() < len(self):
            raise IndexError(f"window ids lie in 0 … {len(self) - 1}, not in {min(ids)} … {max(ids)}")
        return ids_B

    def _prompts(self, start_B: Integers) -> Batch:
        """`prompt` and `prompt_real`: the tokens before each window's targets, and which are of the same document."""
        place_BP = start_B[:, None] + np.arange(1 - self._prompt, 1)
        prompt_BP = self._tokens[np.maximum(place_BP, 0)].astype(np.int64)
        ends_BP = (prompt_BP == self.end_of_text) | (place_BP < 0)
        # True after the last end: no end at this place or at any later one.
        real_BP = ~np.logical_or.accumulate(ends_BP[:, ::-1], axis=1)[:, ::-1]
        return {"prompt": torch.from_numpy(prompt_BP), "prompt_real": torch.from_numpy(real_BP)}


class DocumentWindows(Windows):
    """Windows of one document each, cut from its beginning; the last window of a document is padded.

    Here too every token except the first is scored exactly once, padding never. No window contains two documents.
    """

    def __init__(self, tokens: TokenIds | ShardedTokens, context: int, *, prompt: int = 0, end_of_text: int) -> None:
        """The arguments of `Windows`. A document begins after an end-of-text, and ends with one."""
        super().__init__(tokens, context, prompt=prompt, end_of_text=end_of_text)
        stop_D = self._document_ends  # behind each document's last target
        if not len(stop_D) or stop_D[-1] < self.targets:
            stop_D = np.append(stop_D, self.targets)
        start_D = np.concatenate([[0], stop_D[:-1]])
        count_D = -(-(stop_D - start_D) // context)
        nth_W = np.arange(count_D.sum()) - np.repeat(np.cumsum(count_D) - count_D, count_D)
        self._start_W = np.repeat(start_D, count_D) + nth_W * context
        self._size_W = np.minimum(np.repeat(stop_D, count_D) - self._start_W, context)

    def __len__(self) -> int:
        """The number of windows of all documents."""
        return len(self._start_W)

    def documents(self, ids: Integers) -> Integers:
        """The document of each window, counted from 0, int64 [B]."""
        return self._document_of(self._start_W[ids], self._size_W[ids])

    def batch(self, ids: list[int]) -> Batch:
        """As `Windows.batch`, padded with end-of-text, and with `real`, which is False for padding."""
        ids_B = self._checked(ids)
        start_B = self._start_W[ids_B]
        real_BL = self._columns < self._size_W[ids_B][:, None]
        place_BL = start_B[:, None] + np.arange(self.context + 1)
        tokens_BL = self._tokens[np.minimum(place_BL, self.targets)].astype(np.int64)
        tokens_BL[:, 1:][~real_BL] = self.end_of_text
        batch = text_batch(
            tokens=torch.from_numpy(tokens_BL),
            scored=torch.from_numpy(real_BL.copy()),
            real=torch.from_numpy(real_BL),
        )
        return batch | (self._prompts(start_B) if self._prompt else {})
