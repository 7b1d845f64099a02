"""A quantity along an axis, such as an error at each noise level. Without torch: the report reads profiles too."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Diagnostics of a validation of which each is one point; the report draws them as one curve.

    axis: what the points differ in. points: the diagnostics by name, each with its place on the axis.
    identity: whether a perfect model's values are the places themselves, as those of a calibration are.
    """

    axis: str
    points: Mapping[str, float]
    identity: bool = False
