"""What short runs leave behind: in the journal, the tensors, the files, on the screen and in the process."""

import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from tests.helpers.option_data import OptionData
from tests.helpers.options import Option
from tests.helpers.runs import small_run
from torch.nn.modules.module import register_module_forward_pre_hook

from seedfast.errors import TrainingStopped, UserError
from seedfast.families.text.proofreading.corruption import Corruption
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.request import TextSamples
from seedfast.files import sha256
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.plain_config import to_yaml
from seedfast.loop.progress import Line
from seedfast.loop.sample import generate
from seedfast.loop.session import Session
from seedfast.loop.train import run_training
from seedfast.optim.lr_schedule import Schedule
from seedfast.run_folder import journal
from seedfast.run_folder.checkpoints import Checkpoints

Values = dict[str, Any]


class Laboratory:
    """Trains short runs, each once, and returns what they left."""

    def __init__(self, story: Path, folder: Path) -> None:
        self._story, self._folder = story, folder
        self._own: dict[str, Run] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._data = OptionData(story, folder)

    def add(self, recipe: str, run: Run) -> None:
        """Make a run the base of a recipe that is not in the package."""
        self._own[recipe] = run

    def base(self, option: Option, *, recipe: str) -> Run:
        """The short run that an option is changed in, on data that the option is about."""
        run = self._own.get(recipe) or small_run(recipe, self._story)
        steps = 3 if _takes_three_steps(option) else 2
        run = replace(
            run, steps=steps, eval_every=2, eval_examples=4, micro_batch=None, schedule=Schedule(shape="cosine")
        )
        if recipe == "text-proofreading":  # words are replaced from the first step on
            run = replace(
                run, objective=replace(run.objective, corruption=Corruption(replaced=Ramp(start=0.5, end=1.0, steps=4)))
            )
        if option.name.startswith("sampling."):
            run = replace(run, sample_every=steps)
        return self._data.base(option, run)

    def value(self, option: Option, before: Run) -> Any:
        """The value that the option of this run is changed to."""
        value = self._data.value(option)
        return option.another_value(before) if value is None else value

    def outcome(self, run: Run, place: str, before: Run | None = None) -> Any:
        """What the run left in a place. before: the run that it is compared with."""
        if place == "identity" and before is not None:
            return _continued(self._trained(before).folder, run)
        if place == "sampling":
            return _sampled(self._trained(run).folder, run)
        return getattr(self._trained(run), place)

    def _trained(self, run: Run) -> "Outcome":
        key = to_yaml(run)
        if key not in self._outcomes:
            self._outcomes[key] = train(run, self._folder / f"run-{len(self._outcomes)}")
        return self._outcomes[key]


def _takes_three_steps(option: Option) -> bool:
    """Of the encoder of captions, gradients come two steps late: behind gates that start at zero. A thread that saves
    is seen in the step after."""
    fields = ("shape", "eval_every", "log_every", "skip_budget", "async_save")
    return option.field in fields or option.name.startswith("model.vit.")


@dataclass(frozen=True)
class Outcome:
    """What a run left, in the places of `options.Affects`. results: the journal without times, and the tensors."""

    folder: Path
    results: str
    checkpoints: Values
    computation: int
    costs: list[list[str]]
    device: str
    files: dict[str, str]
    progress: list[str]
    threads: frozenset[str]
    waiting: float
    background: list[tuple[str, ...]]
    identity: str = ""


def train(run: Run, folder: Path) -> Outcome:
    """Train a run to its end, or until it stops because of its losses."""
    screen = io.StringIO()
    line = Watching(Console(file=screen, force_terminal=True, width=200))
    error, device, waiting = "", "", 0.0
    with background_processes() as commands, forward_passes() as passes, line:
        try:
            with open_session(run, folder) as opened:
                device, waiting = str(opened.distributed.device), opened.distributed.timeout
                run_training(opened, line)
        except TrainingStopped as stopped:
            error = str(stopped)
        except UserError as refused:
            if not str(refused).startswith(("device is", "compile is", "placement is")):
                raise
            device = str(refused)
    entries = [{k: v for k, v in entry.items() if k != "time"} for entry in _entries(folder)]
    newest = Checkpoints(folder).newest()
    files = newest.manifest.files if newest else {}
    tensors = {name: file["sha256"] for name, file in files.items() if name.endswith(".safetensors")}
    checkpoints = {path.name: path.read_text() for path in folder.glob("best*.json")}
    return Outcome(
        folder=folder,
        results=json.dumps([entries, tensors, error]),
        checkpoints=checkpoints | {path.name: "" for path in folder.glob("checkpoints/*")},
        computation=len(passes),
        costs=[sorted(entry.get("time", {})) for entry in _entries(folder)],
        device=device,
        files={str(path.relative_to(folder)): sha256(path) for path in _other_files(folder)},
        progress=re.findall(r"step (\d+)/", screen.getvalue()),
        threads=frozenset(line.threads),
        waiting=waiting,
        background=commands,
    )


def _entries(folder: Path) -> list[journal.Entry]:
    return list(journal.read(folder)) if (folder / "journal.jsonl").exists() else []


def _other_files(folder: Path) -> Iterator[Path]:
    """The samples, and TensorBoard's files."""
    return (
        path for part in ("samples", "tensorboard") for path in sorted(folder.glob(f"{part}/**/*")) if path.is_file()
    )


def _continued(folder: Path, run: Run) -> str:
    """The reason why a run cannot continue the one in a folder."""
    try:
        with open_session(run, folder):
            return ""
    except UserError as error:
        return str(error)


def _sampled(folder: Path, run: Run) -> list[str]:
    """The texts of a request with fewer steps than tokens."""
    with open_session(run, folder) as opened:
        generator = opened.family.generator
        assert generator is not None
        request = replace(generator.demo(opened.corpus.validation), steps=3)
        sampled = generate(
            generator, opened.state.network, opened.state.family, request, seed=1, distributed=opened.distributed
        )
    assert isinstance(sampled, TextSamples)
    return list(sampled.texts)


class Watching(Line):
    """The progress line, which also collects the names of the threads at each step."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.threads = set[str]()

    def step(self, session: Session, entry: Any, seconds: float) -> None:
        """Show the step."""
        self.threads |= {thread.name.partition("_")[0] for thread in threading.enumerate()}
        super().step(session, entry, seconds)


@contextmanager
def background_processes() -> Iterator[list[tuple[str, ...]]]:
    """The commands of background processes, which are not started."""
    commands: list[tuple[str, ...]] = []

    def start(*arguments: str) -> Any:
        commands.append(arguments)
        return mock.Mock(is_running=True, end=lambda seconds: None)

    with mock.patch("seedfast.listeners.hub.BackgroundProcess", start):
        with mock.patch("seedfast.listeners.tracker.BackgroundProcess", start):
            yield commands


@contextmanager
def forward_passes() -> Iterator[list[None]]:
    """One element for each call of a module."""
    calls: list[None] = []
    hook = register_module_forward_pre_hook(lambda module, inputs: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()
