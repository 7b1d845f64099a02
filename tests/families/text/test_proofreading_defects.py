"""Fourteen defects that systems of this kind have had, each by name, and that this one must not have."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.proofreading import LENGTH, PLAIN, WORDS, Chosen, arbitrary, batch, draws, family
from tests.helpers.runs import small_run, train_in, train_until
from torch import Tensor
from torch.nn import functional as F

from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.evaluate import judge, trained
from seedfast.families.text.proofreading import Proofreading
from seedfast.families.text.proofreading.corruption import IDENTITY, REMASK, UNMASK, Corruption, Symbols, corrupt
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.proofreading.edits import choose_edits, parts
from seedfast.families.text.proofreading.loss_weights import Weights, task_weights
from seedfast.families.text.proofreading.mask_bias import Bias
from seedfast.families.text.proofreading.sampling import ProofreadingRequest, doubted
from seedfast.families.text.unmask_sampler import Page
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.validate import chosen_examples, validate
from seedfast.report import page
from seedfast.run_folder import journal
from seedfast.verify.resume import compare

VERSIONS = ("mask", "mask-wrong", "edit")
RAMPS = Weights(
    unmask=Ramp(start=1.5, end=1.0, steps=4),
    remask=Ramp(start=0.1, end=1.0, steps=7),
    penalty_mask_correct=Ramp(start=0.5, end=1.0, steps=5),
    penalty_keep_mask=Ramp(start=1.0, end=0.25, steps=6),
    label_smoothing=Ramp(start=1.0, end=0.0, steps=8),
)
"""Curricula that end at different steps of a run of ten."""


def run_of(story: Path, **options: Any) -> Run:
    objective = Proofreading(
        corruption=Corruption(replaced=Ramp(start=0.0, end=1.0, steps=7)), weights=RAMPS, diagnostics_every=3, **options
    )
    return small_run("text-proofreading", story, steps=10, eval_every=5, save_every=4, objective=objective)


def validations(folder: Path) -> Iterator[dict[str, Any]]:
    return (entry["validation"] for entry in journal.read(folder) if "validation" in entry)


def test_d1_what_is_validated_and_picks_the_best_is_the_training_loss_at_the_curriculum_s_end(
    story: Path, tmp_path: Path
) -> None:
    run = run_of(story)
    with open_session(run, tmp_path) as opened:
        train_until(opened, 10)
        found = validate(
            opened.family.at(10**9),  # as training will see it for ever after
            opened.state.network,
            opened.state.family,
            opened.corpus.validation,
            chosen_examples(len(opened.corpus.validation), run.eval_examples, run.seed),
            seed=run.seed,
            batch_size=7,
            draws=opened.family.evaluation_draws,
            distributed=opened.distributed,
        )
    *_, last = validations(tmp_path)
    assert last["raw"]["loss"] == pytest.approx(found.loss, rel=1e-6)
    best = json.loads((tmp_path / "best.json").read_text())["raw"]["loss"]
    assert best == min(record["raw"]["loss"] for record in validations(tmp_path))
    for beside in ("plain_cross_entropy", "nelbo", "nelbo_bits_per_byte"):
        assert 0 < last["raw"]["diagnostics"][beside] != last["raw"]["loss"]


@pytest.mark.parametrize(
    "options", [{"version": "mask", "bias": Bias(kind="mask-probability")}, {"version": "edit"}], ids=["mask", "edit"]
)
def test_d2_a_resume_in_the_middle_of_every_curriculum_changes_no_bit(
    options: dict[str, Any], story: Path, tmp_path: Path
) -> None:
    run = run_of(story, **options)
    train_in(tmp_path / "whole", run)
    for stop in (2, 5, 8):  # before the first ramp's end, between ends, after the last but the soft labels'
        with open_session(run, tmp_path / str(stop)) as opened:
            train_until(opened, stop)
        train_in(tmp_path / str(stop), run)
        assert compare(tmp_path / "whole", tmp_path / str(stop))[0] is None
    checkpoint = trained.find(tmp_path / "whole")
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)  # nobody says what it is
    assert model.family.options == run.objective  # type: ignore[attr-defined]
    assert model.family.symbols == Symbols(model.family.vocabulary, run.objective.version)  # type: ignore[attr-defined]


def test_d3_weights_move_continuously_with_the_answers_and_a_gap_of_logits_is_warned_of(
    story: Path, tmp_path: Path
) -> None:
    def change(judged_by: str) -> float:
        """How much the loss moves when a right word's doubt passes the word itself by a hair."""
        weights = replace(PLAIN, penalty_mask_correct=Ramp(end=5.0), judged_by=judged_by)  # type: ignore[arg-type]
        built = family(weights, replaced=0.0, corruption={"guaranteed_correct": 0.9})
        task = replace(built.task(batch(1), draws(1)), unmasking=None)

        def total(doubt: float) -> float:
            right = F.one_hot(task.targets_BL, WORDS + 1).float()
            logits = 5 * right + doubt * F.one_hot(torch.tensor(WORDS), WORDS + 1)
            return float(built.loss(Chosen(lambda _: logits), task, {}).total_B.detach().sum())

        return abs(total(5 + 1e-4) - total(5 - 1e-4))

    assert Weights().judged_by == "probability"
    assert change("probability") < 0.01 < 1 < change("argmax")

    built = family()
    task = replace(built.task(batch(), draws(64)), unmasking=None)
    out_of_reach = Chosen(lambda tokens: -60.0 * F.one_hot(torch.tensor(WORDS), WORDS + 1).expand(*tokens.shape, -1))
    total, weight = built.loss(out_of_reach, task, {}).diagnostics["logit_gap"].tolist()
    limit, _ = built.limits["logit_gap"]
    assert total / weight == pytest.approx(60)
    assert limit < 60

    run = run_of(story)
    with open_session(run, tmp_path) as opened:
        opened.family.limits = {"logit_gap": (-1.0, "what it means")}  # so that any gap is too wide
        train_until(opened, 6)
    assert "what it means" in (tmp_path / "events.jsonl").read_text()
    assert "Warning: logit_gap is" in page.write(tmp_path).read_text()


