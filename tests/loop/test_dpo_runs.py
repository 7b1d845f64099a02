"""Runs of direct preference optimization: exact after restarts, whatever the reference is, and used like others."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import preferences, tiny_models
from tests.helpers.processes import run_killed_or_whole
from tests.helpers.runs import small_run, train_in, train_until

from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.evaluate import trained
from seedfast.evaluate.loss import Loss
from seedfast.export.export import export
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm import PretrainedLM
from seedfast.run_folder import journal
from seedfast.run_folder.choice import find
from seedfast.run_folder.train_state import read_tensors
from seedfast.verify.resume import compare, prove_resume

LORA = Adapter(kind="lora", rank=2, base_precision="nf4")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random GPT-2 and a file of preferences."""
    folder = tmp_path_factory.mktemp("base")
    preferences.write(folder / "pairs.jsonl")
    tiny_models.folder(folder / "gpt2")
    return folder


def preferring(base: Path, adapter: Adapter) -> Run:
    model = PretrainedLM(path=str(base / "gpt2"), adapter=adapter, dropout=0.0)
    data = TextData(path=str(base / "pairs.jsonl"), tokenizer="model", context=48)
    return replace(small_run("dpo", base / "story.txt", model=model), data=data, steps=8)


@pytest.mark.parametrize("adapter", [Adapter(), LORA], ids=["full", "lora"])
def test_a_run_learns_the_preferences_and_is_used_without_its_base(
    adapter: Adapter, base: Path, tmp_path: Path
) -> None:
    shutil.copytree(base / "gpt2", tmp_path / "gpt2")
    run = preferring(base, adapter)
    run = replace(run, model=replace(run.model, path=str(tmp_path / "gpt2")))
    train_in(tmp_path / "run", run)
    theirs = tiny_models.transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2", dtype=torch.float32)
    shutil.rmtree(tmp_path / "gpt2")
    entries: list[dict[str, Any]] = [dict(entry) for entry in journal.read(tmp_path / "run")]
    steps = [entry for entry in entries if "loss" in entry]
    assert steps[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert steps[-1]["loss"] < 0.6
    assert steps[-1]["diagnostics"]["reward_accuracy"] > 0.9
    assert steps[-1]["diagnostics"]["chosen_reward"] > steps[-1]["diagnostics"]["rejected_reward"]
    checkpoint = find(tmp_path / "run")
    frozen = read_tensors(checkpoint.folder)["frozen"]
    if adapter.kind == "none":
        for name, tensor in theirs.named_parameters():
            assert torch.equal(frozen[f"reference.{name}"], tensor), name
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    model.sample(model.family.generator.Request(prompt=("the cat",), tokens=4), seed=1)  # type: ignore[union-attr]
    measured = Loss()(model)
    assert measured.measure.loss_unit == "nats"
    assert measured.trained_on is not None
    last = next(entry for entry in reversed(entries) if "validation" in entry)
    kept = last["validation"][model.weights]
    assert measured.trained_on.diagnostics.keys() == kept["diagnostics"].keys()
    assert model.log_prob("the cat sees") < 0
    export(model, tmp_path / "exported", merge=adapter.kind != "none")
    whole = tiny_models.transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported", dtype=torch.float32)
    ids = torch.arange(12)[None]
    expected = model.network(ids).float()
    error = (whole(ids).logits - expected).norm() / expected.norm()
    assert error < (1e-5 if adapter.kind == "none" else 0.05)


@pytest.mark.parametrize("adapter", [Adapter(), LORA], ids=["full", "lora"])
def test_two_sessions_give_the_bits_of_one(adapter: Adapter, base: Path, tmp_path: Path) -> None:
    run = replace(preferring(base, adapter), steps=6, eval_every=3, save_every=4)
    train_in(tmp_path / "whole", run)
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 3)
    train_in(tmp_path / "split", run)
    assert compare(tmp_path / "whole", tmp_path / "split")[0] is None


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--model.adapter.kind", "lora", "--model.adapter.base-precision", "nf4")])
def test_kills_leave_no_trace(words: tuple[str, ...], base: Path, tmp_path: Path) -> None:
    command = [
        "dpo", "--model", str(base / "gpt2"), "--data", str(base / "pairs.jsonl"), "--data.context", "48", *words,
        "--ema.half-life", "3", "--steps", "12", "--batch-size", "6", "--micro-batch", "4", "--eval-every", "5",
        "--eval-examples", "4", "--save-every", "4", "--optimizer.lr", "0.001",
    ]  # fmt: skip
    certificate = prove_resume(
        command, kills=2, folder=tmp_path, seed=2, say=lambda _: None, execute=run_killed_or_whole
    )
    assert certificate.difference is None
    assert len(certificate.kills) == 2
