"""A checkpoint that cannot be saved while several processes train: all go on, try again, and end with the same bits."""

from pathlib import Path

import pytest
from tests.helpers.processes import ranks, start_ranks
from tests.helpers.quick import slow_but
from tests.helpers.runs import flags, small_run

from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.verify.resume import compare

FULL = """
import errno, math, os, runpy, sys
from seedfast.files import UNFINISHED
from seedfast.loop.save import Retry

steps, rank = sys.argv.pop(1).split(","), sys.argv.pop(1)


def full(event, arguments):
    path = str(arguments[0]) if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) else ""
    if UNFINISHED in path and any(f"step-{int(step):08}" in path for step in steps):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


if os.environ["RANK"] == rank:
    sys.addaudithook(full)
Retry.due = lambda self: self._at < math.inf  # without waiting
sys.argv[0] = "seedfast"
runpy.run_module("seedfast", run_name="__main__", alter_sys=True)
"""
"""Trains with a disk that is full for the checkpoints of some steps, in one process."""


@pytest.mark.parametrize(
    ("own", "rank"),
    slow_but(
        [((), 0)], [((), 0), (("--async-save", "True"), 0), (("--placement", "fsdp"), 0), (("--placement", "fsdp"), 1)]
    ),
)
def test_processes_train_on_after_a_failed_save(own: tuple[str, ...], rank: int, story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=12, eval_every=4, save_every=30)
    words = ["train", "text-masked", *flags(run), "--keep", "30", *own, "--out"]
    assert [done.returncode for done in ranks(2, *words, tmp_path / "whole")] == [0, 0]
    group = start_ranks(2, "-c", [FULL, "4,5,6", str(rank), *words, tmp_path / "run"])
    first, second = (command.finish() for command in group)
    assert [first.returncode, second.returncode] == [0, 0], first.stderr
    assert "could not save a checkpoint" in first.stderr
    assert "No space left" in first.stderr
    assert not second.stderr
    assert not list((tmp_path / "run").rglob(".seedfast-unfinished"))
    saved, whole = ([each.step for each in Checkpoints(tmp_path / name).committed()] for name in ("run", "whole"))
    assert 4 in whole
    assert not {4, 5, 6} & set(saved)
    assert 7 in saved, "tried again as soon as there is room"
    assert compare(tmp_path / "whole", tmp_path / "run")[0] is None


@pytest.mark.parametrize("placement", slow_but(["fsdp"], ["ddp", "fsdp"]))
def test_every_process_ends_if_the_last_checkpoint_cannot_be_saved(placement: str, story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, steps=4, eval_every=0, save_every=2)
    words = ["train", "text-masked", *flags(run), "--placement", placement, "--out", tmp_path / "run"]
    group = start_ranks(2, "-c", [FULL, "4", "1" if placement == "fsdp" else "0", *words])
    first, second = (command.finish() for command in group)
    assert [first.returncode, second.returncode] == [3, 3]
    assert "its last checkpoint could not be saved" in first.stderr
    assert not second.stderr
    newest = Checkpoints(tmp_path / "run").newest()
    assert newest is not None
    assert newest.step == 2
