"""The split that names give."""

import pytest

from seedfast.data.given_split import given_split


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (("train", "val"), {"train": "train", "val": "validation"}),
        (("Training", "VALID"), {"Training": "train", "VALID": "validation"}),
        (("train", "validation", "test"), {"train": "train", "validation": "validation"}),
        (("train", "test"), {"train": "train", "test": "validation"}),
        (("train", "val", "extra"), {"train": "train", "val": "validation"}),
        (("train",), {"train": None}),
        (("val", "test"), {}),
        (("train", "bus", "car"), {}),
        (("cat", "dog"), {}),
    ],
)
def test_a_split_needs_training_data_and_data_that_validates(
    names: tuple[str, ...], used: dict[str, str | None]
) -> None:
    assert given_split(names) == used
