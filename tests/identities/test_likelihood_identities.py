"""Identities 9 to 11 and 14, and twins that shift twice, drop or repeat tokens, miscount bytes, look at the answer."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.data.text.config import TextAssets, TextData
from seedfast.data.text.windows import Windows
from seedfast.families.family import State, Task, Terms
from seedfast.families.text.autoregressive import Autoregressive, AutoregressiveModel, NextTokenTask
from seedfast.families.text.masked import MaskedDiffusion, MaskedTask
from seedfast.keys import Draws
from seedfast.loop.validate import Score, validate
from seedfast.models.transformer_network import TransformerNetwork
from seedfast.verify.identities import likelihood
from seedfast.verify.identities.sources import Copy, Markov, SecondOrder, Tokens, Zipf, entropy


class ShiftsTwice(AutoregressiveModel):
    """It asks for the token after the next."""

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        task = super().task(batch, draws)
        return replace(task, targets_BL=torch.roll(task.targets_BL, -1, dims=1))


class DoesNotShift(AutoregressiveModel):
    """It asks for the token that it shows."""

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        task = super().task(batch, draws)
        return replace(task, targets_BL=task.inputs_BL)


class Averages(AutoregressiveModel):
    """Its loss is a mean over tokens."""

    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        terms = super().loss(network, task, state)
        return replace(terms, total_B=terms.total_B / task.weight_B)


class CountsAll(AutoregressiveModel):
    """It charges tokens that are not scored."""

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        return super().task({**batch, "scored": torch.ones_like(batch["scored"])}, draws)


class Peeks(AutoregressiveModel):
    """Its inputs are the answers."""

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        task = super().task(batch, draws)
        return replace(task, inputs_BL=task.targets_BL)


def test_9_the_loss_is_the_chain_rule_shifted_once() -> None:
    assert likelihood.next_token_loss().holds


@pytest.mark.parametrize("twin", [ShiftsTwice, DoesNotShift, Averages, CountsAll, Peeks])
def test_9_twins_with_another_loss_are_refused(twin: likelihood.BuildCausal) -> None:
    assert not likelihood.next_token_loss(twin).holds


def test_9_twin_a_copying_network_pleases_only_a_loss_that_is_not_shifted() -> None:
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


def test_9_windows_score_each_token_once() -> None:
    assert likelihood.windows_score_once().holds


@pytest.mark.parametrize("twin", [DropsTheRest, ScoresTwice, SkipsFirst])
def test_9_twins_that_drop_or_repeat_tokens_are_refused(twin: likelihood.BuildWindows) -> None:
    assert not likelihood.windows_score_once(twin).holds


def test_9_full_context_is_never_worse_than_windows() -> None:
    assert likelihood.context_only_helps().holds


class ForgetsAllButOne(AutoregressiveModel):
    """In long windows, it shows one token again and again."""

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        task = super().task(batch, draws)
        far = task.inputs_BL.shape[1] > 4
        return replace(task, inputs_BL=task.inputs_BL[:, :1].expand_as(task.inputs_BL) if far else task.inputs_BL)


@pytest.mark.parametrize("twin", [Averages, Peeks, ShiftsTwice, ForgetsAllButOne])
def test_9_twins_whose_loss_does_not_follow_the_context_are_refused(twin: likelihood.BuildCausal) -> None:
    assert not likelihood.context_only_helps(twin).holds


@pytest.mark.parametrize("twin", [ScoresTwice, SkipsFirst])
def test_9_twins_whose_windows_count_wrongly_are_refused(twin: likelihood.BuildWindows) -> None:
    assert not likelihood.context_only_helps(windows=twin).holds


def test_9_cached_generation_writes_the_same() -> None:
    assert likelihood.cached_generation().holds


def _twin(forward: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        network = likelihood.small_transformer()
        assert isinstance(network, TransformerNetwork)
        original = network.forward
        network.forward = lambda tokens_BL=None, **inputs: forward(original, tokens_BL, **inputs)  # type: ignore[method-assign]
        return network

    return build


def _restarts_positions(
    original: Callable[..., Tensor], tokens_BL: Tensor, *, cache: Any = None, **inputs: Any
) -> Tensor:
    """With a cache, every new token stands at position 0."""
    if cache is not None and cache.length:
        inputs["positions_BL"] = torch.zeros_like(tokens_BL)
    return original(tokens_BL, cache=cache, **inputs)


def _ignores_cache(original: Callable[..., Tensor], tokens_BL: Tensor, *, cache: Any = None, **inputs: Any) -> Tensor:
    """It sees the newest token alone."""
    return original(tokens_BL, **inputs)


@pytest.mark.parametrize("twin", [_restarts_positions, _ignores_cache])
def test_9_twins_whose_cache_is_broken_are_refused(twin: Callable[..., Tensor]) -> None:
    assert not likelihood.cached_generation(_twin(twin)).holds


class SwapsRows(AutoregressiveModel):
    """With a cache, it confuses the texts."""

    def generate(self, network: nn.Module, *arguments: Any, cached: bool = True, **options: Any) -> list[list[int]]:
        written = super().generate(network, *arguments, cached=cached, **options)
        return written[::-1] if cached else written


def test_9_twin_whose_cache_swaps_texts_is_refused() -> None:
    assert not likelihood.cached_generation(build=SwapsRows).holds


def test_10_uniform_bytes_cost_8_bits_each() -> None:
    assert likelihood.bits_per_byte().holds


class InNats(AutoregressiveModel):
    """It forgets the ln 2."""

    def __init__(self, options: Autoregressive, assets: TextAssets) -> None:
        super().__init__(options, assets)
        self.units = {"bits_per_byte": assets.tokens_per_byte}


class CountsTheEnd(AutoregressiveModel):
    """It takes the end-of-text for bytes of the text."""

    def __init__(self, options: Autoregressive, assets: TextAssets) -> None:
        super().__init__(options, replace(assets, validation_bytes=assets.validation_bytes + len("<|endoftext|>")))


@pytest.mark.parametrize("twin", [InNats, CountsTheEnd])
def test_10_twins_with_another_unit_are_refused(twin: likelihood.BuildCausal) -> None:
    assert not likelihood.bits_per_byte(twin).holds


def test_10_twin_that_counts_characters_is_refused() -> None:
    corpus = likelihood.byte_corpus()
    characters = len(corpus.assets.tokenizer.decode(corpus.assets.tokenizer.encode(likelihood._TEXT)))
    counted = replace(corpus, assets=replace(corpus.assets, validation_bytes=characters))
    check = likelihood.bits_per_byte(corpus=counted)
    assert not check.holds
    assert "round trip True" in check.detail


def test_10_twin_that_drops_the_end_of_the_text_is_refused() -> None:
    corpus = likelihood.byte_corpus()
    tokens = np.array(corpus.assets.tokenizer.encode(likelihood._TEXT), np.uint16)
    assert not likelihood.bits_per_byte(corpus=replace(corpus, validation=DropsTheRest(tokens, 16))).holds


TEXT = "Größe, 数学, naïve 🙂\r\n\tand plain words too.\n" * 40


def test_10_holds_of_prepared_files(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    corpus = TextData(path=str(path), tokenizer="bytes", context=16).load()
    held_out = TEXT.encode()[-corpus.assets.validation_bytes :].decode()
    assert likelihood.bits_per_byte(corpus=corpus, text=held_out).holds
    assert not likelihood.bits_per_byte(corpus=corpus, text=held_out[1:]).holds


@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "bpe"])
def test_10_the_bits_of_any_tokenizer_are_those_of_all_tokens_over_all_bytes(tokenizer: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    vocabulary = {"vocabulary": 270} if tokenizer == "bpe" else {}
    corpus = TextData(path=str(path), tokenizer=tokenizer, context=16, **vocabulary).load()
    family = AutoregressiveModel(Autoregressive(), corpus.assets)
    held_out = TEXT.encode()[-corpus.assets.validation_bytes :]
    tokens = corpus.assets.tokenizer.encode(held_out.decode())
    bits = len(tokens) * math.log2(corpus.assets.tokenizer.size)
    uniform_loss = math.log(corpus.assets.tokenizer.size)
    assert uniform_loss * family.units["bits_per_byte"] == pytest.approx(bits / len(held_out), rel=1e-12)


class SeesUnderTheMask(MaskedDiffusion):
    """It predicts hidden tokens from all others, hidden or not: a pseudo-likelihood, below the entropy."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        return replace(task, inputs_BL=task.targets_BL)


