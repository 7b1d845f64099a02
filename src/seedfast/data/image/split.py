"""The split of images into training and validation, which keeps related images in one split."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from seedfast import keys
from seedfast.data.prepare import SPLITS
from seedfast.data.split import far_notice, hold_out
from seedfast.errors import UserError


def assign_splits(
    split_keys: Sequence[str],
    given: Sequence[str | None],
    validation: float,
    *,
    title: str,
    labels: Sequence[str] | None = None,
) -> tuple[list[str], list[str]]:
    """The split of each image, as given by the source or by `hold_out`, and what is to be reported about the split.

    Images of one key (copies of one image, drawings of one character) are in one split. title: the source's name.
    labels: the class of each image; each class keeps an image that trains. Raises UserError if no image trains.
    """
    if all(split is not None for split in given):
        splits = [str(split) for split in given]
        if SPLITS[0] not in splits:
            raise UserError(f"{title} has no image in its {SPLITS[0]} split: add more.")
        return splits, []
    classes = defaultdict[str, Counter[str]](Counter)
    for key, label in zip(split_keys, labels or [""] * len(split_keys), strict=True):
        classes[key][label] += 1
    groups = list(classes)
    sizes = np.array([classes[key].total() for key in groups])
    ranks = np.array([keys.derive(0, "validation split", key) for key in groups])
    held = hold_out(sizes, ranks, validation, [classes[key] for key in groups])
    validating = {key for key, is_held in zip(groups, held.tolist(), strict=True) if is_held}
    why = "related images stay together, and each class keeps one that trains"
    notes = far_notice(title, int(sizes[held].sum()), len(split_keys), "images", validation, why)
    return [SPLITS[key in validating] for key in split_keys], notes
