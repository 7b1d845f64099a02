"""A batch of text."""

from typing import Required, TypedDict, Unpack

from torch import Tensor

from seedfast.data.dataset import Batch


class TextBatch(TypedDict, total=False):
    """The tensors of a batch of B windows of L target tokens, on the CPU."""

    tokens: Required[Tensor]
    """int64 [B, L+1]: the token before the window, then its L targets."""
    scored: Required[Tensor]
    """bool [B, L]: which targets count in the loss (the loss mask)."""
    documents: Tensor
    """int64 [B, L+1]: the number, within its window, of the example that each token belongs to (packed examples)."""
    real: Tensor
    """bool [B, L]: False for padding (windows of one document each)."""
    prompt: Tensor
    """int64 [B, P]: the P tokens before the window's targets (data.prompt > 0)."""
    prompt_real: Tensor
    """bool [B, P]: which of them belong to the document that continues in the window."""


def text_batch(**tensors: Unpack[TextBatch]) -> Batch:
    """A batch whose names and types are checked against `TextBatch`."""
    batch: Batch = {**tensors}  # type: ignore[dict-item]  # a TypedDict's values are objects to mypy
    return batch
