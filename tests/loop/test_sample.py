"""Samples during training."""

from pathlib import Path

import pytest
from tests.helpers.runs import FAMILIES, small_run, train_in, train_until

from seedfast.evaluate import trained
from seedfast.loop.open import open_session
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal
from seedfast.run_folder.choice import find


def samples_of(folder: Path) -> dict[str, bytes]:
    """The samples of a run by their paths, without the hidden files that list them."""
    files = sorted((folder / "samples").rglob("[!.]*.*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("recipe", FAMILIES)
def test_a_resumed_run_writes_the_samples_of_an_uninterrupted_one(recipe: str, story: Path, tmp_path: Path) -> None:
    fast = OptimizerConfig(lr=0.1)  # three steps must change the samples
    run = small_run(recipe, story, steps=8, sample_every=3, save_every=5, optimizer=fast)
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
        kind: trained.load(run, checkpoint, weights=kind).sample(request, seed=run.seed).texts[0] + "\n"
        for kind in ("ema", "raw")
    }
    (written,) = samples_of(tmp_path / "run").values()
    assert written.decode() == texts["ema"] != texts["raw"]
