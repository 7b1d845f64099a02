"""Trainings under every placement, to compare: `train(recipe, "fsdp", 2)`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.processes import LIMIT, start_ranks
from tests.helpers.runs import FINETUNE, small_run

from seedfast.loop.plain_config import to_yaml
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal

TUNED = (FINETUNE, "dpo")
"""Recipes that train an adapter."""


@dataclass(frozen=True)
class Trainer:
    """Trains small runs in folders of its own, from a text."""

    story: Path
    folder: Path
    module: str = "seedfast"
    """The program, or `tests.helpers.double_precision`, which is the same in float64."""

    def train(self, recipe: str, placement: str, processes: int, *words: str, out: str = "", **changes: Any) -> Path:
        """Train a run, or continue the one in `out`; returns its folder. words: further flags."""
        run = small_run(recipe, self.story, **{"batch_size": 8, "micro_batch": 1, "steps": 3, **changes})
        schedule = Schedule(shape="constant", warmup=2)  # a part of a run has the rates of the whole
        muon, adamw = OptimizerConfig(kind="muon", lr=1e-2), OptimizerConfig(kind="adamw", lr=1e-3)
        # Muon makes whole steps of the small gradients of an adapter: after 100 steps rounding decides where they lead.
        run = replace(run, optimizer=adamw if recipe in TUNED else muon, schedule=schedule)
        place = self.folder / (out or f"{recipe}-{placement}-{processes}")
        config = self.folder / f"{place.name}.yaml"
        config.write_text(to_yaml(run))
        own = ["--no-report", "--placement", placement, *words]
        group = start_ranks(processes, self.module, ["train", recipe, "--config", config, *own, "--out", place])
        done = [command.finish(LIMIT + 5 * run.steps) for command in group]
        assert [each.returncode for each in done] == [0] * processes, done[0].stderr
        return place


def same_training(one: Path, other: Path, *, loss: float = 1e-6, norm: float = 1e-4) -> None:
    """Assert that two trainings have the same samples, and losses up to rounding, also if one was continued."""
    steps, others = (
        {entry["step"]: entry for entry in journal.read(place) if "loss" in entry} for place in (one, other)
    )
    assert steps.keys() == others.keys()
    for step, a in steps.items():
        b = others[step]
        assert a["weight"] == b["weight"]
        # A self-critical loss is a difference of two sums of about one, and can be near 0.
        assert a["loss"] == pytest.approx(b["loss"], rel=loss, abs=loss)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=norm)
    validations, others = (
        {entry["step"]: entry["validation"] for entry in journal.read(place) if "validation" in entry}
        for place in (one, other)
    )
    assert validations.keys() <= others.keys()  # the end of each part is validated too
    for step, validation in validations.items():
        for weights, score in validation.items():
            assert score["loss"] == pytest.approx(others[step][weights]["loss"], rel=loss)
