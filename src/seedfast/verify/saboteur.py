"""Run seedfast and kill it with SIGKILL at a chosen instant: `python -m seedfast.verify.saboteur PLAN train …`.

The instants are events that Python's own audit mechanism (`sys.audit`, PEP 578) reports, so the product contains no
switch for being killed: the loop announces its phases, and the interpreter announces every open and rename.
"""

import json
import os
import re
import runpy
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any, Literal

from seedfast import phases
from seedfast.files import UNFINISHED

Moment = Literal["step", "validate", "save", "write", "rename", "pointer", "retire"]


_ATTEMPT = re.compile(rf"/checkpoints/{re.escape(UNFINISHED)}/[^/]+/step-\d+")
_PHASES = {"step": phases.STEP, "validate": phases.VALIDATE, "save": phases.SAVE}


@dataclass(frozen=True)
class Plan:
    """When to die: at the first `moment` once step `after` has begun, `delay` seconds later.

    step: anywhere in an optimizer step. validate: in an evaluation. save: before the first byte of a checkpoint.
    write: while its files are written. rename: before the rename that commits it. pointer: between that and the
    pointers. retire: while an old checkpoint is removed. rank: the process of a group that dies.
    """

    moment: Moment
    after: int
    delay: float = 0.0
    rank: int = 0

    def encode(self) -> str:
        """As a word of a command line."""
        return json.dumps(asdict(self))


class Saboteur:
    """The audit hook that carries out a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._begun = False
        self._armed = True
        self._writes = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == phases.STEP and arguments[0] >= self.plan.after:
            self._begun = True
        # A plan for step 0 includes the rehearsal of the commit, which comes before any step.
        if (self._begun or self.plan.after == 0) and self._armed and self._is_moment(event, arguments):
            self._armed = False
            if self.plan.delay:
                threading.Timer(self.plan.delay, _die).start()
            else:
                _die()

    def _is_moment(self, event: str, arguments: tuple[Any, ...]) -> bool:
        first = str(arguments[0]) if arguments else ""
        match self.plan.moment:
            case "step" | "validate" | "save":
                return event == _PHASES[self.plan.moment]
            case "write":
                return event == "open" and _ATTEMPT.search(first) is not None and self._third_write()
            case "rename":
                return event == "os.rename" and _ATTEMPT.search(first) is not None
            case "pointer":
                return event == "os.rename" and first.endswith(f"latest.json{UNFINISHED}")
            case "retire":
                return event == "shutil.rmtree" and _ATTEMPT.search(first) is not None

    def _third_write(self) -> bool:
        """In the middle of a checkpoint: some files are there, some are not."""
        self._writes += 1
        return self._writes >= 3


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    plan = Plan(**json.loads(sys.argv.pop(1)))
    if plan.rank == int(os.environ.get("RANK", 0)):
        sys.addaudithook(Saboteur(plan))
    runpy.run_module("seedfast", run_name="__main__", alter_sys=True)