def test_d4_the_adaptive_bias_is_in_the_checkpoint_and_the_sampler_uses_it(story: Path, tmp_path: Path) -> None:
    for kind in ("mask-probability", "unmask-rate"):
        run = run_of(story, version="mask", bias=Bias(kind=kind, strength=0.5))  # type: ignore[arg-type]
        train_in(tmp_path / kind, run)
        checkpoint = trained.find(tmp_path / kind)
        model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
        assert float(model.state["mask_bias"]) != 3.5
        entries = [e for e in journal.read(tmp_path / kind) if "diagnostics" in e]
        assert entries[0]["diagnostics"]["mask_bias"] == 3.5
        assert len({e["diagnostics"]["mask_bias"] for e in entries}) == 10, "it moves in every step"
        request = ProofreadingRequest(num=20, steps=1, passes=1, remask="sampled", trace=True)
        kept = []
        for bias in (-50.0, 50.0):
            model.state["mask_bias"].fill_(bias)
            samples = model.sample(request, seed=1)
            kept.append(sum(frames[0].count("░") for frames in samples.frames))  # type: ignore[attr-defined]
        assert kept[0] == 0 < kept[1]


@given(st.integers(0, 4000), st.integers(0, 300))
def test_d5_the_edits_sum_to_their_number_at_every_step(step: int, edits: int) -> None:
    """Of a known implementation the shares sum to 0.75 at step 0, and to 1.75 at step 4000."""
    share = Corruption().replaced.at(step)
    assert 0 <= share <= 1
    found = parts(torch.tensor([edits]), (0.5, 0.25, 0.25))
    assert sum(int(part) for part in found) == edits
    assert min(int(part) for part in found) >= 0


