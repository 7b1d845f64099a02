"""The split of pictures: which side each is on, so that what belongs together stays together."""

from collections import Counter
from collections.abc import Sequence

from seedfast import keys

SPLITS = ("train", "validation")


def sides(image_keys: Sequence[str], roles: Sequence[str | None], validation: float) -> list[str]:
    """Who validates: as the source says (roles) or, in the order of their keys' hashes, until they are enough.

    Images of one key (copies of one picture, drawings of one character) are all on the same side. validation: the part
    of the images that is wanted.
    """
    if all(role is not None for role in roles):
        return [str(role) for role in roles]
    counts = Counter(image_keys)
    held_out, wanted = set[str](), validation * len(image_keys)
    for key in sorted(counts, key=lambda key: keys.derive(0, "validation split", key))[:-1]:
        if wanted <= 0:
            break
        held_out.add(key)
        wanted -= counts[key]
    return [SPLITS[key in held_out] for key in image_keys]
