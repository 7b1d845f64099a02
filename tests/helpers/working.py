"""A worker of the tests (see `seedfast.workers`), which does what a task says."""

import atexit
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seedfast.errors import TrainingStopped, UserError
from seedfast.workers import Tell, serve


def prepare(common: Any) -> Callable[[Any, Tell], Any]:
    """The function that does a task. common: what each answer begins with, or "refuse"."""
    if common == "refuse":
        raise UserError("these tasks are refused")

    def work(task: Any, tell: Tell) -> Any:
        match task:
            case ["tell", *values]:
                for value in values:
                    tell(value)
            case ["refuse", sentence]:
                raise UserError(sentence)
            case ["stop", sentence]:
                raise TrainingStopped(sentence)
            case ["die"]:
                os.kill(os.getpid(), signal.SIGKILL)
            case ["wait", folder]:
                _wait(Path(folder))
            case ["environment", name]:
                return os.environ.get(name)
        print("what somebody's code prints")
        return [common, task]

    return work


def _wait(folder: Path) -> None:
    """Until it is interrupted, which it notes."""
    try:
        (folder / f"begun-{os.getpid()}").touch()
        time.sleep(600)
    except KeyboardInterrupt:
        (folder / f"saved-{os.getpid()}").touch()
        raise


if __name__ == "__main__":
    atexit.register(time.sleep, 0.1)  # as modules do that have much to end
    serve(prepare)
