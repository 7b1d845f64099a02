"""The options of caption training: the `--objective.*` flags."""

from dataclasses import dataclass
from typing import Annotated

from seedfast.errors import UserError
from seedfast.options import AtLeast, Between, Example, Formerly, check

SELF_CRITICAL_SAMPLES = 4
"""Captions sampled for each image in self-critical training, unless the options set another number."""


@dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """Next-token prediction of captions given their image."""

    captions_per_image: Annotated[int | None, AtLeast(1), Formerly("captions")] = 1
    """Captions of each image in a training step, a new random choice each time; None takes all. (Validation takes
    all.)"""
    label_smoothing: Annotated[float, Between(0, 1, open_high=True)] = 0.0
    """In training, the part of each target that is spread evenly over the vocabulary (Szegedy et al. 2016)."""
    self_critical: Annotated[int | None, AtLeast(0), Example(1)] = None
    """From this step on, maximise the CIDEr-D of sampled captions instead of the likelihood of the references (Rennie
    et al. 2017); needs a low learning rate."""
    self_critical_samples: Annotated[
        int | None, AtLeast(2), Formerly("candidates"), Example(3, self_critical=0, self_critical_samples=2)
    ] = None
    """For self_critical: captions sampled for each image (default 4); the baseline of each is the others' mean."""
    metrics_every_n_images: Annotated[int | None, AtLeast(1), Formerly("captioned")] = 4
    """Caption every N-th validation image greedily and report exact match, CIDEr-D and ROUGE-L; None disables it."""

    def __post_init__(self) -> None:
        check(self, "objective.")
        if self.self_critical_samples is not None and self.self_critical is None:
            raise UserError(
                f"objective.self_critical_samples ({self.self_critical_samples}) has no effect without "
                "objective.self_critical: set it too, or leave the number out."
            )
