"""Whether validation examples occur in the training data: those of text by their tokens, others by their pixels."""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from seedfast import keys
from seedfast.console import track
from seedfast.data.dataset import Batch, Corpus
from seedfast.verify.finding import Finding

_AT_ONCE = 1024  # examples that are read together
_TOKENS = 32  # of a text that is looked for
_MOST = 1024  # validation examples that are looked for
LIMIT = 0.5
"""The part of the validation examples in the training data from which a run counts as trained on validation: short
texts occur in both by right."""

Hashes = npt.NDArray[np.int64]


def overlap(corpus: Corpus, *, seed: int) -> Finding:
    """The part of (some of) the validation examples that occurs in the training data.

    A text occurs if the tokens in the middle of its window do, anywhere in the training text; an image if all its
    pixels do. seed: chooses the examples where there are many.
    """
    size, total = len(corpus.validation), len(corpus.train)
    if not size:
        return Finding("split", None, "the data has no validation split")
    chosen = keys.shuffle(keys.derive(seed, "verify", "overlap"), torch.arange(min(size, _MOST)), size).tolist()
    wanted_N = _middles(corpus.validation.batch(chosen))
    found_N = np.zeros(len(wanted_N), bool)
    starts = range(0, total, _AT_ONCE)
    for start in track("Looking for validation examples", starts, len(starts)):
        batch = corpus.train.batch(list(range(start, min(start + _AT_ONCE, total))))
        found_N |= np.isin(wanted_N, _everywhere(batch, _length(corpus.validation.batch(chosen[:1]))))
    share = float(found_N.mean())
    what = f"{share:.1%} of {len(wanted_N)} validation examples are in the training data"
    return Finding("split", share < LIMIT, what)


def _middles(batch: Batch) -> Hashes:
    """The hash of each example: of its image, or of the tokens in the middle of its text."""
    if (image := _image(batch)) is not None:
        return _of_images(image)
    tokens_BL = _tokens(batch)
    length = _length(batch)
    start = (tokens_BL.shape[1] - length) // 2
    return _of_tokens(tokens_BL[:, start : start + length])[:, 0]


def _everywhere(batch: Batch, length: int) -> Hashes:
    """The hash of each image, or of each `length` tokens in a row: neighbouring windows continue each other."""
    if (image := _image(batch)) is not None:
        return _of_images(image)
    row_N = _tokens(batch).reshape(1, -1)
    return _of_tokens(row_N, length)[0] if row_N.shape[1] >= length else np.zeros(0, np.int64)


def _image(batch: Batch) -> torch.Tensor | None:
    return batch["pixels"] if "pixels" in batch else batch.get("features")


def _tokens(batch: Batch) -> npt.NDArray[np.int64]:
    """The tokens of each example without the one before it, int64 [B, L]; of a pair of answers, those of the chosen."""
    tokens = batch["tokens"]
    return np.ascontiguousarray((tokens if tokens.ndim == 2 else tokens[:, 0])[:, 1:].numpy())


def _length(batch: Batch) -> int:
    """The number of tokens that are looked for; 0 for images."""
    return 0 if _image(batch) is not None else min(_TOKENS, _tokens(batch).shape[1])


def _of_tokens(tokens_BL: npt.NDArray[np.int64], length: int | None = None) -> Hashes:
    """A hash of each `length` tokens in a row (default: of all of them), int64 [B, L - length + 1]."""
    length = length or tokens_BL.shape[1]
    factor_L = keys.bits(keys.derive(0, "verify", "hash"), torch.zeros(1, dtype=torch.int64), length)[0].numpy() | 1
    hashes = np.zeros((len(tokens_BL), tokens_BL.shape[1] - length + 1), np.int64)
    with np.errstate(over="ignore"):
        for place in range(length):
            part = tokens_BL[:, place : tokens_BL.shape[1] - length + 1 + place]
            hashes += (part + 1) * factor_L[place]
    return hashes


def _of_images(images: torch.Tensor) -> Hashes:
    digests: Sequence[bytes] = [hashlib.blake2b(image.numpy().tobytes(), digest_size=8).digest() for image in images]
    return np.array([int.from_bytes(digest, "little", signed=True) for digest in digests], np.int64)
