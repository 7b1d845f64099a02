"""The split into training and validation by groups, which text, images and captions share.

A group is what must not be divided: the rows of one prompt, the copies of a document or an image. Groups validate in
the order of their keyed hashes, so adding or removing data moves few others to the other split.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer[Any]]

_EXCESS = 1.1
"""A group that would carry the validation split beyond the wanted part times this is passed over."""
_FAR = 2.0
"""A split with less than the wanted part divided by this, or more than it times this, is reported."""


def hold_out(
    sizes: Integers, ranks: Integers, validation: float, classes: Sequence[Mapping[str, int]] | None = None
) -> npt.NDArray[np.bool_]:
    """Which groups validate, bool [G].

    Groups are taken in the order of their ranks until they hold the wanted part of the total size. A group that would
    carry the split more than a tenth beyond it is passed over; if no other group fits, the smallest of those validates,
    unless the split then is more than twice as large as wanted although another group validates already. At least one
    group, and one member of each class, trains.

    sizes: of the groups, [G]. ranks: their keyed hashes, [G]. validation: the wanted part, in [0, 1). classes: number
    of members in each class, for each group; None: all are of one class.
    """
    wanted = validation * float(sizes.sum())
    held = np.zeros(len(sizes), bool)
    training = Counter[str]()
    for counts in classes or ():
        training.update(counts)
    groups, taken = len(sizes), 0

    def is_needed(group: int) -> bool:
        """Whether training would lose its last group, or the last member of a class."""
        return groups == 1 or (classes is not None and any(training[c] <= n for c, n in classes[group].items()))

    def take(group: int) -> None:
        nonlocal groups, taken
        held[group], groups, taken = True, groups - 1, taken + int(sizes[group])
        training.subtract(classes[group] if classes is not None else {})

    passed: list[int] = []
    for group in np.argsort(ranks, kind="stable").tolist():
        if taken >= wanted:
            return held
        if taken + sizes[group] > _EXCESS * wanted:
            passed.append(group)
        elif not is_needed(group):
            take(group)
    smallest = min((group for group in passed if not is_needed(group)), key=lambda group: sizes[group], default=None)
    if taken < wanted and smallest is not None and (not taken or taken + sizes[smallest] <= _FAR * wanted):
        take(smallest)
    return held


class FirstOf:
    """Keys of equal contents: each has the key with which its content came first."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}

    def __call__(self, content: str, key: str) -> str:
        """The key for a content, of which `content` is a digest, that would have the key `key` of its own."""
        return self._keys.setdefault(content, key)


def is_too_small(held: float, total: float, validation: float) -> bool:
    """Whether less than half of the wanted part validates."""
    return held * _FAR < validation * total


def is_far(held: float, total: float, validation: float) -> bool:
    """Whether less than half of the wanted part validates, or more than twice as much."""
    return is_too_small(held, total, validation) or held > _FAR * validation * total


def far_notice(title: str, held: int, total: int, unit: str, validation: float, why: str) -> list[str]:
    """The sentence about a split that is far from the wanted part, if it is. why: a clause."""
    if not held or not is_far(held, total, validation):
        return []
    part = f"{held / total:.{0 if held * 100 >= total else 2}%}"
    return [f"{held:,} of {total:,} {unit} of {title} validate, {part} where data.validation={validation:g}: {why}."]


def no_validation(title: str, why: str) -> str:
    """The warning about a corpus whose validation split is empty. why: a clause."""
    return (
        f"{title} has no validation split, because {why}: all of it trains, nothing measures overfitting, and no "
        "checkpoint is the best."
    )
