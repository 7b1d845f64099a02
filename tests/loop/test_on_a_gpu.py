"""What a user runs on a GPU, on a device that is pretended: training, samples, scores, evaluations, a replayed step.

No tensor of the host meets one of the device, no step waits for the device, and no operation lacks a deterministic
implementation there."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.outcome import outcome
from tests.helpers.pretended_gpu import GPU, pretended_gpu
from tests.helpers.quick import slow_but
from tests.helpers.runs import TEXTS, small_run, train_in
from tests.helpers.waiting import check_that_no_step_waits, no_waiting

import seedfast
from seedfast.evaluate.trained import Trained
from seedfast.families.caption.generator import image_batch
from seedfast.families.text.categorical import draw
from seedfast.loop.captured import CapturedStep
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.train import run_training
from seedfast.optim.optimizer import OptimizerConfig

IMAGES = ("image-diffusion", "image-transformer", "image-diffusers")
EVERY = (*TEXTS, *IMAGES, "image-caption", "finetune", "dpo")
QUICK = ("text-autoregressive", "text-masked", "image-transformer")


@pytest.fixture(scope="module", autouse=True)
def _gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, pretended_gpu(patch):
        yield


def texts(model: Trained) -> None:
    """All that a text model does."""
    model.sample(num=2, tokens=6, top_p=0.9, temperature=0.7)
    model.sample(num=1, tokens=20, trace=True)
    if model.run.recipe != "text-embedding":
        drafts = {"passes": 0} if model.run.recipe == "text-proofreading" else {}
        model.sample(num=2, tokens=6, top_k=3, explain=True, **drafts)
        model.score("the cat sees the dog")
        assert model.decompress(model.compress(b"the cat")) == b"the cat"
    if model.run.recipe != "text-block":
        model.sample(num=1, infill="the <gap:4> dog")
    model.log_prob("the cat sees the dog")


def images(model: Trained) -> None:
    """Images by solvers, guided, and between two seeds and classes."""
    model.sample(num=2, steps=2, sampler="ddpm")
    model.sample(num=2, steps=3, sampler="dpm++2m", guidance=2.0, threshold="dynamic", label=("few",))
    model.sample(num=2, steps=2, to_seed=9, label=("few",), to_label="many")


def captions(model: Trained) -> None:
    """Captions by each way of decoding, and what they look at."""
    batch = image_batch(model.corpus.validation, [0, 1])  # type: ignore[arg-type]
    for decoding in ("beam", "nucleus"):
        model.sample(image_batch=batch, decoding=decoding, attention=True)


OF: dict[str, Callable[[Trained], None]] = {"text": texts, "image": images, "caption": captions}


def kind_of(recipe: str) -> str:
    """The wing of a recipe."""
    return "caption" if recipe == "image-caption" else "image" if recipe.startswith("image") else "text"


@pytest.mark.parametrize("recipe", slow_but(QUICK, EVERY))
def test_every_family_runs_on_a_gpu(recipe: str, story: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"steps": 2, "eval_every": 1, "eval_examples": 2, "save_every": 1, "workers": 1}
    run = replace(small_run(recipe, story, **sizes), device="cuda", compile="off", precision="bf16")
    train_in(tmp_path, run)
    OF[kind_of(recipe)](model := seedfast.load(tmp_path, device="cuda"))
    model.evaluate(*(["loss", "bits_per_dimension"] if kind_of(recipe) == "image" else []))
    assert seedfast.replay(tmp_path, 2, rows=True, device="cuda").verdict == "identical"


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("recipe", slow_but(QUICK, (*TEXTS, "image-transformer", "image-diffusion")))
def test_no_step_waits_for_the_device(recipe: str, kind: Any, story: Path, tmp_path: Path) -> None:
    run = small_run(recipe, story, optimizer=OptimizerConfig(kind=kind), compile="off", workers=0)
    check_that_no_step_waits(replace(run, device="cuda"), tmp_path, steps=2, first=1)


@pytest.mark.parametrize("recipe", slow_but(("text-masked",), ("text-masked", "text-block", "image-transformer")))
def test_a_captured_step_changes_no_bit(recipe: str, story: Path, tmp_path: Path) -> None:
    run = replace(small_run(recipe, story, steps=6, eval_every=0, save_every=6, compile="off"), device="cuda")
    for name, captured in (("captured", CapturedStep()), ("fixed", None)):
        with open_session(run, tmp_path / name) as opened:
            opened.captured, opened.compiled = captured, "step"
            run_training(opened, Silent())
    assert outcome(tmp_path / "captured") == outcome(tmp_path / "fixed")


def test_twin_a_capture_repeats_operations_and_refuses_to_wait() -> None:
    x, graph = torch.zeros(3, device=GPU), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x += 1
        y = x * 2
        with pytest.raises(RuntimeError, match="capturing"):
            y.tolist()
    assert x.tolist() == [0.0, 0.0, 0.0]
    graph.replay()
    graph.replay()
    assert y.tolist() == [4.0, 4.0, 4.0]


def test_twin_tensors_of_two_devices_are_refused() -> None:
    there, here = torch.ones(3, device=GPU), torch.ones(3)
    assert (there + torch.ones(())).device == GPU
    for mixed in (lambda: there + here, lambda: here.index_add_(0, torch.arange(3), there), lambda: here[there > 0]):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(RuntimeError, match="same device"):
        there.hypot_(torch.ones(()))
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


def test_twin_a_number_that_is_read_makes_the_host_wait() -> None:
    with no_waiting(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones((), device=GPU).item()


def test_a_draw_on_a_gpu_is_that_of_the_host() -> None:
    p_NV = torch.rand(50, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    p_NV[:, ::3] = 0.0
    u_N = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert draw(p_NV.to(GPU), u_N.to(GPU)).tolist() == draw(p_NV, u_N).tolist()
