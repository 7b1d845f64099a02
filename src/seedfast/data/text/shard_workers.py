"""Tokenising shards in several processes.

A worker is `python -m seedfast.data.text.shard_workers`: a new interpreter, which imports nothing of the program that
started it. It reads one line of JSON with what all shards share, then a line for each shard, and answers each with a
line. At the end of its input, also where its parent has been killed, it ends.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import IO, Any

from seedfast.console import silenced
from seedfast.data.text import tokenizers
from seedfast.data.text.shard import Jobs, Shard, ShardOptions, prepare_shard
from seedfast.errors import UserError

_TURN = Lock()


def prepare_in_parallel(jobs: Jobs, processes: int, *, finished: Callable[[str], None]) -> None:
    """Prepare all shards. finished: called with the key of each when it is done, one call at a time.

    Raises UserError for the first shard that cannot be used, or if a process ends. Shards that are done stay.
    """
    waiting = deque(jobs.shards)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(processes) as pool:
        tokenizers.save(jobs.tokenizer, Path(folder))
        common = {"tokenizer": folder, "options": vars(jobs.options), "kind": jobs.kind}
        workers = [_start() for _ in range(processes)]
        try:
            for each in [pool.submit(_serve, worker, waiting, jobs, common, finished) for worker in workers]:
                each.result()
        finally:
            waiting.clear()
            for worker in workers:
                worker.terminate()
                worker.wait()


def _start() -> "subprocess.Popen[str]":
    """A worker in its own session, so that Ctrl-C reaches only the parent, which ends it."""
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )


def _serve(
    worker: "subprocess.Popen[str]",
    waiting: "deque[str]",
    jobs: Jobs,
    common: dict[str, Any],
    finished: Callable[[str], None],
) -> None:
    """Give a worker one shard after the other, until there are none, or one cannot be used."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    key = ""
    try:
        _send(worker.stdin, common)
        while key := _next(waiting):
            root, name, *rest = jobs.shards[key]
            _send(worker.stdin, [key, str(root), name, *rest])
            answer = json.loads(worker.stdout.readline())
            if answer:
                raise UserError(answer)
            with _TURN:
                finished(key)
    except (BrokenPipeError, json.JSONDecodeError):
        status = worker.wait()
        raise UserError(
            f"The process that tokenised {jobs.shards[key].name if key else 'shards'} has ended (status {status}; -9 "
            "is a lack of memory): start again, and the shards that are done are kept."
        ) from None
    finally:
        waiting.clear()


def _next(waiting: "deque[str]") -> str:
    """The key of the next shard; empty if there is none."""
    try:
        return waiting.popleft()
    except IndexError:
        return ""


def _send(pipe: IO[str], value: Any) -> None:
    pipe.write(json.dumps(value) + "\n")
    pipe.flush()


def work() -> None:
    """Prepare the shards that the lines of stdin name; answers with an empty text or the sentence of a UserError."""
    common = json.loads(sys.stdin.readline())
    options, tokenizer = ShardOptions(**common["options"]), tokenizers.load(Path(common["tokenizer"]))
    with silenced():
        for line in sys.stdin:
            key, root, name, is_rows, contents, signature, split = json.loads(line)
            error = ""
            try:
                shard = Shard(Path(root), name, is_rows, contents, tuple(signature), split)
                prepare_shard(shard, key, options, tokenizer, kind=common["kind"])
            except UserError as refused:
                error = str(refused)
            try:
                _send(sys.stdout, error)
            except BrokenPipeError:  # the parent has been killed, and what is not written cannot be
                os._exit(1)


if __name__ == "__main__":
    work()
