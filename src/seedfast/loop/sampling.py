"""The samples that a training writes: options of `seedfast sample` that the run sets for the showcase of its family."""

from dataclasses import dataclass
from typing import Annotated

from seedfast.options import SET, Affects, AtLeast, Example, MayChange, OnlyWith, check


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The samples of a training. What is left open is the showcase of the family in its default decoding."""

    num: Annotated[int | None, AtLeast(1), MayChange(), Affects("files"), Example(3)] = None
    """Number of samples, for each prompt where there are some (default: 2 texts, 16 images)."""
    prompt: Annotated[tuple[str, ...], MayChange(), Affects("files"), Example(("the ", "a"))] = ()
    """For text: texts to continue, instead of a held-out one."""
    tokens: Annotated[
        int | None, AtLeast(1), OnlyWith(prompt=SET), MayChange(), Affects("files"), Example(3, prompt=("the ",))
    ] = None
    """For text: tokens after each prompt (default: as many as fit into the model's context)."""
    label: Annotated[
        tuple[str, ...], MayChange(), Affects("files"), Example(("many",), **{"run.recipe": "image-diffusion"})
    ] = ()
    """For images: the classes, instead of the eight largest."""
    sampler: Annotated[
        str | None, MayChange(), Affects("files"), Example("ddim", **{"run.recipe": "image-diffusion"})
    ] = None
    """For images and embedding diffusion: the sampler."""
    steps: Annotated[
        int | None, AtLeast(1), MayChange(), Affects("files"), Example(2, **{"run.recipe": "text-masked"})
    ] = None
    """For diffusion: the number of steps."""
    guidance: Annotated[
        float | None, AtLeast(0), MayChange(), Affects("files"), Example(9.0, **{"run.recipe": "image-diffusion"})
    ] = None
    """For images and embedding diffusion: the scale of classifier-free guidance."""
    temperature: Annotated[float | None, AtLeast(0), MayChange(), Affects("files"), Example(0.0)] = None
    """For text: below 1 favours likely tokens."""

    def __post_init__(self) -> None:
        check(self, "sampling.")

    @property
    def given(self) -> dict[str, object]:
        """The options that are set."""
        return {name: value for name, value in vars(self).items() if value not in (None, ())}
