"""Training on a GPU: nobody waits for the device, a captured step changes no bit, and every family resumes to the same
bits, compiled and captured."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.outcome import outcome
from tests.helpers.runs import TEXTS, small_run, train_in, train_until
from tests.helpers.waiting import check_that_no_step_waits, no_waiting

from seedfast.loop.captured import CapturedStep
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.train import run_training
from seedfast.models.transformer import Transformer
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.verify.resume import compare

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CAPTURED = ("text-autoregressive", "text-masked", "text-block", "image-diffusion", "image-transformer")
IMAGES = ("image-diffusion", "image-transformer", "image-diffusers")
EVERY = (*TEXTS, *IMAGES, "image-caption", "finetune", "finetune-masked", "dpo")


def gpu_run(recipe: str, text: Path, **changes: Any) -> Run:
    """A small run in bfloat16."""
    run = small_run(recipe, text, precision="bf16", steps=12, save_every=4, eval_every=5, **changes)
    return replace(run, device="cuda")


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("choice", ["off", "blocks"])
@pytest.mark.parametrize("recipe", [*TEXTS, "image-diffusion", "image-transformer"])
def test_no_step_waits_for_the_device(recipe: str, choice: Any, kind: Any, story: Path, tmp_path: Path) -> None:
    run = gpu_run(recipe, story, compile=choice, optimizer=OptimizerConfig(kind=kind))
    check_that_no_step_waits(run, tmp_path, steps=8, first=2)


def test_twin_a_step_that_reads_a_number_waits_for_the_device() -> None:
    with no_waiting(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones((), device="cuda").item()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("recipe", CAPTURED)
def test_capturing_alone_changes_no_bit(recipe: str, kind: Any, story: Path, tmp_path: Path) -> None:
    run = replace(gpu_run(recipe, story, compile="off", optimizer=OptimizerConfig(kind=kind)), steps=40)
    train_in(tmp_path / "off", run)
    with open_session(run, tmp_path / "captured") as opened:
        opened.captured, opened.compiled = CapturedStep(), "step"
        run_training(opened, Silent())
        assert opened.captured._replay is not None
    with open_session(run, tmp_path / "fixed") as opened:  # the same shapes, without a graph
        opened.compiled = "step"
        run_training(opened, Silent())
    assert outcome(tmp_path / "captured") == outcome(tmp_path / "fixed")
    if recipe in IMAGES:  # whose shapes are always fixed
        assert outcome(tmp_path / "captured") == outcome(tmp_path / "off")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["text-autoregressive", "image-diffusion"])
def test_a_thousand_captured_steps_change_no_bit(recipe: str, story: Path, tmp_path: Path) -> None:
    run = replace(gpu_run(recipe, story, compile="off", micro_batch=None), steps=1000, eval_every=0, save_every=1000)
    train_in(tmp_path / "off", run)
    with open_session(run, tmp_path / "captured") as opened:
        opened.captured = CapturedStep()
        run_training(opened, Silent())
    assert outcome(tmp_path / "captured") == outcome(tmp_path / "off")


@pytest.mark.parametrize("recipe", CAPTURED)
def test_a_captured_step_of_compiled_blocks_has_their_bits(recipe: str, story: Path, tmp_path: Path) -> None:
    run = gpu_run(recipe, story)
    for choice in ("blocks", "step"):
        train_in(tmp_path / choice, replace(run, compile=choice))  # type: ignore[arg-type]
    assert outcome(tmp_path / "blocks") == outcome(tmp_path / "step")


@pytest.mark.parametrize("recipe", EVERY)
def test_every_family_resumes_to_the_same_bits(recipe: str, story: Path, tmp_path: Path) -> None:
    check_resume(gpu_run(recipe, story), tmp_path)


@pytest.mark.parametrize("recipe", CAPTURED)
def test_captured_steps_resume_to_the_same_bits(recipe: str, story: Path, tmp_path: Path) -> None:
    check_resume(gpu_run(recipe, story, compile="step"), tmp_path)


def test_compiled_dropout_resumes_to_the_same_bits(story: Path, tmp_path: Path) -> None:
    model = Transformer(layers=2, heads=2, width=16, dropout=0.2)
    check_resume(gpu_run("text-masked", story, compile="blocks", model=model), tmp_path)


def check_resume(run: Run, folder: Path) -> None:
    """Assert that two sessions leave what one leaves."""
    train_in(folder / "whole", run)
    with open_session(run, folder / "split") as opened:
        train_until(opened, 7)
    train_in(folder / "split", run)
    assert compare(folder / "whole", folder / "split")[0] is None


@pytest.mark.parametrize("recipe", ["text-masked", "image-diffusion"])
def test_threads_that_copy_ahead_change_no_bit(recipe: str, story: Path, tmp_path: Path) -> None:
    for workers in (0, 4):
        train_in(tmp_path / str(workers), gpu_run(recipe, story, workers=workers))
    assert outcome(tmp_path / "0") == outcome(tmp_path / "4")
