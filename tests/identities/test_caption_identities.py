"""Caption metrics and beam search in closed form, each beside broken twins that the check must detect.

See docs/identities.md#cider and docs/identities.md#beam.
"""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from seedfast.families.caption import beam_search as beam
from seedfast.families.caption import metrics
from seedfast.families.caption.beam_search import NextLogits, beam_search
from seedfast.families.caption.metrics import BleuCounts, Frequencies, cider, rouge_l
from seedfast.models.transformer_network import TransformerNetwork
from seedfast.verify.identities import captions


@pytest.mark.parametrize("fault", ["unclipped", "no penalty", "sigma", "idf of captions", "sum of orders", "no factor"])
def test_twins_of_cider_are_detected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def twin(candidate: Sequence[str], references: Sequence[Sequence[str]], frequencies: Frequencies) -> float:
        match fault:
            case "sum of orders":
                return 4 * cider(candidate, references, frequencies)
            case "no factor":
                return cider(candidate, references, frequencies) / 10
            case "no penalty":
                monkeypatch.setattr(metrics, "SIGMA", 1e9)
            case "sigma":
                monkeypatch.setattr(metrics, "SIGMA", 5.0)
            case "idf of captions":  # ln(1 + images / df): never zero, so that one image scores 10 instead of 0
                monkeypatch.setattr(
                    Frequencies, "idf", lambda self, gram: math.log(1 + self.images / self.counts.get(gram, 1))
                )
            case "unclipped":
                monkeypatch.setattr(metrics, "min", lambda a, b: a, raising=False)
        return cider(candidate, references, frequencies)

    assert not captions.cider_by_hand(twin).holds


def test_twin_an_average_of_bleus_is_not_the_bleu_of_the_corpus() -> None:
    def average(pairs: Any) -> list[float]:
        each = [BleuCounts.of(*pair).scores() for pair in pairs]
        return [sum(values) / len(values) for values in zip(*each, strict=True)]

    assert not captions.bleu_and_rouge_by_hand(bleu=average).holds


def test_twin_bleu_without_clipping_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "min", lambda *values: values[0] if len(values) > 1 else min(*values), raising=False)
    assert not captions.bleu_and_rouge_by_hand().holds


def test_twin_rouge_without_the_weight_on_recall_is_detected() -> None:
    assert not captions.bleu_and_rouge_by_hand(
        rouge=lambda candidate, references: rouge_l(candidate, references, beta=1.0)
    ).holds


def test_twin_the_second_likeliest_token_is_not_greedy() -> None:
    def second(next_logits: NextLogits, **options: Any) -> Any:
        def without_best(rows_N: Tensor, tokens_N: Tensor) -> Tensor:
            logits_NV = next_logits(rows_N, tokens_N)
            return logits_NV.scatter(1, logits_NV.argmax(dim=1, keepdim=True), -torch.inf)

        return beam_search(without_best, **options)

    assert not captions.greedy_search(second).holds


@pytest.mark.parametrize("fault", ["not frozen", "last token only", "wrong parents"])
def test_twins_of_the_search_are_detected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = beam._Beam.extended

    def broken(self: Any, log_q_BKV: Tensor, **options: Any) -> Any:
        if fault == "not frozen":  # finished beams continue
            self = beam._Beam(self.log_p_BK, self.lengths_BK, torch.zeros_like(self.done_BK), self.tokens_BKL)
        if fault == "last token only":  # the probability of the prefix is forgotten
            log_p_BK = torch.where(self.log_p_BK.isinf(), self.log_p_BK, 0.0)
            self = beam._Beam(log_p_BK, self.lengths_BK, self.done_BK, self.tokens_BKL)
        made, parents = real(self, log_q_BKV, **options)
        return made, parents.flip(1) if fault == "wrong parents" else parents

    monkeypatch.setattr(beam._Beam, "extended", broken)
    assert not captions.exhaustive_search().holds


def test_twin_a_cache_that_is_not_reordered_is_detected() -> None:
    def not_reordered(network: TransformerNetwork, memory_BMD: Tensor) -> NextLogits:
        past, rows = network.cache(len(memory_BMD)), len(memory_BMD)
        started = False

        def next_logits(rows_N: Tensor, tokens_N: Tensor) -> Tensor:
            nonlocal started, rows
            if started and len(rows_N) != rows:  # more rows, but their order never changes
                past.select(torch.arange(len(rows_N)) * rows // len(rows_N))
            memory, started, rows = (None if started else memory_BMD), True, len(rows_N)
            return network(tokens_N[:, None], memory_BMD=memory, cache=past)[:, -1]

        return next_logits

    assert not captions.cached_search(not_reordered).holds
