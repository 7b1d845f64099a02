"""Samples during training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.helpers.outcome import outcome
from tests.helpers.quick import slow_but
from tests.helpers.runs import FAMILIES, few_steps, small_run, train_in, train_until

from seedfast import recipes
from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.families.text.request import DEMO_TOKENS, Canvas
from seedfast.loop.open import open_session
from seedfast.loop.plain_config import from_mapping, to_yaml
from seedfast.loop.progress import Silent
from seedfast.loop.sample import save_showcase
from seedfast.loop.sampling import Sampling
from seedfast.loop.train import run_training
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal
from seedfast.run_folder.choice import find


def samples_of(folder: Path) -> dict[str, bytes]:
    """The samples of a run by their paths, without the hidden files that list them."""
    files = sorted((folder / "samples").rglob("[!.]*.*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    "recipe", slow_but(["text-masked", "text-embedding", "image-diffusion", "image-caption"], FAMILIES)
)
def test_a_resumed_run_writes_the_samples_of_an_uninterrupted_one(recipe: str, story: Path, tmp_path: Path) -> None:
    fast = OptimizerConfig(lr=0.1)  # three steps must change the samples
    run = small_run(recipe, story, steps=8, sample_every=3, save_every=5, optimizer=fast, sampling=few_steps(recipe))
    train_in(tmp_path / "whole", run)
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 7)
    train_in(tmp_path / "split", run)
    written = samples_of(tmp_path / "whole")
    assert sorted({name.split("/")[1] for name in written}) == ["step-00000003", "step-00000006"]
    assert samples_of(tmp_path / "split") == written
    early, late = ({n: c for n, c in written.items() if f"step-0000000{step}" in n} for step in (3, 6))
    assert set(early.values()) != set(late.values())
    for part in ("whole", "split"):
        lines = [entry["samples"] for entry in journal.read(tmp_path / part) if "samples" in entry]
        assert sorted(name for names in lines for name in names) == list(written)


def test_samples_during_training_use_the_averaged_weights(story: Path, tmp_path: Path) -> None:
    fast = OptimizerConfig(lr=0.3)  # the averaged weights must differ enough to give other samples
    run = small_run("text-masked", story, steps=6, sample_every=6, save_every=6, optimizer=fast)
    train_in(tmp_path / "run", run)
    checkpoint = find(tmp_path / "run", at="newest")
    with open_session(run, tmp_path / "run") as opened:
        request = opened.family.generator.demo(opened.corpus.validation)
    texts = {
        kind: trained.load(run, checkpoint, weights=kind).sample(request, seed=run.seed).files()["samples.txt"]
        for kind in ("ema", "raw")
    }
    (written,) = samples_of(tmp_path / "run").values()
    assert written == texts["ema"] != texts["raw"]


def test_by_default_each_validation_has_samples_which_change_no_bit(story: Path, tmp_path: Path) -> None:
    run = small_run(
        "text-proofreading", story, steps=4, eval_every=2, sample_every=recipes.make("finetune").sample_every
    )
    train_in(tmp_path / "default", run)
    train_in(tmp_path / "none", replace(run, sample_every=0))
    (digest, lines), (plain, rest) = outcome(tmp_path / "default"), outcome(tmp_path / "none")
    assert digest == plain
    assert [line for line in lines if "samples" not in line] == rest
    shown = [line for line in lines if "samples" in line]
    assert [line["step"] for line in shown] == [2, 4]
    assert all("48 proofreading passes" in line["decoding"] for line in shown)
    assert not (tmp_path / "none/samples").exists()


def test_the_options_of_the_run_are_those_of_its_samples(story: Path, tmp_path: Path) -> None:
    wanted = Sampling(num=2, prompt=("the ", "a "), tokens=5, temperature=0.0, steps=3)
    run = small_run("text-masked", story, steps=1, sampling=wanted)
    assert from_mapping(small_run("text-masked", story), yaml.safe_load(to_yaml(run)), where="") == run
    with open_session(run, tmp_path / "run") as opened:
        shown = save_showcase(opened)
        assert save_showcase(opened) is shown, "at one step they are generated once"
    texts: Any = shown.samples
    assert [text[:2] for text in texts.texts] == ["th", "th", "a ", "a "]
    assert [len(ids) for ids in texts.written] == [5] * 4
    assert shown.decoding == "random order, 3 network evaluations, temperature 0"


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("text-autoregressive", {"guidance": 2.0}, r"sampling\.guidance \(2\.0\) has no effect.*It has num, prompt"),
        ("text-masked", {"label": ("cat",)}, r"sampling\.label"),
        ("image-diffusion", {"sampler": "magic"}, r"sampling\.sampler must be"),
        ("image-diffusion", {"label": ("cat",)}, 'no class "cat"'),
        ("image-diffusion", {"steps": 5000}, "1 to 1000 steps, not 5000"),
    ],
)
def test_options_that_do_not_fit_the_family_are_refused_before_the_first_step(
    recipe: str, options: dict[str, Any], message: str, story: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train_in(tmp_path / "run", small_run(recipe, story, sampling=Sampling(**options)))
    assert not (tmp_path / "run/checkpoints").exists()


def test_samples_that_cannot_be_written_are_a_warning(
    story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run("text-masked", story, steps=2, sample_every=1)
    with open_session(run, tmp_path / "run") as opened:
        (tmp_path / "run/samples").write_text("a file in the place of the folder")
        run_training(opened, Silent())
    assert "the samples of step 1 could not be written" in capsys.readouterr().err
    assert find(tmp_path / "run", at="newest").step == 2


def test_a_long_text_gets_a_limited_number_of_tokens() -> None:
    canvas = Canvas.first_half(torch.arange(1000))
    assert int((~canvas.fixed_L).sum()) == DEMO_TOKENS
    assert int(canvas.fixed_L.sum()) == 500
