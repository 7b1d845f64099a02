"""What a family costs: the FLOPs of a step in each size, and the seconds of a step and of the end of a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from seedfast.errors import UserError
from seedfast.evaluate.effort import step_flops
from seedfast.loop.budget import Speed, measure
from seedfast.loop.distributed import DistributedContext
from seedfast.loop.placement.placement import Placement
from seedfast.loop.session import Session
from seedfast.loop.trial import trial
from seedfast.models.transformer import Transformer
from seedfast.scaling.request import DRAWS, EXAMPLES, Request

_SIZE = 3  # of the run that is timed
_BUDGET = 60.0  # seconds of a budget by which the speed is measured


@dataclass(frozen=True, kw_only=True)
class Timing:
    """flops: of a step, by size. seconds_per_flop: of its steps. ending: seconds from the last step to the result."""

    flops: Mapping[int, float]
    seconds_per_flop: float = 0.0
    ending: float = 0.0


def timed(request: Request, family: str, validation: float, sizes: Sequence[int], *, is_timed: bool) -> Timing:
    """Count the FLOPs of a family, and time a few of its steps if asked for. Nothing is kept of them.

    validation: the part of the text that is held out. Raises UserError for a family whose FLOPs cannot be counted.
    """
    run = request.run(family, _SIZE, 1000, validation)
    with trial(run, None, Placement(DistributedContext.single(run.device, run.precision))) as session:
        flops = dict(_counted(request, session, family, validation, sorted({*sizes, _SIZE})))
        if not is_timed:
            return Timing(flops=flops)
        speed = measure(session, _BUDGET)
        return Timing(flops=flops, seconds_per_flop=speed.step_seconds / flops[_SIZE], ending=_ending(session, speed))


def _ending(session: Session, speed: Speed) -> float:
    """Seconds from the last step of a run to its result: a validation of two kinds of weights, samples, the result."""
    windows, draws = len(session.corpus.validation), session.family.evaluated.measure.draws or 1
    passes = windows * min(DRAWS, draws) / (2 * min(windows, EXAMPLES) * draws)  # over those of the validation
    return speed.sampling_seconds + speed.validation_seconds * (1 + passes)


def _counted(
    request: Request, session: Session, family: str, validation: float, sizes: Sequence[int]
) -> Iterator[tuple[int, float]]:
    """Each size with the FLOPs of a step. Raises UserError for a family whose FLOPs cannot be counted."""

    def count(size: int, layers: int) -> float:
        run = request.run(family, size, 1000, validation)
        assert isinstance(run.model, Transformer)
        with torch.device("meta"):
            network = session.family.objective.network(replace(run.model, layers=layers))
        found = step_flops(run, session.family.objective, session.corpus, network, session.state.family)
        if not found:
            raise UserError(f"FLOPs of {family} cannot be counted: leave it out of --families.")
        return found

    for size in sizes:
        one, two = count(size, 1), count(size, 2)
        yield size, one + (size - 1) * (two - one)  # all layers take the same
