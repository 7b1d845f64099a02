"""Compiled training: which parts, once, in place, with the same bits after a restart, and where it is refused.

`aot_eager` traces and differentiates like the compiler of a GPU, and generates no code: what it shows about graph
breaks, shapes and recompilation holds for every backend.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.cli import Run as Command
from tests.helpers.quick import slow_but
from tests.helpers.runs import FINETUNE, TEXTS, small_run, train_in, train_until
from torch._dynamo.utils import counters

from seedfast.errors import UserError
from seedfast.families.text.block_diffusion import Block
from seedfast.loop.compilation import compile_parts, compiled_parts
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session
from seedfast.loop.train import run_training
from seedfast.models.token_network import CrossEntropy
from seedfast.models.transformer import Transformer
from seedfast.run_folder import journal
from seedfast.verify.resume import compare

QUICK = ("text-block", "image-transformer")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Code that other tests have compiled is forgotten."""
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def graphs() -> int:
    """The number of graphs that have been compiled."""
    return int(counters["stats"]["unique_graphs"])


class Graphs(Silent):
    """Notes how many graphs there are after each step."""

    def __init__(self) -> None:
        self.after: list[int] = []

    def step(self, session: Session, entry: Any, seconds: float) -> None:
        """Count."""
        self.after.append(graphs())


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in journal.read(folder) if "loss" in entry]


@pytest.mark.parametrize("recipe", slow_but(QUICK, (*TEXTS, "image-diffusion", "image-transformer")))
def test_blocks_have_no_graph_break_and_are_compiled_in_the_first_steps_alone(
    recipe: str, story: Path, tmp_path: Path
) -> None:
    run = small_run(recipe, story, steps=4, eval_every=2, eval_examples=2)
    if recipe in TEXTS:
        run = replace(run, model=replace(run.model, layers=3))
    train_in(tmp_path / "plain", run)
    with open_session(run, tmp_path / "compiled") as opened:
        names = list(opened.state.network.state_dict())
        compile_parts(opened.state.network, backend="aot_eager")
        opened.compiled = "blocks"
        noted = Graphs()
        run_training(opened, noted)
        assert list(opened.state.network.state_dict()) == names
    assert noted.after[0] > 0
    assert noted.after[-1] == noted.after[1], "compiled again after the first two steps"
    # Three blocks are compiled once: two graphs at most for each size of a micro-batch, and one for the loss.
    assert noted.after[-1] <= 2 * 3
    for compiled_loss, loss in zip(losses(tmp_path / "compiled"), losses(tmp_path / "plain"), strict=True):
        assert compiled_loss == pytest.approx(loss, rel=1e-4)


def test_twin_without_fixed_shapes_masked_diffusion_is_compiled_again(story: Path, tmp_path: Path) -> None:
    with open_session(small_run("text-masked", story, steps=4, micro_batch=None, eval_every=0), tmp_path) as opened:
        compile_parts(opened.state.network, backend="aot_eager")
        noted = Graphs()
        run_training(opened, noted)
    assert noted.after[-1] > noted.after[1]


@pytest.mark.parametrize("backend", slow_but(["aot_eager"], ["aot_eager", "inductor"]))
def test_a_resumed_compiled_run_has_the_bits_of_one_session(
    backend: str, story: Path, tmp_path: Path, seedfast: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the kernels of inductor too, whose compiler takes a minute."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # where other code of this process has compiled
    monkeypatch.setattr("seedfast.loop.build.compile_parts", partial(compile_parts, backend=backend))
    run = small_run("text-block", story, steps=2, micro_batch=None, eval_every=1, eval_examples=2, compile="blocks")
    run = replace(run, objective=Block(block=4), model=Transformer(layers=1, heads=2, width=16, dropout=0.1))
    train_in(tmp_path / "whole", run)
    assert graphs() > 0
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 1)
    train_in(tmp_path / "split", run)
    assert compare(tmp_path / "whole", tmp_path / "split")[0] is None
    if backend == "inductor":
        assert f"torch-{torch.__version__}" in seedfast("cache", "--kind", "kernels")[1]
    manifest = next((tmp_path / "split/checkpoints").glob("step-*2/manifest.json"))
    assert json.loads(manifest.read_text())["topology"]["compiled"] == "blocks"
    with pytest.raises(UserError, match="compile = blocks, and the new value is off"):
        train_in(tmp_path / "split", replace(run, compile="off"))


@pytest.mark.parametrize("recipe", slow_but(["text-block"], ["text-block", "image-diffusion"]))
def test_blocks_that_are_gathered_one_by_one_are_compiled(
    recipe: str, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole U-Net has its gathered blocks inside, which would be graph breaks."""
    monkeypatch.setattr("seedfast.loop.build.compile_parts", partial(compile_parts, backend="aot_eager"))
    run = small_run(recipe, story, steps=3, eval_every=2, eval_examples=2, placement="fsdp")
    train_in(tmp_path / "plain", replace(run, compile="off"))
    assert graphs() == 0
    run = replace(run, compile="blocks")
    train_in(tmp_path / "whole", run)
    assert graphs() > 0
    for compiled_loss, loss in zip(losses(tmp_path / "whole"), losses(tmp_path / "plain"), strict=True):
        assert compiled_loss == pytest.approx(loss, rel=1e-4)
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 1)
    train_in(tmp_path / "split", run)
    assert compare(tmp_path / "whole", tmp_path / "split")[0] is None


def test_evaluation_and_copies_are_not_compiled() -> None:
    network = Transformer(layers=2, heads=2, width=16).build(vocabulary=9, context=8, causal=True)
    compile_parts(network, backend="aot_eager")
    tokens_BL = torch.arange(8).view(1, 8)
    network.eval()(tokens_BL)
    with torch.no_grad():
        network.train()(tokens_BL)
    copy.deepcopy(network)(tokens_BL)
    assert graphs() == 0
    network(tokens_BL)
    assert graphs() > 0


def test_the_parts_of_a_transformer_are_its_blocks_and_the_loss() -> None:
    network = Transformer(layers=2, heads=2, width=16).build(vocabulary=9, context=8, causal=True)
    *blocks, loss = compiled_parts(network)
    assert blocks == list(network.blocks)
    assert isinstance(loss, CrossEntropy)


@pytest.mark.parametrize(
    ("recipe", "choice", "reason"),
    [
        ("text-masked", "step", "only a GPU captures steps"),
        (FINETUNE, "blocks", "the network of this recipe is not compiled"),
        ("image-caption", "blocks", "the network of this recipe is not compiled"),
    ],
)
def test_what_cannot_be_compiled_is_refused(recipe: str, choice: Any, reason: str, story: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"compile is {choice}, but .*{reason}"):
        train_in(tmp_path, small_run(recipe, story, compile=choice))
