"""Inpainting draws from the conditional distribution (docs/identities.md#inpainting); broken twins do not."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from seedfast.diffusion import inpainting as installed
from seedfast.verify.identities import inpainting

Repaint = Callable[..., Iterator[Tensor]]


def one_pass(*words: Any, passes: int) -> Iterator[Tensor]:
    """Replacement conditioning: no step is taken again, so both parts are noised independently."""
    return installed.repaint(*words, passes=1)


def too_little_noise(*words: Any, passes: int) -> Iterator[Tensor]:
    """It goes back with half of the noise."""
    *rest, noise = words
    return installed.repaint(*rest, lambda stream, *at: noise(stream, *at) / (1 + (stream == "back")), passes=passes)


def forgets_the_known_part(sampler: Any, first: Any, grid: Any, known: installed.Known, *rest: Any, passes: int) -> Any:
    """It replaces the known part after the last step only."""
    free = replace(known, unknown=torch.ones_like(known.unknown))
    for x in installed.repaint(sampler, first, grid, free, *rest, passes=passes):
        yield known.replaced(x, grid[-1], x)


@pytest.mark.parametrize("twin", [one_pass, too_little_noise, forgets_the_known_part])
def test_twin_is_found(twin: Repaint) -> None:
    assert not inpainting.conditional_distribution(twin).holds
