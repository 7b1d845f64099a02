"""The split that the names of files and folders give: train beside val (valid, validation, dev), or beside test."""

from collections.abc import Collection

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "restval": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""The usual names of splits, in lower case. restval is training data, as usual (Karpathy & Fei-Fei 2015)."""

NEVER_TRAINED = "a test split, which is never trained on"
"""Why test data beside validation data is left out."""


def given_split(names: Collection[str]) -> dict[str, str | None]:
    """The split of each name that is one of a given split: "train" or "validation"; empty where none is given.

    Training data beside validation data is a given split, in which test data validates only if there is no other.
    Training data alone only wraps the data: its split is None, not given.
    """
    kinds = {name: SPLIT_NAMES.get(name.lower()) for name in sorted(names)}
    if set(kinds.values()) == {"train"}:
        return dict.fromkeys(kinds)
    validates = "validation" if "validation" in kinds.values() else "test"
    if not {"train", validates} <= set(kinds.values()):
        return {}
    return {
        name: "train" if kind == "train" else "validation"
        for name, kind in kinds.items()
        if kind in ("train", validates)
    }
