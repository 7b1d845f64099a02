"""Processes that work off tasks side by side: new interpreters, which import nothing of the program that starts them.

A worker is `python -m MODULE`, which calls `serve`. It reads lines of JSON: one with what all tasks share, then one for
each task, which it answers. At the end of its input, also where its parent has been killed, it ends as by Ctrl-C.
"""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self

from seedfast.errors import TrainingStopped, UserError

Tell = Callable[[Any], None]
_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false"}


class WorkerEnded(Exception):
    """A worker has ended by itself. task: the number of what it worked at. status: as that of `subprocess`."""

    def __init__(self, task: int, status: int) -> None:
        super().__init__(f"the worker of task {task} has ended with status {status}")
        self.task, self.status = task, status


class Workers:
    """Up to so many processes, each started when there is a task for it; all end with this context."""

    def __init__(self, module: str, processes: int, common: Any, environment: Mapping[str, str] | None = None) -> None:
        """module: calls `serve`. common: what all tasks share, as JSON values. environment: more of its variables."""
        self._module, self.processes, self._common = module, processes, common
        self._environment = {**_ENVIRONMENT, **(environment or {})}
        self._started = list["subprocess.Popen[str]"]()

    def results(
        self, tasks: Sequence[Any], *, told: Callable[[int, Any], None] = lambda _number, _value: None
    ) -> Iterator[tuple[int, Any]]:
        """The number of each task with its answer, in the order in which they are done.

        told: called with the number of a task and what its worker tells meanwhile, in this thread.
        Raises the UserError or TrainingStopped of the first task that fails, and WorkerEnded.
        """
        while len(self._started) < min(self.processes, len(tasks)):
            self._started.append(self._start())
        waiting = deque(enumerate(tasks))
        answers = SimpleQueue[tuple[int, dict[str, Any] | WorkerEnded]]()
        for worker in self._started:
            Thread(target=_feed, args=(worker, waiting, answers), daemon=True).start()
        missing = len(tasks)
        try:
            while missing:
                number, message = answers.get()
                if isinstance(message, WorkerEnded):
                    raise message
                for kind, value in message.items():
                    if kind == "told":
                        told(number, value)
                    elif kind == "answer":
                        missing -= 1
                        yield number, value
                    else:
                        raise {"refused": UserError, "stopped": TrainingStopped}[kind](value)
        finally:
            waiting.clear()

    def _start(self) -> "subprocess.Popen[str]":
        """A worker in its own session, so that Ctrl-C reaches only the parent, which ends it."""
        worker = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, **self._environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        _send(worker, self._common)
        return worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all of them as by Ctrl-C, and wait; if that is interrupted, they are killed."""
        try:
            for worker in self._started:
                assert worker.stdin is not None
                with suppress(OSError):
                    worker.stdin.close()
            for worker in self._started:
                worker.wait()
        finally:
            for worker in self._started:
                worker.kill()
                worker.wait()


def _feed(
    worker: "subprocess.Popen[str]",
    waiting: "deque[tuple[int, Any]]",
    answers: "SimpleQueue[tuple[int, dict[str, Any] | WorkerEnded]]",
) -> None:
    """Give a worker one task after the other, and pass its messages on."""
    while True:
        try:
            number, task = waiting.popleft()
        except IndexError:
            return
        _send(worker, task)
        if not _pass_on(worker, number, answers):
            worker.terminate()
            answers.put((number, WorkerEnded(number, worker.wait())))
            return


def _pass_on(
    worker: "subprocess.Popen[str]", number: int, answers: "SimpleQueue[tuple[int, dict[str, Any] | WorkerEnded]]"
) -> bool:
    """Pass the messages about a task on; whether the last one has come."""
    assert worker.stdout is not None
    with suppress(json.JSONDecodeError):  # half a line of a worker that was killed
        for line in worker.stdout:
            message = json.loads(line)
            answers.put((number, message))
            if "told" not in message:
                return True
    return False


def _send(worker: "subprocess.Popen[str]", value: Any) -> None:
    assert worker.stdin is not None
    with suppress(OSError, ValueError):  # it has ended, or is being ended: then no answer comes
        worker.stdin.write(json.dumps(value) + "\n")
        worker.stdin.flush()


def serve(prepare: Callable[[Any], Callable[[Any, Tell], Any]]) -> None:
    """Answer the tasks of the parent until it closes the input, or is gone.

    prepare: makes of what all tasks share the function that does one of them. That is called with the task and with a
    function that tells the parent a value meanwhile, and returns the answer.
    """
    answers = os.dup(1)
    os.dup2(2, 1)  # what somebody's code prints is no answer
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
    lines = SimpleQueue[str]()
    with suppress(KeyboardInterrupt):
        try:
            Thread(target=_read, args=(lines,), daemon=True).start()
            _answer(prepare, lines, answers)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the input is no more to be told of


def _answer(prepare: Callable[[Any], Callable[[Any, Tell], Any]], lines: "SimpleQueue[str]", answers: int) -> None:
    def send(**message: Any) -> None:
        rest = json.dumps(message).encode() + b"\n"
        with suppress(BrokenPipeError):  # the parent is gone: the end of the input says so
            while rest:
                rest = rest[os.write(answers, rest) :]

    try:
        work = prepare(json.loads(lines.get()))
        while True:
            send(answer=work(json.loads(lines.get()), lambda value: send(told=value)))
    except UserError as error:
        send(refused=str(error))
    except TrainingStopped as error:
        send(stopped=str(error))


def _read(lines: "SimpleQueue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os.kill(os.getpid(), signal.SIGINT)
