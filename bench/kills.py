"""Kills of trainings by family × placement × saving × phase: a run is killed and compared with a whole one."""

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from tests.helpers.processes import Command, start_ranks
from tests.helpers.runs import FAMILIES, flags, small_run

from seedfast.errors import UserError
from seedfast.verify.resume import compare
from seedfast.verify.saboteur import Moment, Plan


@dataclass(frozen=True)
class Placement:
    """How a training is started. families: those that are trained in this way. beside: whether it saves beside the
    training (`async_save`), for each run."""

    processes: int = 1
    torchrun: bool = False
    flags: tuple[str, ...] = ()
    families: tuple[str, ...] = FAMILIES
    beside: tuple[bool, ...] = (False, True)

    @property
    def is_sharded(self) -> bool:
        """Whether every process writes a part of each checkpoint."""
        return "fsdp" in self.flags


_FSDP: Any = {"processes": 2, "flags": ("--placement", "fsdp"), "beside": (False,)}


PLACEMENTS = {
    "one process": Placement(),
    "DDP": Placement(2),
    "DDP, torchrun": Placement(2, torchrun=True, families=("text-masked",)),
    "FSDP": Placement(**_FSDP),
    "FSDP, torchrun": Placement(**_FSDP, torchrun=True, families=("text-masked",)),
}
"""A placement is one line. "DDP" has the environment that torchrun gives, "torchrun" its agent too."""


@dataclass(frozen=True)
class Cell:
    """One run that is killed several times."""

    family: str
    placement: str
    async_save: bool
    kills: int
    steps: int = 30

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.family}-{self.placement}-{'async' if self.async_save else 'sync'}".replace(", ", "-")

    def words(self, story: Path) -> list[str]:
        """The command line of its training, without the folder."""
        run = small_run(self.family, story, steps=self.steps, save_every=3, eval_every=5)
        own = ["--keep", "1", "--async-save", str(self.async_save), *PLACEMENTS[self.placement].flags]
        return ["train", self.family, *flags(run), *own]


@dataclass
class Result:
    """What came of a cell. kills: phase, and who died; difference: None if the runs ended with the same bits."""

    cell: dict[str, Any]
    kills: list[dict[str, str]] = field(default_factory=list)
    difference: str | None = None
    lost: str | None = None


def cells(kills: int, steps: int, families: tuple[str, ...], placements: tuple[str, ...]) -> list[Cell]:
    """All cells, with the kills spread evenly."""
    chosen = [
        Cell(family, name, beside, 0, steps)
        for name in placements
        for family in PLACEMENTS[name].families
        for beside in PLACEMENTS[name].beside
        if family in families
    ]
    each, more = divmod(kills, len(chosen))
    counted = (replace(cell, kills=each + (number < more)) for number, cell in enumerate(chosen))
    return [cell for cell in counted if cell.kills]


def plans(cell: Cell, seed: int) -> Iterator[tuple[Plan, bool]]:
    """When to kill, ever later, every phase in turn; and whether all ranks die (always, where there is one)."""
    chooser = random.Random(f"{cell.name} {seed}")
    phases = list[Moment](get_args(Moment))
    chooser.shuffle(phases)
    placement = PLACEMENTS[cell.placement]
    for number, after in enumerate(sorted(chooser.randrange(cell.steps * 2 // 3) for _ in range(cell.kills))):
        moment = phases[number % len(phases)]
        # What every rank does; the other phases are those of rank 0.
        own = moment in ("step", "validate") or (moment == "write" and placement.is_sharded)
        delay = chooser.uniform(0, 0.02) if own or moment == "save" else 0.0
        rank = chooser.randrange(placement.processes) if own else 0
        yield Plan(moment, after, delay, rank), placement.processes == 1 or chooser.random() < 0.5


def run_cell(cell: Cell, story: Path, folder: Path, seed: int) -> Result:
    """Train without kills and with them, and compare every bit."""
    placement, words = PLACEMENTS[cell.placement], cell.words(story)
    result = Result(asdict(cell))
    whole, killed = folder / "whole", folder / "killed"
    try:
        train(placement, "seedfast", [*words, "--out", str(whole)])
        for plan, everyone in plans(cell, seed):
            sabotaged = [plan.encode(), *words, "--out", str(killed)]
            if train(placement, "seedfast.verify.saboteur", sabotaged, everyone=everyone):
                result.kills.append({"phase": plan.moment, "who": "all" if everyone else "one"})
        train(placement, "seedfast", [*words, "--out", str(killed)])
        result.difference, _ = compare(whole, killed)
    except (UserError, AssertionError) as error:
        result.lost = str(error)
    return result


def train(placement: Placement, module: str, words: list[str], *, everyone: bool = False) -> bool:
    """Train; True if a process was killed. everyone: kill the others as soon as one is.

    Raises AssertionError if the training ends by itself in any other way than well.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if placement.torchrun:
        agent = ["--standalone", "--nproc-per-node", str(placement.processes), "-m", module, *words]
        group = [Command("torch.distributed.run", agent, env=env)]
    elif placement.processes > 1:
        group = start_ranks(placement.processes, module, words, env)
    else:
        group = [Command(module, words, env=env)]
    while everyone and all(command.process.is_alive() for command in group):
        time.sleep(0.002)
    if everyone and any(command.process.exitcode != 0 for command in group):
        for command in group:
            command.process.kill()
    done = [command.finish() for command in group]
    if all(each.returncode == 0 for each in done):
        return False
    killed = any(each.returncode == -signal.SIGKILL or "Signal 9 (SIGKILL)" in each.stderr for each in done)
    assert killed, "; ".join(each.stderr.strip()[-300:] for each in done if each.stderr.strip())
    return True
