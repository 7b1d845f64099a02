"""A time budget as a number of steps: the speed is measured once, before the run begins, and stored beside it."""

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from seedfast.errors import UserError
from seedfast.files import commit, to_json
from seedfast.loop.sample import showcase
from seedfast.loop.session import Session
from seedfast.loop.step import launch
from seedfast.loop.tasks import prefetched_tasks
from seedfast.loop.train import agree
from seedfast.loop.validate import chosen_examples, validate_session
from seedfast.untrusted import read_json

_FILE = "budget.json"
_LEAST_STEPS = 4
_SHARE, _LONGEST = 0.02, 20.0  # of the budget, and seconds, in which steps are timed


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed of a run when it began: seconds of a step, of a validation, of samples, and of measuring all three.

    eval_every, sample_every: steps between validations, and between samples; 0 for one at the end only.
    """

    step_seconds: float
    validation_seconds: float
    measuring_seconds: float
    eval_every: int
    sampling_seconds: float = 0.0
    sample_every: int = 0

    def steps(self, minutes: float) -> int:
        """The steps that fit into so many minutes with their validations and samples, at least one."""
        seconds = 60 * minutes - self.measuring_seconds - self.validation_seconds - self.sampling_seconds
        each = self.step_seconds + (self.validation_seconds / self.eval_every if self.eval_every else 0.0)
        each += self.sampling_seconds / self.sample_every if self.sample_every else 0.0
        return max(1, int(seconds / each))

    def write(self, run_folder: Path) -> None:
        """Store it in the run folder."""
        commit(run_folder / _FILE, to_json(asdict(self)))

    @staticmethod
    def read(run_folder: Path) -> "Speed":
        """The speed with which a run began. Raises UserError if it began with another length."""
        path = run_folder / _FILE
        if not path.is_file():
            raise UserError(f"The run in {run_folder} began without --minutes, so its length is in --steps.")
        try:
            return Speed(**read_json(path))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}); give the length in --steps.") from error


def measure(session: Session, budget: float) -> Speed:
    """Time some steps and a validation of a session that is thrown away afterwards: its weights are trained.

    budget: seconds of the whole training, of which a small part is spent. All ranks measure together and return what
    rank 0 measured.
    """
    seconds = list[float]()
    began = last = time.perf_counter()
    limit = min(_LONGEST, _SHARE * budget)
    with closing(prefetched_tasks(session, 0, 1 << 62)) as prefetched:
        for step, prepared in prefetched:
            weight, _, _ = agree(session, prepared.weight, None, False)
            prepared.wait()
            launch(session, step, prepared.tasks, weight).entry(session)
            now = time.perf_counter()
            seconds, last = [*seconds, now - last], now
            if session.distributed.broadcast(len(seconds) >= _LEAST_STEPS and now - began > limit):
                break
    step_seconds = sum(seconds[1:]) / len(seconds[1:])  # the first one allocates memory
    validation_seconds = _validation_seconds(session)
    sampling_seconds = _sampling_seconds(session)
    measuring = time.perf_counter() - began
    found = Speed(
        step_seconds=step_seconds,
        validation_seconds=validation_seconds,
        measuring_seconds=measuring,
        eval_every=session.plan.eval_every,
        sampling_seconds=sampling_seconds,
        sample_every=session.plan.eval_every if session.plan.sample_every is None else session.plan.sample_every,
    )
    return session.distributed.broadcast(found)


def _sampling_seconds(session: Session) -> float:
    """The time of one set of samples, which rank 0 generates."""
    if session.family.generator is None or not session.placement.samples_here:
        return 0.0
    began = time.perf_counter()
    showcase(session)
    return time.perf_counter() - began


def _validation_seconds(session: Session) -> float:
    """The time of a validation of all kinds of weights, from that of one batch."""
    run = session.run
    chosen = chosen_examples(session.corpus, run.eval_examples, run.seed)
    if not chosen:
        return 0.0
    size = 4 * run.forward_examples
    draws = session.family.objective.measure.draws or 1
    timed = chosen[: max(1, size // draws) * session.distributed.world_size]
    began = time.perf_counter()
    validate_session(session, session.state.network, timed, batch_size=size)
    kinds = 2 if session.state.average else 1
    return (time.perf_counter() - began) * kinds * len(chosen) / len(timed)
