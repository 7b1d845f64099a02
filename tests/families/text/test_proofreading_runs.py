"""Whole runs of proofreading: validation at the end of every curriculum, exact resumption, the bias, any tokenizer."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.proofreading import arbitrary, batch, draws, generator, objective
from tests.helpers.runs import small_run, train_in, train_until

from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.evaluate import judge, passages, trained
from seedfast.evaluate.trained import Trained
from seedfast.families.text.proofreading import Proofreading
from seedfast.families.text.proofreading.corruption import IDENTITY, Corruption, Symbols
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.proofreading.loss_weights import Weights
from seedfast.families.text.proofreading.mask_bias import Bias
from seedfast.families.text.proofreading.sampling import ProofreadingRequest
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.validate import chosen_examples, validate
from seedfast.report import page, plots
from seedfast.run_folder import journal
from seedfast.run_folder.choice import find
from seedfast.verify.resume import compare

RAMPS = Weights(
    unmask=Ramp(start=1.5, end=1.0, steps=4),
    remask=Ramp(start=0.1, end=1.0, steps=7),
    penalty_mask_correct=Ramp(start=0.5, end=1.0, steps=5),
    penalty_keep_mask=Ramp(start=1.0, end=0.25, steps=6),
    label_smoothing=Ramp(start=1.0, end=0.0, steps=8),
)
"""Curricula that end at different steps of a run of ten."""


def run_of(story: Path, **options: Any) -> Run:
    own = Proofreading(
        corruption=Corruption(replaced=Ramp(start=0.0, end=1.0, steps=7)), weights=RAMPS, diagnostics_every=3, **options
    )
    return small_run("text-proofreading", story, steps=10, eval_every=5, save_every=4, objective=own)


def load(folder: Path) -> Trained:
    checkpoint = find(folder, at="newest")
    return trained.load(recipes.stored(checkpoint.folder), checkpoint)


def validations(folder: Path) -> Iterator[dict[str, Any]]:
    return (entry["validation"] for entry in journal.read(folder) if "validation" in entry)


def test_validation_and_the_best_checkpoint_use_the_training_loss_at_the_end_of_the_curriculum(
    story: Path, tmp_path: Path
) -> None:
    run = run_of(story)
    with open_session(run, tmp_path) as opened:
        train_until(opened, 10)
        found = validate(
            opened.family.objective.for_step(10**9),
            opened.state.network,
            opened.state.family,
            opened.corpus.validation,
            chosen_examples(opened.corpus, run.eval_examples, run.seed),
            seed=run.seed,
            batch_size=7,
            draws=run.objective.evaluation_draws,
            distributed=opened.distributed,
        )
    *_, last = validations(tmp_path)
    assert last["raw"]["loss"] == pytest.approx(found.loss, rel=1e-6)
    best = json.loads((tmp_path / "best.json").read_text())["raw"]["loss"]
    assert best == min(record["raw"]["loss"] for record in validations(tmp_path))
    for other in ("plain_cross_entropy", "nelbo", "nelbo_bits_per_byte"):
        assert 0 < last["raw"]["diagnostics"][other] != last["raw"]["loss"]


@pytest.mark.parametrize(
    "options", [{"version": "mask", "bias": Bias(kind="mask-probability")}, {"version": "edit"}], ids=["mask", "edit"]
)
def test_a_resume_in_the_middle_of_every_curriculum_changes_no_bit(
    options: dict[str, Any], story: Path, tmp_path: Path
) -> None:
    run = run_of(story, **options)
    train_in(tmp_path / "whole", run)
    for stop in (2, 5, 8):  # before the end of the first ramp, between ends, before the end of the last
        with open_session(run, tmp_path / "split") as opened:
            train_until(opened, stop)
    train_in(tmp_path / "split", run)
    assert compare(tmp_path / "whole", tmp_path / "split")[0] is None
    model = load(tmp_path / "whole")  # with nothing but its folder
    own: Any = model.family.objective
    assert own.options == run.objective
    assert own.symbols == Symbols(own.vocabulary, run.objective.version)


def test_a_run_warns_about_a_logit_gap_in_its_events_and_its_report(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "_PANELS", 1)  # no pictures of the other diagnostics
    with open_session(run_of(story), tmp_path) as opened:
        own = opened.family.objective
        own.measure = replace(own.measure, alarms={"logit_gap": (-1.0, "its meaning")})  # any gap is too wide
        train_until(opened, 6)
    assert "its meaning" in (tmp_path / "events.jsonl").read_text()
    assert "Warning: logit_gap is" in page.write(tmp_path).read_text()


@pytest.mark.parametrize("kind", ["mask-probability", "unmask-rate"])
def test_the_adaptive_bias_is_part_of_the_checkpoint_and_used_by_the_sampler(
    kind: Any, story: Path, tmp_path: Path
) -> None:
    train_in(tmp_path, run_of(story, version="mask", bias=Bias(kind=kind, strength=0.5)))
    model = load(tmp_path)
    assert float(model.state["mask_bias"]) != 3.5
    entries = [e for e in journal.read(tmp_path) if "diagnostics" in e]
    assert entries[0]["diagnostics"]["mask_bias"] == 3.5
    assert len({e["diagnostics"]["mask_bias"] for e in entries}) == 10, "it changes in every step"
    request = ProofreadingRequest(num=20, steps=1, passes=1, remask="sampled", trace=True)
    still_open = []
    for bias in (-50.0, 50.0):
        model.state["mask_bias"].fill_(bias)
        samples: Any = model.sample(request, seed=1)
        still_open.append(sum(frames[0].count("░") for frames in samples.frames))
    assert still_open[0] == 0 < still_open[1]


def test_the_adaptive_bias_stays_in_the_memory_that_a_captured_step_reads(story: Path, tmp_path: Path) -> None:
    with open_session(run_of(story, version="mask", bias=Bias(kind="unmask-rate")), tmp_path) as opened:
        bias = opened.state.family["mask_bias"]
        first = float(bias)
        train_until(opened, 2)
        assert opened.state.family["mask_bias"] is bias
        assert float(bias) != first


def test_the_sum_and_the_mean_of_the_weights_are_journalled(story: Path, tmp_path: Path) -> None:
    train_in(tmp_path, run_of(story))
    first = next(iter(journal.read(tmp_path)))
    assert first["weight"] > 0
    assert first["diagnostics"]["mean_weight"] > 0


def test_the_global_generators_stay_untouched_and_a_validation_task_is_always_the_same() -> None:
    built, network = objective(), arbitrary(8)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = (built.task(batch(), draws(64, "eval")) for _ in range(2))
    built.loss(network, first, {})
    generator().generate(network, ProofreadingRequest(num=3, steps=2, passes=2), draws(3), {})
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.inputs_BL, again.inputs_BL)
    difficulty = (first.kind_BL != IDENTITY).double().mean(dim=1).sort().values
    grid = torch.linspace(0, 0.99, 64, dtype=torch.float64)
    assert float((difficulty - grid).abs().max()) < 0.15, "from easy to hard in equal steps"


@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "bpe"])
def test_any_tokenizer_can_be_used(tokenizer: str, story: Path, tmp_path: Path) -> None:
    vocabulary = 280 if tokenizer == "bpe" else None
    data = TextData(path=str(story), tokenizer=tokenizer, vocabulary=vocabulary, context=16)
    train_in(tmp_path, small_run("text-proofreading", story, steps=2, data=data))
    samples: Any = load(tmp_path).sample(ProofreadingRequest(num=2, steps=2, passes=3), seed=1)
    assert len(samples.texts) == 2


def test_the_judge_finds_repetitions_unlikely_and_without_variety(story: Path, tmp_path: Path) -> None:
    train_in(tmp_path, small_run("text-autoregressive", story, steps=60, eval_every=0, save_every=60, micro_batch=None))
    by = load(tmp_path)
    objective_of_judge: Any = by.family.objective
    real = passages.real_texts(objective_of_judge.assets, by.run.data.load().validation, 8, 16)
    repeated = [text[0] * len(text) for text in real]
    assert judge.judge(real, by).loss < judge.judge(repeated, by).loss - 1
    assert judge.judge(repeated, by).variety["entropy"] == 0 < judge.judge(real, by).variety["entropy"]


def test_wrong_words_are_found_far_better_than_by_chance_after_some_steps(story: Path, tmp_path: Path) -> None:
    own = Proofreading(corruption=Corruption(replaced=Ramp(start=0.2, end=0.5, steps=50)))
    run = small_run("text-proofreading", story, steps=180, eval_every=0, save_every=180, objective=own)
    train_in(tmp_path, replace(run, micro_batch=None))
    *_, last = validations(tmp_path)
    found = last["ema"]["diagnostics"]
    assert found["remask_precision"] > found["remask_chance"] + 0.3
    assert found["remask_recall"] > 3 * found["remask_rate"]
    assert found["unmask_skill"] > 4