@pytest.mark.parametrize("version", VERSIONS)
def test_d6_whatever_the_sampler_shows_the_network_has_been_trained_with_a_loss(version: str) -> None:
    built = family(version=version)
    network = arbitrary(built.symbols.answers)
    for options in ({"steps": 2, "passes": 6}, {"steps": 1, "passes": 6, "remask": "sampled"}, {}):
        built.sample(network, ProofreadingRequest(num=8, **options), draws(8), {})  # type: ignore[arg-type]
    task = built.task(batch(), draws(64))
    learnt = set(task.inputs_BL[task.weights_BL > 0].tolist())
    assert network.seen <= learnt | {WORDS - 1}  # end-of-text: these texts have none
    gaps = task.inputs_BL == built.mask
    assert bool((task.kind_BL[gaps] == UNMASK).all()), "every [MASK] of the training is a question"
    assert int(task.targets_BL[gaps].max()) < WORDS, "and its answer is a word"


def test_d7_a_hole_at_the_beginning_does_not_ask_the_last_word() -> None:
    scored_BL = torch.ones(3000, 6, dtype=torch.bool)
    edits = choose_edits(scored_BL, torch.full((3000,), 3), (0.0, 1.0, 0.0), draws(3000))
    assert not bool(edits.removed_BL[:, 0].any())
    assert not bool(edits.before_hole_BL[:, -1].any())
    assert bool(edits.removed_BL[:, 1].any())
    wraps = torch.roll(torch.tensor([[True, False, False]]), -1, dims=1)  # twin: what index -1 does
    assert bool(wraps[0, -1])


def test_d8_destroying_a_right_word_costs_what_its_weights_multiply_to() -> None:
    """A penalty of 2 on top of an identity weight of 3 makes 6: it replaces nothing, and more is never less."""
    costs = []
    for penalty in (0.5, 1.0, 2.0):
        weights = replace(PLAIN, identity=3.0, penalty_mask_correct=Ramp(end=penalty))
        built = family(weights, replaced=0.0, corruption={"guaranteed_correct": 0.99})
        task = replace(built.task(batch(1), draws(1)), unmasking=None)
        doubts = Chosen(lambda tokens: 50.0 * F.one_hot(torch.tensor(WORDS), WORDS + 1).expand(*tokens.shape, -1))
        assert bool((task.kind_BL == IDENTITY).all())
        costs.append(float(built.loss(doubts, task, {}).total_B.detach()) / (50 * LENGTH))
    assert costs == pytest.approx([1.5, 3.0, 6.0])


def test_d9_a_word_that_is_likely_right_stays_and_one_that_is_not_is_hidden() -> None:
    written = Page(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4).bool(), torch.ones(1, 4).bool())
    right_BL = torch.tensor([[0.1, 0.49, 0.51, 0.99]])
    request = ProofreadingRequest(remask="threshold", thresholds=(0.5,))
    assert doubted(written, 1 - right_BL, request, 0, draws(1)).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("version", VERSIONS)
def test_d10_no_special_symbol_is_drawn_even_if_the_network_wants_nothing_else(version: str) -> None:
    built = family(version=version)
    special = torch.arange(built.symbols.answers) >= WORDS
    wants = Chosen(lambda tokens: (1000.0 * special).expand(*tokens.shape, -1))
    for options in ({}, {"steps": 1, "passes": 5}, {"steps": 2, "passes": 3, "remask": "sampled"}):
        samples = built.sample(wants, ProofreadingRequest(num=30, **options), draws(30), {})  # type: ignore[arg-type]
        assert {token for tokens in samples.tokens for token in tokens} <= set(range(WORDS))


def test_d11_the_loss_is_divided_by_the_sum_of_the_weights_and_both_are_logged(story: Path, tmp_path: Path) -> None:
    def loss(scale: float) -> tuple[float, Tensor]:
        weights = Weights(
            unmask=Ramp(end=2 * scale), remask=Ramp(end=scale), identity=3 * scale, penalty_mask_correct=Ramp(end=1.0)
        )
        network, built = arbitrary(WORDS + 1), family(weights)
        task = built.task({**batch(), "scored": torch.arange(LENGTH).expand(64, -1) >= 5}, draws(64))
        assert not bool(task.weights_BL[:, :5].any()), "what is not scored weighs nothing"
        ratio = built.loss(network, task, {}).total_B.sum() / task.weight_B.sum()
        ratio.backward()
        assert network.scale.grad is not None
        return float(ratio.detach()), network.scale.grad

    (one, slope), (four, other_slope) = loss(0.5), loss(2.0)
    assert one == pytest.approx(four, rel=1e-6)
    assert torch.allclose(slope, other_slope, rtol=1e-5)
    train_in(tmp_path, run_of(story))
    first = next(iter(journal.read(tmp_path)))
    assert first["weight"] > 0
    assert first["diagnostics"]["mean_weight"] > 0


