"""Damage to run folders (flipped bytes, lost and cut files, disks, locks, clocks, numbers, ranks) and its outcomes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.helpers.processes import Command, start_ranks
from tests.helpers.runs import FINETUNE, small_run, train_in, train_until

from seedfast.errors import UserError
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.plain_config import to_yaml
from seedfast.optim.ema import EMA
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.choice import find
from seedfast.run_folder.train_state import digest, read_tensors
from seedfast.verify.resume import compare
from seedfast.verify.saboteur import Plan

REFUSED, STOPPED = 2, 3  # exit statuses


@dataclass(frozen=True)
class Case:
    """A fault of one run folder, and what came of it. fine: neither a lost run nor a silent wrong load."""

    fault: str
    outcome: str
    fine: bool


class Patient:
    """A run that was stopped half-way, and the same run as it ends. Each fault is done to a copy of it."""

    def __init__(self, story: Path, folder: Path, family: str = FINETUNE) -> None:
        self.story, self.family, self.folder = story, family, folder
        self.whole, self.half = folder / "whole", folder / "half"
        self.prepare(small_run(family, story, steps=16, save_every=3, eval_every=5, keep=2, ema=EMA(half_life=5.0)))
        self.known = {digest(read_tensors(each.folder)) for each in Checkpoints(self.half).committed()}

    def prepare(self, run: Run) -> None:
        """Train the run to its end, and half-way."""
        train_in(self.whole, run)
        with open_session(run, self.half) as opened:
            train_until(opened, 10)  # not saved again before a step that is not finite ends the training

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """A copy of the run."""
        place = self.folder / "copy"
        shutil.copytree(self.half, place)
        yield place
        shutil.rmtree(place)

    def train(self, place: Path, *more: str, program: str = "seedfast") -> "subprocess.CompletedProcess[str]":
        """Continue the run in a folder."""
        return Command(program, ["train", self.family, "--out", place, *more], env=environment()).finish()

    def outcome(self, place: Path, fault: str, *more: str, program: str = "seedfast") -> Case:
        """Load the folder as it is, continue it, and say what happened."""
        try:
            wrong = any(digest(read_tensors(find(place, at=at).folder)) not in self.known for at in ("best", "newest"))
        except UserError:
            wrong = False  # refused aloud
        done = self.train(place, *more, program=program)
        if wrong or "Traceback" in done.stderr or done.returncode not in (0, REFUSED, STOPPED):
            return Case(fault, f"WRONG: {done.returncode} {done.stderr[-300:]}", False)
        if done.returncode:
            return Case(fault, "refused, in a sentence", bool(done.stderr.strip()))
        if difference := compare(self.whole, place)[0]:
            return Case(fault, f"WRONG: {difference}", False)
        older = " after an older checkpoint was taken, aloud" if "is damaged" in done.stderr else ""
        return Case(fault, f"continued to the same bits{older}", True)


class ShardedPatient(Patient):
    """A run of two processes, each of which has half of every tensor and writes its own files (FSDP)."""

    def __init__(self, story: Path, folder: Path) -> None:
        super().__init__(story, folder, "text-masked")

    def prepare(self, run: Run) -> None:
        self.folder.mkdir()
        (config := self.folder / "run.yaml").write_text(to_yaml(replace(run, placement="fsdp")))
        words = ["train", self.family, "--config", config, "--no-report", "--out"]
        assert all(
            not rank.finish().returncode for rank in start_ranks(2, "seedfast", [*words, self.whole], environment())
        )
        killed = [Plan("step", after=10).encode(), *words, self.half]
        assert all(
            rank.finish().returncode for rank in start_ranks(2, "seedfast.verify.saboteur", killed, environment())
        )

    def train(self, place: Path, *more: str, program: str = "seedfast") -> "subprocess.CompletedProcess[str]":
        """The end of rank 0; every rank has to end as it does."""
        words = ["train", self.family, "--out", place, *more]
        first, *others = [rank.finish() for rank in start_ranks(2, program, words, environment())]
        assert all(rank.returncode == first.returncode for rank in others), others[0].stderr
        return first


def environment() -> dict[str, str]:
    """One thread, so that sums keep their order."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def files(folder: Path) -> list[Path]:
    """Every file of a run folder, relative to it."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def flip(path: Path, place: int) -> None:
    """Change one bit of the byte at a place."""
    content = bytearray(path.read_bytes())
    if content:
        content[place % len(content)] ^= 1
        path.write_bytes(content)


def flip_middle(path: Path) -> None:
    """Change one bit of the byte in the middle."""
    flip(path, path.stat().st_size // 2)


def cut(path: Path) -> None:
    """Leave the first half."""
    os.truncate(path, path.stat().st_size // 2)


def flipped_bytes(patient: Patient) -> Iterator[Case]:
    """A byte in the middle of each file."""
    for name in files(patient.half):
        with patient.copy() as place:
            flip_middle(place / name)
            yield patient.outcome(place, "a flipped byte in each file")


def damaged_shards(patient: Patient) -> Iterator[Case]:
    """The file of each process in each checkpoint of a run whose processes share the weights."""
    sharded = ShardedPatient(patient.story, patient.folder / "sharded")
    for name in files(sharded.half):
        if name.name.startswith("shard-"):
            for kind, damage in (("flipped byte in a", flip_middle), ("truncated", cut), ("missing", Path.unlink)):
                with sharded.copy() as place:
                    damage(place / name)
                    yield sharded.outcome(place, f"a {kind} shard, each in turn (FSDP)")


def missing_files(patient: Patient) -> Iterator[Case]:
    """Each file of the newest checkpoint removed; and each of the run folder."""
    for name in files(patient.half):
        with patient.copy() as place:
            (place / name).unlink()
            yield patient.outcome(place, "a missing file, each in turn")


def truncated_files(patient: Patient) -> Iterator[Case]:
    """The tensors of each checkpoint cut to half."""
    for name in files(patient.half):
        if name.suffix == ".safetensors":
            with patient.copy() as place:
                cut(place / name)
                yield patient.outcome(place, "truncated tensors, each file in turn")


def every_checkpoint_damaged(patient: Patient) -> Iterator[Case]:
    """No checkpoint is intact: refused, and nothing is changed."""
    with patient.copy() as place:
        for path in place.glob("checkpoints/step-*/model.safetensors"):
            flip(path, 1000)
        before = {name: (place / name).read_bytes() for name in files(place) if name.name != "lock"}
        case = patient.outcome(place, "every checkpoint damaged")
        same = before == {name: (place / name).read_bytes() for name in files(place) if name.name != "lock"}
        refused = case.outcome.startswith("refused")
        yield replace(case, fine=refused and same, outcome=f"{case.outcome}; nothing is changed" if same else "CHANGED")


def lock_of_a_dead_owner(patient: Patient) -> Iterator[Case]:
    """The file is there, and no process holds it."""
    with patient.copy() as place:
        (place / "lock").write_text("process 999999 on elsewhere")
        yield patient.outcome(place, "the lock of a dead owner")


def clock_backwards(patient: Patient) -> Iterator[Case]:
    """Files of the future, and a clock that is a year behind."""
    script = patient.folder / "behind.py"
    script.write_text(
        "import runpy, time\nreal = time.time\ntime.time = lambda: real() - 3.15e7\n"
        'runpy.run_module("seedfast", run_name="__main__", alter_sys=True)\n'
    )
    with patient.copy() as place:
        for name in files(place):
            os.utime(place / name, (4e9, 4e9))
        yield patient.outcome(place, "a clock that went back, files of the future", program=str(script))


def not_a_number(patient: Patient) -> Iterator[Case]:
    """A learning rate with which the loss is not finite; then the old one again."""
    with patient.copy() as place:
        changed = ("--allow-change", "optimizer.lr")
        done = patient.train(place, "--optimizer.lr", "1e30", *changed)
        case = patient.outcome(place, "a loss that is not finite", "--optimizer.lr", "0.01")
        stopped = done.returncode == STOPPED and "not finite" in done.stderr
        yield replace(
            case, outcome=f"stopped with the step and the examples; then {case.outcome}", fine=case.fine and stopped
        )


def hung_rank(patient: Patient) -> Iterator[Case]:
    """One of two processes stops in the middle of a training; the others name it."""
    whole, place = patient.folder / "ranks", patient.folder / "hung"
    run = [*("train", patient.family, "--steps", "600"), "--out"]
    for folder in (whole, place):
        shutil.copytree(patient.half, folder)
    assert all(done.finish().returncode == 0 for done in start_ranks(2, "seedfast", [*run, whole], environment()))
    group = start_ranks(2, "seedfast", [*run, place, "--rank-timeout", "0.1"], environment())
    journal, size = place / "journal.jsonl", (place / "journal.jsonl").stat().st_size
    group[0].wait_for(lambda: journal.stat().st_size > size + 2000)
    os.kill(group[1].pid, signal.SIGSTOP)
    first = group[0].finish()
    os.kill(group[1].pid, signal.SIGCONT)
    second = group[1].finish()
    named = "Process 1 of 2 did not arrive" in first.stderr and STOPPED == first.returncode == second.returncode
    again = start_ranks(2, "seedfast", [*run, place, "--rank-timeout", "30"], environment())
    same = all(done.finish().returncode == 0 for done in again) and compare(whole, place)[0] is None
    outcome = "named after the time limit; every rank ends; continued to the same bits"
    yield Case("a hung rank", outcome if named and same else f"WRONG: {first.stderr[-300:]}", named and same)


def disks(patient: Patient) -> Iterator[Case]:
    """A real file system that is full, and one that is read-only; only root can mount one."""
    place = patient.folder / "disk"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", place]).returncode:
        yield Case("a full disk, a read-only folder", "not run: needs root, to mount a file system", True)
        return
    try:
        run = place / "run"
        shutil.copytree(patient.half, run)
        checkpoint = sum(path.stat().st_size for path in Checkpoints(run).committed()[-1].folder.rglob("*"))
        filler = place / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(place).free - checkpoint // 2))
        full = patient.train(run)
        filler.unlink()
        aloud = full.returncode == STOPPED and "could not be saved" in full.stderr
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        fixed = patient.train(run)
        subprocess.run(["mount", "-o", "remount,rw", place], check=True)
        refused = fixed.returncode == REFUSED and "Traceback" not in fixed.stderr
        case = patient.outcome(run, "a full disk")
        yield replace(
            case, outcome=f"trained on, last save refused aloud; then {case.outcome}", fine=case.fine and aloud
        )
        yield Case(
            "a read-only folder", "refused, in a sentence" if refused else f"WRONG: {fixed.stderr[-300:]}", refused
        )
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)  # this process has read checkpoints there


FAULTS: dict[str, Callable[[Patient], Iterator[Case]]] = {
    "flipped": flipped_bytes,
    "missing": missing_files,
    "truncated": truncated_files,
    "shards": damaged_shards,
    "all-damaged": every_checkpoint_damaged,
    "lock": lock_of_a_dead_owner,
    "clock": clock_backwards,
    "nan": not_a_number,
    "hung": hung_rank,
    "disk": disks,
}


if __name__ == "__main__":
    sys.exit("run bench/faults.py")
