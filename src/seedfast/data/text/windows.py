"""Windows over a stream of tokens: every token but the first is scored exactly once in an epoch."""

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view

from seedfast.data.dataset import Batch


class Windows:
    """Window i holds the L targets from min(i·L, M-L) on: the last one overlaps, and scores only what is new.

    So nothing is padded and nothing is dropped, and all examples have the same shape.
    """

    def __init__(
        self, tokens: npt.NDArray[np.unsignedinteger], context: int, *, prompt: int = 0, end_of_text: int = -1
    ) -> None:
        """tokens: the stream [M+1], mapped from a file or not; M ≥ L. context: the window's length L.

        prompt: how many of the tokens before a window are given with it, P, back to the last end-of-text at most.
        """
        self.targets = len(tokens) - 1
        if not 1 <= context <= self.targets:
            raise ValueError(f"windows of {context} tokens do not fit into {self.targets} targets")
        self.context = context
        self._last_start = self.targets - context
        # A view: row s is tokens[s : s+L+1]. Of a plain array: np.memmap's own indexing costs microseconds.
        self._rows = sliding_window_view(np.asarray(tokens), context + 1)
        self._columns = np.arange(context)
        self._tokens, self._prompt, self.end_of_text = np.asarray(tokens), prompt, end_of_text

    def __len__(self) -> int:
        """⌈M / L⌉ windows."""
        return -(-self.targets // self.context)

    def batch(self, ids: list[int]) -> Batch:
        """`tokens`, int64 [B, L+1], and `scored`, bool [B, L]: whether target tokens[:, 1+j] counts.

        With prompts also `prompt`, int64 [B, P], and `prompt_real`, bool [B, P].
        """
        wanted_B = self._known(ids) * self.context
        start_B = np.minimum(wanted_B, self._last_start)
        tokens_BL = self._rows[start_B].astype(np.int64)
        scored_BL = self._columns >= (wanted_B - start_B)[:, None]
        batch = {"tokens": torch.from_numpy(tokens_BL), "scored": torch.from_numpy(scored_BL)}
        return batch | (self._before(start_B) if self._prompt else {})

    def _known(self, ids: list[int]) -> npt.NDArray[np.int64]:
        """The ids, [B]. Raises IndexError if there is no such window."""
        wanted_B = np.array(ids, np.int64)
        if len(ids) and not 0 <= wanted_B.min() <= wanted_B.max() < len(self):
            raise IndexError(f"window ids lie in 0 … {len(self) - 1}, not in {min(ids)} … {max(ids)}")
        return wanted_B

    def _before(self, start_B: npt.NDArray[np.int64]) -> Batch:
        """The tokens before each window's targets, as far as they are of the document that goes on there."""
        place_BP = start_B[:, None] + np.arange(1 - self._prompt, 1)
        prompt_BP = self._tokens[np.maximum(place_BP, 0)].astype(np.int64)
        ends_BP = (prompt_BP == self.end_of_text) | (place_BP < 0)
        # True after the last end: no end at this place or at any later one.
        real_BP = ~np.logical_or.accumulate(ends_BP[:, ::-1], axis=1)[:, ::-1]
        return {"prompt": torch.from_numpy(prompt_BP), "prompt_real": torch.from_numpy(real_BP)}


class DocumentWindows(Windows):
    """Windows that hold one document each, cut from its beginning on; the last one's rest is padding, never scored.

    Every token but the first is scored exactly once here too, and no window is given anything of another document.
    """

    def __init__(
        self, tokens: npt.NDArray[np.unsignedinteger], context: int, *, prompt: int = 0, end_of_text: int
    ) -> None:
        """The arguments are `Windows`'s. A document begins after an end-of-text, and ends with one."""
        super().__init__(tokens, context, prompt=prompt, end_of_text=end_of_text)
        stop_D = np.flatnonzero(self._tokens[1:] == end_of_text) + 1  # behind each document's last target
        if not len(stop_D) or stop_D[-1] < self.targets:
            stop_D = np.append(stop_D, self.targets)
        start_D = np.concatenate([[0], stop_D[:-1]])
        count_D = -(-(stop_D - start_D) // context)
        nth_W = np.arange(count_D.sum()) - np.repeat(np.cumsum(count_D) - count_D, count_D)
        self._start_W = np.repeat(start_D, count_D) + nth_W * context
        self._size_W = np.minimum(np.repeat(stop_D, count_D) - self._start_W, context)

    def __len__(self) -> int:
        """The windows of all documents."""
        return len(self._start_W)

    def batch(self, ids: list[int]) -> Batch:
        """As `Windows.batch`, with end-of-texts as padding and `real`, bool [B, L], which is false there."""
        wanted_B = self._known(ids)
        start_B = self._start_W[wanted_B]
        real_BL = self._columns < self._size_W[wanted_B][:, None]
        place_BL = start_B[:, None] + np.arange(self.context + 1)
        tokens_BL = self._tokens[np.minimum(place_BL, self.targets)].astype(np.int64)
        tokens_BL[:, 1:][~real_BL] = self.end_of_text
        batch = {"tokens": torch.from_numpy(tokens_BL), "scored": torch.from_numpy(real_BL.copy())}
        batch["real"] = torch.from_numpy(real_BL)
        return batch | (self._before(start_B) if self._prompt else {})
