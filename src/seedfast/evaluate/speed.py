"""How fast a model generates, at a stated number of network evaluations."""

import time
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from seedfast.console import silenced
from seedfast.errors import UserError
from seedfast.evaluate.evaluator import rows
from seedfast.evaluate.trained import Trained
from seedfast.families.generator import Request, Samples
from seedfast.families.image.request import ImageRequest
from seedfast.families.image.samples import ImageSamples
from seedfast.families.text.base import TextGenerator
from seedfast.families.text.block_diffusion import BlockGenerator
from seedfast.families.text.request import TextRequest, TextSamples

TEXTS = 4
"""Texts or images that are generated together."""
_EIGHTH = 8


@dataclass(frozen=True)
class Timed:
    """Samples, and what they took. count: tokens that were written, or images. evaluations: of the network, for each
    sample; None if not known."""

    samples: Samples
    count: int
    evaluations: int | None
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens or images per second."""
        return self.count / self.seconds


def timed(model: Trained, request: Request, seed: int) -> Timed:
    """Generate, with the time that it takes. Raises UserError as `model.sample` does."""
    began = time.perf_counter()
    samples = model.sample(request, seed=seed)
    seconds = time.perf_counter() - began
    if isinstance(samples, TextSamples):
        count = sum(map(len, samples.written))
    else:
        count = len(samples.images_NCSS) if isinstance(samples, ImageSamples) else request.count
    return Timed(samples, count, model.generator.evaluations(request), seconds)


def step_counts(model: Trained, request: Any) -> tuple[int | None, ...]:
    """Numbers of steps that show what fewer evaluations cost: an eighth of a window's (or block's) tokens, and the
    request's own, which comes last; only that where a family has no steps, or an eighth saves less than half."""
    generator = model.generator
    if not takes_steps(model):
        return (None,)
    own: int | None = request.steps
    if not isinstance(generator, TextGenerator):
        return (own,)
    length = generator.block if isinstance(generator, BlockGenerator) else request.tokens or generator.context
    few = max(1, length // _EIGHTH)
    saved, usual = (generator.evaluations(replace(request, steps=steps)) for steps in (few, own))
    return (few, own) if saved and usual and 2 * saved <= usual else (own,)


def takes_steps(model: Trained) -> bool:
    """Whether a request has a number of steps."""
    return "steps" in {f.name for f in fields(model.generator.Request)}


@dataclass(frozen=True)
class Speeds:
    """The rate of each decoding: its words, network evaluations of a sample, and tokens (or images) per second."""

    unit: str
    together: int
    rates: tuple[tuple[str, int | None, float], ...]

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        keys = ("decoding", "evaluations", f"{self.unit}_per_second")
        return {"together": self.together, "rates": [dict(zip(keys, each, strict=True)) for each in self.rates]}

    def table(self) -> list[str]:
        """As lines for a terminal."""
        return [line for each in self.record()["rates"] for line in rows(each)]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens (or images) per second of `seedfast sample`, in its default decoding and in one of fewer evaluations."""

    name: ClassVar[str] = "speed"

    def fits(self, model: Trained) -> str | None:
        """Models that generate from nothing: texts and images."""
        generator = model.family.generator
        is_free = generator is not None and issubclass(generator.Request, TextRequest | ImageRequest)
        return None if is_free else f"A model of {model.run.recipe} does not generate from nothing."

    def __call__(self, model: Trained) -> Speeds:
        """Generate some samples with each decoding; the first one of all only warms up."""
        if reason := self.fits(model):
            raise UserError(reason)
        request: Any = model.generator.Request(num=TEXTS)
        is_text = isinstance(request, TextRequest)
        with silenced():
            model.sample(replace(request, num=1, **({"tokens": 1} if is_text else {"steps": 1})), seed=1)
            found = []
            for steps in step_counts(model, request):
                asked = replace(request, steps=steps) if takes_steps(model) else request
                taken = timed(model, asked, 1)
                found.append((model.decoding(asked), taken.evaluations, taken.rate))
        return Speeds("tokens" if is_text else "images", TEXTS, tuple(found))
