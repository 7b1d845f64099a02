"""The split of images into training and validation, which keeps related images in one split."""

from collections import Counter
from collections.abc import Sequence

from seedfast import keys
from seedfast.data.prepare import SPLITS


def assign_splits(split_keys: Sequence[str], given: Sequence[str | None], validation: float) -> list[str]:
    """The split of each image: as given by the source, or by the keyed hash of its key.

    Images of one key (copies of one image, drawings of one character) are in one split. Keys are held out in the order
    of their hashes until they have `validation`, a part of 1, of all images.
    """
    if all(split is not None for split in given):
        return [str(split) for split in given]
    counts = Counter(split_keys)
    held_out, missing = set[str](), validation * len(split_keys)
    for key in sorted(counts, key=lambda key: keys.derive(0, "validation split", key))[:-1]:
        if missing <= 0:
            break
        held_out.add(key)
        missing -= counts[key]
    return [SPLITS[key in held_out] for key in split_keys]
