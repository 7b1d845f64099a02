"""Tokens as bits of an entropy coder: constriction's coder of asymmetric numeral systems (Duda 2013).

constriction has frequencies of 24 bits, too few for a vocabulary: of 50,000 tokens each needs a frequency of 1 at
least, which costs the likely ones 0.004 bits a token, and the probability of a rare one is rounded to a multiple of
2^-24. So a token is a path in a binary tree over the ids, and every fork is a step of the coder: the less likely
branch, of probability m, has the frequency k = ⌈2^24 m⌉, so that the other one loses at most 2^-24 of its probability.
Where k is so small that the rounding counts, and the less likely branch is taken, a second step with the probability
2^24 m / k takes back what it gained. A fork then costs its ideal bits to within 1e-5, with any m above 2^-40, and the
likely branch to within 2e-7 (docs/compression.md#the-size-is-the-number).

The coder is a stack: it is written from the last step to the first. Its own error has mean zero over the steps. That of
constriction's range coder has not: 1.3e-4 bits a step, 60 bits after half a million.
"""

import math
from array import array
from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seedfast.errors import UserError

WHOLE = 1 << 24
"""The sum of the frequencies of a step."""
_NEAR = 1 - 2.0**-18
"""A second step is left out where its probability is nearer to 1."""
_EXACT = {"perfect": True}
"""constriction takes the nearest frequencies: here, those that are asked for."""
_BLOCK = 1 << 20  # steps that are handed to the coder at once

Sums = npt.NDArray[np.float64]
"""Probabilities of the nodes of a binary tree, [2 · leaves]: node 1 is the root, 2i and 2i + 1 are children of i."""


class ImpossibleError(Exception):
    """A token has the probability zero (or none that is a number), so no bits can stand for it."""


class DamagedError(Exception):
    """The bits are none that an encoder has written."""


class Steps(Protocol):
    """The steps of a coder: of an encoder, which knows the token, or of a decoder, which finds it."""

    def branch(self, rare: int, depth: int, frequency: int) -> bool:
        """Whether the branch to the node `rare`, `depth` forks above the leaves, is taken."""
        ...

    def insist(self, frequency: int) -> None:
        """A step that always has the outcome of this frequency."""
        ...


def constriction() -> Any:
    """The library. Raises UserError if it is missing."""
    try:
        import constriction as library
    except ImportError:
        raise UserError("Compression needs constriction: pip install 'seedfast[compress]'.") from None
    return library


def trees(probabilities_NV: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The `Sums` of N distributions over V tokens, [N, 2 · leaves]: additions of pairs alone, the same everywhere."""
    rows, vocabulary = probabilities_NV.shape
    leaves = 1 << max(1, (vocabulary - 1).bit_length())
    sums = np.zeros((rows, 2 * leaves))
    sums[:, leaves : leaves + vocabulary] = probabilities_NV
    while leaves > 1:
        half = leaves // 2
        np.add(sums[:, leaves : 2 * leaves : 2], sums[:, leaves + 1 : 2 * leaves : 2], out=sums[:, half:leaves])
        leaves = half
    return sums


def walk(sums: Sums, steps: Steps) -> int:
    """The token at the end of the path that the steps take."""
    leaves, value = len(sums) // 2, sums.item
    node, depth = 1, leaves.bit_length() - 1
    while node < leaves:
        node, depth = 2 * node, depth - 1
        left, right = value(node), value(node + 1)
        small, common, rare = (right, node, node + 1) if right < left else (left, node + 1, node)
        share = small / (left + right) * WHOLE
        if not share > 0:  # nothing to decide
            node = common
            continue
        frequency = math.ceil(share)
        if not steps.branch(rare, depth, frequency):
            node = common
            continue
        node = rare
        if (rest := share / frequency) < _NEAR:
            steps.insist(max(1, round(rest * WHOLE)))
    return node - leaves


class Encoder:
    """Collects the steps of tokens, each as twice its frequency and whether it has the outcome of this frequency."""

    def __init__(self) -> None:
        self.packed, self._leaf = array("I"), 0

    def put(self, sums: Sums, token: int) -> None:
        """Add the steps of a token. Raises ImpossibleError if its probability is zero."""
        self._leaf = len(sums) // 2 + token
        # A comparison with NaN is false. A probability that vanishes beside its neighbour has no step to be chosen by.
        if not sums.item(self._leaf) > 0 or walk(sums, self) != token:
            raise ImpossibleError

    def branch(self, rare: int, depth: int, frequency: int) -> bool:
        """Note a fork."""
        taken = self._leaf >> depth == rare
        self.packed.append(2 * frequency + taken)
        return taken

    def insist(self, frequency: int) -> None:
        """Note a second step."""
        self.packed.append(2 * frequency + 1)


class Decoder:
    """Reads tokens from the bits that `pack` wrote."""

    def __init__(self, content: bytes, position: tuple[int, int] | None = None) -> None:
        """position: that of another decoder of the same bits. Raises DamagedError for bits that no encoder wrote."""
        library = constriction()
        if content.endswith(b"\0"):
            raise DamagedError
        words = np.frombuffer(content + bytes(-len(content) % 4), "<u4").astype(np.uint32)
        self._coder = library.stream.stack.AnsCoder(words) if len(words) else library.stream.stack.AnsCoder()
        self._model = partial(library.stream.model.Bernoulli, **_EXACT)
        if position is not None:
            self._coder.seek(*position)

    def get(self, sums: Sums) -> int:
        """The next token. Raises DamagedError if its bits are impossible."""
        return walk(sums, self)

    def branch(self, rare: int, depth: int, frequency: int) -> bool:
        """Read a fork."""
        return bool(self._coder.decode(self._model(frequency / WHOLE)))

    def insist(self, frequency: int) -> None:
        """Read a second step."""
        if not self._coder.decode(self._model(frequency / WHOLE)):
            raise DamagedError

    @property
    def position(self) -> tuple[int, int]:
        """Where it is."""
        position, state = self._coder.pos()
        return int(position), int(state)

    @property
    def is_at_end(self) -> bool:
        """Whether all bits are read."""
        return bool(self._coder.is_empty())


def pack(blocks: Iterable[npt.NDArray[np.uint32]]) -> bytes:
    """The bits of steps, as `Encoder.packed` has them. blocks: parts of them, the last one first."""
    library = constriction()
    coder, model = library.stream.stack.AnsCoder(), library.stream.model.Bernoulli(**_EXACT)
    for block in blocks:
        for end in range(len(block), 0, -_BLOCK):
            part = block[max(0, end - _BLOCK) : end]
            coder.encode_reverse((part & 1).astype(np.int32), model, (part >> 1) / WHOLE)
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    return words.rstrip(b"\0")


def example() -> bytes:
    """The bits of some fixed steps, by which another version of the coder is noticed."""
    numbers = np.arange(1, 65, dtype=np.uint32)
    return pack([2 * (numbers * 0x1F123 % (WHOLE // 2) + 1) + numbers % 2])
