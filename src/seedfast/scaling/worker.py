"""A process of a study: it does one task after the other with one thread, so that its bits do not depend on the cores.

A task is one of {"time": family, "sizes": …, "validation": …, "is_timed": …}, {"run": name} and {"exact": name}.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from seedfast.console import Bar, say, silenced
from seedfast.errors import UserError
from seedfast.report.format import duration, measured
from seedfast.scaling.plan import FILE, Plan, read
from seedfast.scaling.request import Request
from seedfast.scaling.runs import Measured, exact, known, needs_exact, train_and_measure
from seedfast.scaling.timing import timed
from seedfast.user_code import named_by_user
from seedfast.workers import Tell, WorkerEnded, Workers, serve

_MOST = 8  # processes, unless more are asked for: each has a copy of PyTorch in memory


@contextmanager
def working(request: Request, folder: Path, jobs: int | None) -> Iterator[Workers]:
    """The processes of a study, as many as there are cores for; on a GPU it is one. jobs: another number.

    Raises UserError if one of them ends by itself.
    """
    usual = 1 if torch.cuda.is_available() else min(_MOST, torch.get_num_threads())
    common = {"request": vars(request), "folder": str(folder)}
    try:
        with Workers(__name__, jobs or usual, common, {"OMP_NUM_THREADS": "1"}) as workers:
            yield workers
    except WorkerEnded as ended:
        raise UserError(
            f"A process of the study has ended (status {ended.status}; -9 is a lack of memory, for which --jobs 1 may "
            "help): the same command continues."
        ) from None


def measured_runs(folder: Path, plan: Plan, workers: Workers) -> list[Measured]:
    """The results of all runs of the plan, in its order: those that are missing are trained, the longest first."""
    missing = [run for run in reversed(plan.runs) if known(folder, run) is None]
    left = [run.steps for run in missing]
    with Bar(f"{len(missing)} runs, {workers.processes} at a time", sum(int(run.flops) for run in missing)) as bar:

        def advance(number: int, steps: int) -> None:
            left[number] -= steps
            bar.advance(steps * int(missing[number].step_flops))

        results = workers.results([{"run": run.name} for run in missing], told=advance)
        for done, (number, _) in enumerate(results, len(plan.runs) - len(missing) + 1):
            advance(number, left[number])  # a run that continues has fewer steps to tell
            found = known(folder, missing[number])
            assert found is not None
            value = "≤ " * found.is_bound + measured(found.value, found.standard_error)
            say(f"{done}/{len(plan.runs)}  {found.name}  {value} bits per byte  {duration(found.seconds)}")
    bounds = {run.family: run for run in plan.runs if run.in_fit}  # the largest of each family
    for _ in workers.results([{"exact": run.name} for run in bounds.values() if needs_exact(folder, run)]):
        pass
    return [found for run in plan.runs if (found := known(folder, run)) is not None]


def _prepare(common: Any) -> Callable[[Any, Tell], Any]:
    """The function that does a task of the study in a folder."""
    torch.set_num_threads(1)
    request, folder = Request.of(common["request"]), Path(common["folder"])
    named_by_user(*request.data)

    def work(task: Any, tell: Tell) -> Any:
        if "time" in task:
            sizes = tuple(task["sizes"])
            return vars(timed(request, task["time"], task["validation"], sizes, is_timed=task["is_timed"]))
        plan = read(folder, request)
        if plan is None:
            raise UserError(f"{folder / FILE} is gone, so the study ends.")
        if "run" in task:
            train_and_measure(folder, plan, plan.named(task["run"]), tell)
        elif (found := known(folder, plan.named(task["exact"]))) is not None:
            exact(folder, found)
        return None

    return work


if __name__ == "__main__":
    with silenced():
        serve(_prepare)
