"""Augmentation: keyed to the example, and each kind has its documented effect."""

from dataclasses import replace

import pytest
import torch
from tests.helpers.images import draws

from seedfast.errors import UserError
from seedfast.families.image.augment import Augment, augmented


def test_the_augmentation_of_an_example_does_not_depend_on_its_batch() -> None:
    x = torch.linspace(-1, 1, 6 * 3 * 64).view(6, 3, 8, 8)
    options = Augment(flip=True, rotate=20.0, jitter=0.3)
    whole = augmented(x, options, draws(6))
    rows = replace(draws(6), positions_B=torch.tensor([4, 1]))
    assert torch.equal(augmented(x[[4, 1]], options, rows), whole[[4, 1]])
    assert float(whole.abs().max()) <= 1


def test_each_augmentation_has_its_documented_effect() -> None:
    x = torch.zeros(400, 1, 8, 8)
    x[:, :, :, 0] = 1.0
    flipped = augmented(x, Augment(flip=True), draws(400))
    assert 0.4 < float((flipped[:, 0, 0, -1] == 1).double().mean()) < 0.6
    grey = augmented(torch.full((400, 1, 8, 8), 0.2), Augment(jitter=0.25), draws(400))[:, 0, 0, 0]
    light = (grey + 1) / 2 / 0.6
    assert 0.75 <= float(light.min()) < 0.77
    assert 1.23 < float(light.max()) <= 1.25
    disc = ((torch.arange(8) - 3.5).square()[:, None] + (torch.arange(8) - 3.5).square() < 9).float()
    turned = augmented(disc.expand(9, 1, 8, 8), Augment(rotate=180.0), draws(9))
    assert float((turned - disc).abs().mean()) < 0.1, "a disc stays a disc"


@pytest.mark.parametrize("options", [{"rotate": -1.0}, {"rotate": 181.0}, {"jitter": 1.0}], ids=str)
def test_invalid_augmentations_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"objective\.augment"):
        Augment(**options)  # type: ignore[arg-type]
