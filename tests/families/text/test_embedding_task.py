"""The task of embedding diffusion: times, noise, and the conditions that training varies."""

from pathlib import Path
from typing import cast

import pytest
import torch
from tests.helpers.embedding import LENGTH, draws_of, random_batch, regular_batch, small_objective, write_files
from torch import Tensor

from seedfast.data.text.config import TextData
from seedfast.families.text.embedding import Embedding, EmbeddingObjective
from seedfast.families.text.embedding.task import EmbeddingTask


def self_conditioned(task: EmbeddingTask) -> Tensor:
    """Which examples are self-conditioned, bool [B]."""
    chosen_B = torch.zeros(len(task.weight_B), dtype=torch.bool)
    if task.self_conditioned_S is not None:
        chosen_B[task.self_conditioned_S] = True
    return chosen_B


def test_validation_noises_whole_windows_and_is_always_self_conditioned() -> None:
    objective = small_objective()
    task = objective.task(random_batch(50), draws_of(50))
    assert (task.condition_BN == objective.shape.noised_id).all()
    assert task.noised_BL.all()
    assert self_conditioned(task).all()
    assert (task.weight_B == LENGTH).all()
    without = small_objective(self_conditioning=0.0)
    assert without.task(random_batch(50), draws_of(50)).self_conditioned_S is None


def test_training_varies_its_conditions_with_the_configured_rates() -> None:
    objective = small_objective(clean_context=0.5, condition_dropout=0.2, self_conditioning=0.3).for_step(0)
    count = 4000
    task = objective.task(random_batch(count), draws_of(count))
    noised_BL = task.condition_BN == objective.shape.noised_id
    assert torch.equal(noised_BL, task.noised_BL)
    has_context_B = ~noised_BL.all(dim=1)
    # Some of the spans are whole windows.
    assert 0.4 < float(has_context_B.float().mean()) < 0.5
    dropped_B = (task.condition_BN == objective.shape.null_id).any(dim=1)
    assert abs(float(dropped_B[has_context_B].float().mean()) - 0.2) < 0.03
    assert abs(float(self_conditioned(task).float().mean()) - 0.3) < 0.03
    assert torch.equal(task.weight_B, noised_BL.sum(dim=1))
    assert noised_BL.any(dim=1).all()
    clean_BL = ~noised_BL & ~dropped_B.unsqueeze(1)
    assert torch.equal(task.condition_BN[clean_BL], task.targets_BL[clean_BL])
    edges_B = (noised_BL[:, 1:] & ~noised_BL[:, :-1]).sum(dim=1) + noised_BL[:, 0].long()
    assert (edges_B == 1).all(), "one span is noised"
    to_the_end = noised_BL[has_context_B, -1].float().mean()
    assert 0.5 < float(to_the_end) < 0.8


def test_each_example_draws_its_own_conditions() -> None:
    """Self-conditioning and dropout are drawn for each example, never for a batch at once, and independently."""
    objective = small_objective(self_conditioning=0.5, condition_dropout=0.5, clean_context=1.0).for_step(0)
    task = objective.task(regular_batch(200), draws_of(200))
    self_conditioned_B = self_conditioned(task)
    dropped_B = (task.condition_BN == objective.shape.null_id).any(dim=1)
    for chosen_B in (self_conditioned_B, dropped_B):
        assert 40 < int(chosen_B.sum()) < 160
    assert 20 < int((self_conditioned_B & dropped_B).sum()) < 80


def test_times_are_stratified_over_the_global_batch() -> None:
    time_B = small_objective().task(random_batch(8), draws_of(8)).time_B
    assert sorted((time_B * 8).long().tolist()) == list(range(8))


def test_without_padding_the_task_has_no_padding_mask() -> None:
    for padded in (False, True):
        rows = random_batch(20, padded=padded)
        task = small_objective(prompt=0, padded=padded).task(rows, draws_of(20))
        assert (task.real_BN is None) == (not padded)
        assert torch.equal(task.size_B, rows["scored"].sum(dim=1))


@pytest.mark.parametrize("conditioning", ["prefix", "cross"])
def test_a_prompt_is_given_or_dropped_and_the_target_is_never_shown(conditioning: str) -> None:
    objective = small_objective(prompt=6, prompt_conditioning=conditioning)
    rows = random_batch(30, prompt=6)
    task = objective.task(rows, draws_of(30))
    is_null_BP = task.condition_BN[:, :6] == objective.shape.null_id
    assert torch.equal(is_null_BP, ~rows["prompt_real"]), "absent tokens are the null prompt"
    changed = objective.task({**rows, "tokens": (rows["tokens"] + 1) % 8}, draws_of(30))
    assert torch.equal(changed.condition_BN, task.condition_BN), "the condition holds nothing of the target"
    in_training = objective.for_step(0).task(rows, draws_of(30))
    dropped_B = (in_training.condition_BN[:, :6] == objective.shape.null_id).all(dim=1) & rows["prompt_real"].any(dim=1)
    assert 0 < int(dropped_B.sum()) < 15, "each example by itself"


def test_the_first_window_of_a_file_has_no_prompt_and_no_window_contains_its_target(tmp_path: Path) -> None:
    path = str(write_files(tmp_path / "files"))
    corpus = TextData(path=path, tokenizer="bytes", context=16, prompt=8, one_document_per_window=True).load()
    family = Embedding(clean_context=0.0, condition_dropout=0.0).build(corpus.assets)
    objective = cast("EmbeddingObjective", family.objective).for_step(0)
    noised_id, null_id = objective.shape.noised_id, objective.shape.null_id
    firsts = 0
    for ids in ([index] for index in range(len(corpus.train))):
        rows = corpus.train.batch(ids)
        task = objective.task(rows, draws_of(1))
        prompt_P = task.condition_BN[0, :8]
        if int(rows["tokens"][0, 0]) == objective.end_of_text:  # it precedes the first token of a document
            firsts += 1
            assert (prompt_P == null_id).all()
        else:
            present = prompt_P[prompt_P != null_id]
            assert len(present) == 8
            assert int(present[-1]) == int(rows["tokens"][0, 0]), "the token just before the window"
        real_L = torch.arange(16) < task.size_B[0]
        window_L = task.condition_BN[0, 8:]
        assert not ((window_L != noised_id) & real_L).any(), "the condition holds nothing of the target"
    assert firsts == corpus.splits["train"]["documents"]
