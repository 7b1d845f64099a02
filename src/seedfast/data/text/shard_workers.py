"""Tokenising shards in several processes (see `seedfast.workers`)."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seedfast.console import silenced
from seedfast.data.text import tokenizers
from seedfast.data.text.shard import Jobs, Shard, ShardOptions, prepare_shard
from seedfast.errors import UserError
from seedfast.workers import Tell, WorkerEnded, Workers, serve


def prepare_in_parallel(jobs: Jobs, processes: int, *, finished: Callable[[str], None]) -> None:
    """Prepare all shards. finished: called with the key of each when it is done.

    Raises UserError for a shard that cannot be used, or if a process ends. Shards that are done stay.
    """
    keys = list(jobs.shards)
    with tempfile.TemporaryDirectory() as folder:
        tokenizers.save(jobs.tokenizer, Path(folder))
        common = {"tokenizer": folder, "options": vars(jobs.options), "kind": jobs.kind}
        with Workers(__name__, processes, common) as workers:
            try:
                tasks = [[key, str(root), *rest] for key, (root, *rest) in jobs.shards.items()]
                for number, _ in workers.results(tasks):
                    finished(keys[number])
            except WorkerEnded as ended:
                raise UserError(
                    f"The process that tokenised {jobs.shards[keys[ended.task]].name} has ended (status "
                    f"{ended.status}; -9 is a lack of memory): start again, and the shards that are done are kept."
                ) from None


def _prepare(common: Any) -> Callable[[Any, Tell], None]:
    """The function that prepares a shard, with the options and the tokenizer of all."""
    options, tokenizer = ShardOptions(**common["options"]), tokenizers.load(Path(common["tokenizer"]))

    def prepare(task: Any, _tell: Tell) -> None:
        key, root, name, is_rows, contents, signature, split = task
        shard = Shard(Path(root), name, is_rows, contents, tuple(signature), split)
        prepare_shard(shard, key, options, tokenizer, kind=common["kind"])

    return prepare


if __name__ == "__main__":
    with silenced():
        serve(_prepare)