def test_d12_nothing_touches_the_global_generators_and_the_validation_set_is_never_redrawn(
    story: Path, tmp_path: Path
) -> None:
    built, network = family(), arbitrary(WORDS + 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = (built.task(batch(), draws(64, "eval")) for _ in range(2))
    built.loss(network, first, {})
    built.sample(network, ProofreadingRequest(num=3, steps=2, passes=2), draws(3), {})
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.inputs_BL, again.inputs_BL)
    difficulty = (first.kind_BL != IDENTITY).double().mean(dim=1).sort().values
    grid = torch.linspace(0, 0.99, 64, dtype=torch.float64)
    assert float((difficulty - grid).abs().max()) < 0.15, "from easy to hard in even steps"


@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "bpe"])
def test_d13_any_tokenizer_will_do(tokenizer: str, story: Path, tmp_path: Path) -> None:
    vocabulary = 280 if tokenizer == "bpe" else None
    data = TextData(path=str(story), tokenizer=tokenizer, vocabulary=vocabulary, context=16)
    run = small_run("text-proofreading", story, steps=2, data=data)
    train_in(tmp_path, run)
    checkpoint = trained.find(tmp_path)
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    samples = model.sample(ProofreadingRequest(num=2, steps=2, passes=3), seed=1)
    assert len(samples.texts) == 2  # type: ignore[attr-defined]


def test_d14_a_model_is_sure_of_its_repetitions_and_the_judge_is_not(story: Path, tmp_path: Path) -> None:
    built = family()
    doubts_change = Chosen(  # a model that finds fault with every word that differs from the one before
        lambda tokens: 9.0 * F.one_hot(torch.where(tokens == tokens.roll(1, 1), 0, WORDS), WORDS + 1).float()
    )
    repetition, varied = torch.zeros(1, LENGTH, dtype=torch.int64), torch.arange(LENGTH)[None] % (WORDS - 1)
    assert built.self_score(doubts_change, repetition) > built.self_score(doubts_change, varied)

    train_in(tmp_path, small_run("text-autoregressive", story, steps=60, eval_every=0, micro_batch=None))
    checkpoint = trained.find(tmp_path)
    by = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    real = judge.real_texts(by.family.assets, by.run.data.load().validation, 8, 16)  # type: ignore[attr-defined]
    repeated = [text[0] * len(text) for text in real]
    assert judge.judge(real, by).loss < judge.judge(repeated, by).loss - 1
    assert judge.judge(repeated, by).variety["entropy"] == 0 < judge.judge(real, by).variety["entropy"]


def test_the_task_of_the_corruption_is_learnt(story: Path, tmp_path: Path) -> None:
    """Not a defect: after some steps wrong words are found far better than by chance."""
    objective = Proofreading(corruption=Corruption(replaced=Ramp(start=0.2, end=0.5, steps=50)))
    train_in(tmp_path, small_run("text-proofreading", story, steps=180, eval_every=0, objective=objective))
    *_, last = validations(tmp_path)
    found = last["ema"]["diagnostics"]
    assert found["remask_precision"] > found["remask_chance"] + 0.3
    assert found["remask_recall"] > 3 * found["remask_rate"]
    assert found["unmask_skill"] > 4


def test_the_kinds_and_weights_of_a_corrupted_text_agree() -> None:
    symbols = Symbols(WORDS, "mask-wrong")
    tokens = batch(200)["tokens"][:, 1:]
    found = corrupt(tokens, torch.ones_like(tokens).bool(), Corruption(), symbols, draws(200))
    weights = task_weights(found.kind_BL, Weights(unmask=Ramp(end=2.0), remask=Ramp(end=4.0), identity=1.0))
    for kind, weight in ((UNMASK, 2.0), (REMASK, 4.0), (IDENTITY, 1.0)):
        assert bool((weights[found.kind_BL == kind] == weight).all())
