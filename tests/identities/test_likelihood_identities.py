"""Likelihoods of text, and twins that shift twice, drop or repeat tokens, miscount bytes, or see the answer."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.tasks import changed
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.windows import Windows
from seedfast.families.family import Terms
from seedfast.families.generator import State
from seedfast.families.text.autoregressive import Autoregressive, AutoregressiveObjective, NextTokenTask
from seedfast.families.text.causal_sampler import continue_prompts
from seedfast.families.text.masked import MaskedObjective, MaskedTask
from seedfast.keys import Draws
from seedfast.loop.validate import Score, validate
from seedfast.models.token_network import TokenNetwork
from seedfast.models.transformer_network import TransformerNetwork
from seedfast.verify.identities import likelihood
from seedfast.verify.identities.sources import Copy, Markov, SecondOrder, Tokens, Zipf, entropy


class ShiftsTwice(AutoregressiveObjective):
    """Its target is the token after the next."""

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        task = super().task(batch, draws)
        return changed(task, targets_BL=torch.roll(task.targets_BL, -1, dims=1))


class DoesNotShift(AutoregressiveObjective):
    """Its target is the input token itself."""

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        task = super().task(batch, draws)
        return changed(task, targets_BL=task.inputs_BL)


class Averages(AutoregressiveObjective):
    """Its loss is a mean over tokens."""

    def loss(self, network: nn.Module, task: NextTokenTask, state: State) -> Terms:
        terms = super().loss(network, task, state)
        return replace(terms, total_B=terms.total_B / task.weight_B)


class CountsAll(AutoregressiveObjective):
    """It counts tokens that are not scored."""

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        return super().task({**batch, "scored": torch.ones_like(batch["scored"])}, draws)


class Peeks(AutoregressiveObjective):
    """Its inputs are the targets."""

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        task = super().task(batch, draws)
        return replace(task, inputs_BL=task.targets_BL)


@pytest.mark.parametrize("twin", [ShiftsTwice, DoesNotShift, Averages, CountsAll, Peeks])
def test_twins_with_another_loss_fail(twin: likelihood.BuildCausal) -> None:
    assert not likelihood.next_token_loss(twin).holds


def test_a_copying_network_has_no_loss_only_without_a_shift() -> None:
    assert "a copying network pays 40.0" in likelihood.next_token_loss().detail
    assert "a copying network pays 0.0" in likelihood.next_token_loss(DoesNotShift).detail


class DropsTheRest(Windows):
    """It forgets the targets after the last full window."""

    def __len__(self) -> int:
        return self.targets // self.context


class ScoresTwice(Windows):
    """Its last window scores its overlap again."""

    def batch(self, ids: list[int]) -> Batch:
        batch = super().batch(ids)
        return {**batch, "scored": torch.ones_like(batch["scored"])}


class SkipsFirst(Windows):
    """Windows do not score their first target."""

    def batch(self, ids: list[int]) -> Batch:
        batch = super().batch(ids)
        return {**batch, "scored": batch["scored"] & (torch.arange(self.context) > 0)}


@pytest.mark.parametrize("twin", [DropsTheRest, ScoresTwice, SkipsFirst])
def test_twins_that_drop_or_repeat_tokens_fail(twin: likelihood.BuildWindows) -> None:
    assert not likelihood.windows_score_once(twin).holds


class ForgetsAllButOne(AutoregressiveObjective):
    """In long windows, its input is one token repeated."""

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        task = super().task(batch, draws)
        far = task.inputs_BL.shape[1] > 4
        return replace(task, inputs_BL=task.inputs_BL[:, :1].expand_as(task.inputs_BL) if far else task.inputs_BL)


@pytest.mark.parametrize("twin", [Averages, Peeks, ShiftsTwice, ForgetsAllButOne])
def test_twins_whose_loss_does_not_follow_the_context_fail(twin: likelihood.BuildCausal) -> None:
    assert not likelihood.context_only_helps(twin).holds


@pytest.mark.parametrize("twin", [ScoresTwice, SkipsFirst])
def test_twins_whose_windows_count_wrongly_fail(twin: likelihood.BuildWindows) -> None:
    assert not likelihood.context_only_helps(windows=twin).holds


def _twin(forward: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        network = likelihood.small_transformer()
        assert isinstance(network, TransformerNetwork)
        original = network.forward
        network.forward = lambda tokens_BL=None, **inputs: forward(original, tokens_BL, **inputs)  # type: ignore[method-assign]
        network.reader = partial(TokenNetwork.reader, network)  # type: ignore[method-assign]
        return network

    return build


def _restarts_positions(
    original: Callable[..., Tensor], tokens_BL: Tensor, *, cache: Any = None, **inputs: Any
) -> Tensor:
    """With a cache, every new token is at position 0."""
    if cache is not None and cache.length:
        inputs["positions_BL"] = torch.zeros_like(tokens_BL)
    return original(tokens_BL, cache=cache, **inputs)


def _ignores_cache(original: Callable[..., Tensor], tokens_BL: Tensor, *, cache: Any = None, **inputs: Any) -> Tensor:
    """It reads the newest token alone."""
    return original(tokens_BL, **inputs)


@pytest.mark.parametrize("twin", [_restarts_positions, _ignores_cache])
def test_twins_with_a_broken_cache_fail(twin: Callable[..., Tensor]) -> None:
    assert not likelihood.cached_generation(_twin(twin)).holds


def swaps_rows(*arguments: Any, cached: bool = True) -> list[list[int]]:
    """With a cache, it confuses the texts."""
    written = continue_prompts(*arguments, cached=cached)
    return written[::-1] if cached else written


def test_twin_whose_cache_swaps_texts_fails() -> None:
    assert not likelihood.cached_generation(sampler=swaps_rows).holds


class InNats(AutoregressiveObjective):
    """It forgets the ln 2."""

    def __init__(self, options: Autoregressive, assets: TextAssets) -> None:
        super().__init__(options, assets)
        self.measure = replace(self.measure, conversions={"bits_per_byte": assets.tokens_per_byte})


class CountsTheEnd(AutoregressiveObjective):
    """It counts end-of-text as bytes of the text."""

    def __init__(self, options: Autoregressive, assets: TextAssets) -> None:
        super().__init__(options, replace(assets, validation_bytes=assets.validation_bytes + len("<|endoftext|>")))


@pytest.mark.parametrize("twin", [InNats, CountsTheEnd])
def test_twins_with_another_unit_fail(twin: likelihood.BuildCausal) -> None:
    assert not likelihood.bits_per_byte(twin).holds


def test_twin_that_counts_characters_fails() -> None:
    corpus = likelihood.byte_corpus()
    characters = len(corpus.assets.tokenizer.decode(corpus.assets.tokenizer.encode(likelihood._TEXT)))
    counted = replace(corpus, assets=replace(corpus.assets, validation_bytes=characters))
    check = likelihood.bits_per_byte(corpus=counted)
    assert not check.holds
    assert "round trip True" in check.detail


def test_twin_that_drops_the_end_of_the_text_fails() -> None:
    corpus = likelihood.byte_corpus()
    tokens = np.array(corpus.assets.tokenizer.encode(likelihood._TEXT), np.uint16)
    assert not likelihood.bits_per_byte(corpus=replace(corpus, validation=DropsTheRest(tokens, 16))).holds


TEXT = "Größe, 数学, naïve 🙂\r\n\tand plain words too.\n" * 40


def test_bits_per_byte_of_prepared_files(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    corpus = TextData(path=str(path), tokenizer="bytes", context=16).load()
    held_out = TEXT.encode()[-corpus.assets.validation_bytes :].decode()
    assert likelihood.bits_per_byte(corpus=corpus, text=held_out).holds
    assert not likelihood.bits_per_byte(corpus=corpus, text=held_out[1:]).holds


@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "bpe"])
def test_the_bits_of_any_tokenizer_are_those_of_all_tokens_over_all_bytes(tokenizer: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    vocabulary = {"vocabulary": 270} if tokenizer == "bpe" else {}
    corpus = TextData(path=str(path), tokenizer=tokenizer, context=16, **vocabulary).load()
    objective = AutoregressiveObjective(Autoregressive(), corpus.assets)
    held_out = TEXT.encode()[-corpus.assets.validation_bytes :]
    tokens = corpus.assets.tokenizer.encode(held_out.decode())
    bits = len(tokens) * math.log2(corpus.assets.tokenizer.size)
    uniform_loss = math.log(corpus.assets.tokenizer.size)
    assert uniform_loss * objective.measure.conversions["bits_per_byte"] == pytest.approx(
        bits / len(held_out), rel=1e-12
    )


class SeesUnderTheMask(MaskedObjective):
    """It predicts masked tokens from all others, masked or not: a pseudo-likelihood, below the entropy."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        return changed(task, inputs_BL=task.targets_BL)


