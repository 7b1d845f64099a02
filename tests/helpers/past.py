"""Tiny runs whose past is asked about, and what is done to a run folder to make it lie."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from tests.helpers.runs import small_run
from torch import Tensor

from seedfast import recipes, sealed_folder
from seedfast.loop.config import Run
from seedfast.verify.past import Past, opened

STEPS = 8
WORDS = [
    "cat", "dog", "bird", "fox", "tree", "house", "river", "stone", "cloud", "apple",
    "green", "small", "likes", "sees", "hears", "finds", "the", "a", "near", "under",
]  # fmt: skip


def book(path: Path, *, seed: int = 1, lines: int = 300) -> Path:
    """A text of random words, in which no window of 16 characters comes again by chance often."""
    chooser = np.random.default_rng(seed)
    path.write_text("".join(" ".join(chooser.choice(WORDS, 6)) + ".\n" for _ in range(lines)))
    return path


def tiny(text: Path, recipe: str = "text-masked", **changes: Any) -> Run:
    """A run of eight steps with a checkpoint after every second one."""
    every = {"steps": STEPS, "save_every": 2, "keep": 99, "eval_every": 4, "micro_batch": None, "clip": 1e-2}
    return small_run(recipe, text, **(every | changes))


def past(folder: Path, **options: Any) -> Past:
    """The past of a run."""
    return opened(folder, lambda place: recipes.stored(place, trust=True), trust=True, **options)


def edit_lines(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change each line of the journal in place."""
    path = folder / "journal.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries:
        change(entry)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    reseal(folder)


def edit_step(folder: Path, step: int, **values: Any) -> None:
    """Change the line of a step."""
    edit_lines(folder, lambda entry: entry.update(values) if entry["step"] == step and "loss" in entry else None)


def edit_validation(folder: Path, step: int, **values: Any) -> None:
    """Change the line of a validation."""
    edit_lines(folder, lambda entry: entry.update(values) if entry["step"] == step and "validation" in entry else None)


def edit_tensors(folder: Path, step: int, group: str, change: Callable[[Tensor], Tensor]) -> None:
    """Change all tensors of a group in a checkpoint, and seal it again."""
    path = folder / f"checkpoints/step-{step:08}/{group}.safetensors"
    save_file({name: change(tensor).contiguous() for name, tensor in load_file(path).items()}, path)
    reseal(folder)


def edit_text(folder: Path, name: str, old: str, new: str) -> None:
    """Replace a text in run.yaml or another file, in the run folder and in all its checkpoints."""
    for path in (folder / name, *folder.glob(f"checkpoints/step-*/{name}")):
        if path.exists():
            content = path.read_text()
            assert old in content, f"{path} has no {old}"
            path.write_text(content.replace(old, new))
    reseal(folder)


def reseal(folder: Path) -> None:
    """Make every manifest fit the files and the journal as they are now: a seal has no key, so any stranger can."""
    ends, end = {}, 0
    for line in (folder / "journal.jsonl").read_bytes().splitlines(keepends=True):
        end += len(line)
        ends[json.loads(line)["step"]] = end
    for manifest in folder.glob("checkpoints/step-*/manifest.json"):
        stored = json.loads(manifest.read_text())
        del stored["seal"]
        for name in stored["files"]:
            content = (manifest.parent / name).read_bytes()
            stored["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        stored["journal"] = ends.get(stored["step"], 0)
        manifest.write_text(json.dumps({**stored, "seal": sealed_folder._seal_of(stored)}))


OWN = '''
"""A recipe of the user's own whose steps differ in one part from those of the masked model."""

from dataclasses import dataclass, replace

import torch

from seedfast import recipes
from seedfast.families.family import Terms
from seedfast.families.text.masked import Masked, MaskedObjective


class Own(MaskedObjective):
    def task(self, batch, draws):
        return super().task(batch, replace(draws, seed=draws.seed + {noise}))

    def loss(self, network, task, state):
        terms = super().loss(network, task, state)
        total_B = terms.total_B * {scale}
        backward_B = total_B * {backward}
        return replace(terms, total_B=total_B.detach() + (backward_B - backward_B.detach()))


@dataclass(frozen=True, kw_only=True)
class Options(Masked):
    def build(self, assets):
        return replace(super().build(assets), objective=Own(self, assets))


def own():
    return replace(recipes.make("text-masked"), objective=Options())
'''


def own_recipe(path: Path, *, noise: int = 0, scale: float = 1.0, backward: float = 1.0) -> str:
    """A recipe in a file: with another seed of the noise, another loss, or another gradient of the same loss."""
    path.write_text(OWN.format(noise=noise, scale=scale, backward=backward))
    return f"{path}:own"


def of_recipe(name: str, run: Run) -> Run:
    """The run with the recipe and the objective of a file."""
    made = recipes.make(name)
    return replace(run, recipe=made.recipe, objective=made.objective)