class MasksTooMuch(MaskedDiffusion):
    """It always hides everything, and calls the cross-entropy a bound."""

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        task = super().task(batch, draws)
        inputs_BL = torch.full_like(task.inputs_BL, self.mask)
        return replace(task, masked_BL=batch["scored"], inputs_BL=inputs_BL, scale_BK=torch.ones_like(task.scale_BK))


def test_11_no_model_is_below_the_entropy_of_a_known_language() -> None:
    assert likelihood.known_entropy_causal().holds
    assert likelihood.known_entropy_masked().holds


@pytest.mark.parametrize("twin", [Peeks, ShiftsTwice, Averages])
def test_11_twins_of_the_autoregressive_loss_are_refused(twin: likelihood.BuildCausal) -> None:
    assert not likelihood.known_entropy_causal(twin).holds


@pytest.mark.parametrize("twin", [SeesUnderTheMask, MasksTooMuch])
def test_11_twins_of_the_masked_bound_are_refused(twin: Callable[..., MaskedDiffusion]) -> None:
    assert not likelihood.known_entropy_masked(twin).holds


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_11_twins_of_the_standard_error_are_refused(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def misjudged(*arguments: Any, **options: Any) -> Score:
        score = validate(*arguments, **options)
        return replace(score, standard_error=factor * score.standard_error)

    monkeypatch.setattr(likelihood, "validate", misjudged)
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


def test_14_documents_that_share_a_window_do_not_see_each_other() -> None:
    assert likelihood.packing().holds


def test_14_twin_without_a_mask_they_do() -> None:
    assert not likelihood.packing(lambda options, assets: AutoregressiveModel(Autoregressive(), assets)).holds