class MasksTooMuch(MaskedObjective):
    """It always masks everything, and takes the cross-entropy for a bound."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        inputs_BL = torch.full_like(task.inputs_BL, self.mask)
        return changed(task, masked_BL=batch["scored"], inputs_BL=inputs_BL, scale_BL=torch.ones_like(task.scale_BL))


@pytest.mark.parametrize("twin", [Peeks, ShiftsTwice, Averages])
def test_twins_of_the_autoregressive_loss_fail(twin: likelihood.BuildCausal) -> None:
    assert not likelihood.known_entropy_causal(twin).holds


@pytest.mark.parametrize("twin", [SeesUnderTheMask, MasksTooMuch])
def test_twins_of_the_masked_bound_fail(twin: Callable[..., MaskedObjective]) -> None:
    assert not likelihood.known_entropy_masked(twin).holds


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_twins_of_the_standard_error_fail(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled_error(*arguments: Any, **options: Any) -> Score:
        score = validate(*arguments, **options)
        return replace(score, standard_error=factor * score.standard_error)

    monkeypatch.setattr(likelihood, "validate", scaled_error)
    assert not likelihood.known_entropy_causal().holds


def test_the_closed_forms_of_the_entropies_are_those_of_counted_texts() -> None:
    """Block entropies by enumeration: H(X1…Xn) - H(X1…Xn-1) is the rate once n exceeds the order."""
    chain, second = Markov(), SecondOrder()
    assert torch.allclose(chain.stationary @ chain.transition, chain.stationary, atol=1e-14)
    pairs = chain.stationary[:, None] * chain.transition
    triples = pairs[..., None] * chain.transition
    assert entropy(triples) - entropy(pairs) == pytest.approx(chain.rate, abs=1e-12)
    assert chain.window_entropy(3) * 3 == pytest.approx(entropy(triples), abs=1e-12)
    triples = second.pairs[..., None] * second.transition
    assert torch.allclose(triples.sum(dim=0), second.pairs, atol=1e-14)
    quads = torch.einsum("abc,bcd->abcd", triples, second.transition)
    assert entropy(quads) - entropy(triples) == pytest.approx(second.rate, abs=1e-12)
    assert second.causal_entropy(3) * 3 == pytest.approx(entropy(quads) - entropy(second.pairs.sum(dim=1)), abs=1e-12)


@pytest.mark.parametrize("source", [Zipf(), Markov(), SecondOrder()])
def test_the_languages_have_the_frequencies_of_their_closed_forms(source: Any) -> None:
    tokens: Tokens = source.tokens(40_000, 16)
    frequencies = np.bincount(tokens, minlength=source.vocabulary) / len(tokens)
    match source:
        case Zipf():
            expected = source.probabilities
        case Markov():
            expected = source.stationary
        case _:
            expected = source.pairs.sum(dim=0)
    assert np.abs(frequencies - expected.numpy()).max() < 0.02
    assert len(tokens) == 40_001


def test_the_copy_language_copies() -> None:
    tokens = Copy().tokens(320, 16)[1:].reshape(-1, 2, 8)
    assert (tokens[:, 0] == tokens[:, 1]).all()
    assert len(np.unique(tokens)) == 6


def test_twin_without_a_document_mask_fails() -> None:
    assert not likelihood.packing(lambda options, assets: AutoregressiveObjective(Autoregressive(), assets)).holds
