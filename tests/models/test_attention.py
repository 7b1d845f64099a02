"""Attention: causality, documents, padding, rotary positions and the key-value cache."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers.networks import SMALL, build, tokens

from seedfast.errors import UserError
from seedfast.models.attention import rotary_table, rotate
from seedfast.models.attention_mask import NO_MASK, AttentionMask, with_padding
from seedfast.models.transformer import Transformer
from seedfast.models.transformer_network import TransformerNetwork

SHAPES = [
    Transformer(
        layers=2,
        heads=2,
        width=16,
        mlp=mlp,
        norm=norm,
        qk_norm=qk_norm,
        positions=positions,
        bias=bias,
        tied=tied,
    )
    for (mlp, norm, bias), qk_norm, positions, tied in itertools.product(
        [("relu2", "rms", False), ("swiglu", "layer", True), ("gelu", "layer", False)],
        [True, False],
        ["rope", "learned"],
        [True, False],
    )
]
NGRAMS = Transformer(layers=2, heads=2, width=16, ngrams=(97, 64, 32))
SHAPES.extend([NGRAMS, replace(NGRAMS, ngrams_in="layers")])
NAMES = [
    f"{c.mlp}-{c.norm}-qk{c.qk_norm:d}-{c.positions}-tied{c.tied:d}{f'-ngrams-{c.ngrams_in}' * bool(c.ngrams)}"
    for c in SHAPES
]


def future_moves_past(network: TransformerNetwork) -> float:
    """The largest change of the logits before position 5 when all tokens from there on change."""
    one_BL, other_BL = tokens(2, 12), tokens(2, 12, seed=2)
    other_BL[:, :5] = one_BL[:, :5]
    assert not torch.equal(network(one_BL)[:, 5:], network(other_BL)[:, 5:])
    return float((network(one_BL)[:, :5] - network(other_BL)[:, :5]).abs().max())


@pytest.mark.parametrize("config", SHAPES, ids=NAMES)
@torch.no_grad()
def test_a_causal_network_ignores_later_tokens(config: Transformer) -> None:
    assert future_moves_past(build(config)) == 0.0
    assert future_moves_past(build(config, causal=False)) > 1e-3  # the broken twin is caught


# Two documents: one at positions 0 to 5, one at 6 to 13.
DOCUMENTS = torch.tensor([[0] * 6 + [1] * 8])


def one_document_moves_the_other(network: TransformerNetwork, **inputs: Any) -> float:
    one_BL = tokens(1, 14)
    other_BL = one_BL.clone()
    other_BL[:, :6] = one_BL[:, [3, 5, 0, 4, 2, 1]]
    assert not torch.equal(one_BL, other_BL)
    return float((network(one_BL, **inputs)[:, 6:] - network(other_BL, **inputs)[:, 6:]).abs().max())


@pytest.mark.parametrize("ngrams", [(), (97, 32)], ids=["", "ngrams"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", ["rope", "learned"])
@torch.no_grad()
def test_permuting_a_document_leaves_the_logits_of_the_other_unchanged(
    causal: bool, positions: Any, ngrams: Any
) -> None:
    network = build(Transformer(layers=2, heads=2, width=16, positions=positions, ngrams=ngrams), causal=causal)
    assert one_document_moves_the_other(network, documents_BL=DOCUMENTS) == 0.0
    assert one_document_moves_the_other(network) > 1e-3  # the broken twin is caught


@pytest.mark.parametrize("ngrams", [(), (97, 32)], ids=["", "ngrams"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", ["rope", "learned"])
@torch.no_grad()
def test_packed_documents_have_the_logits_of_unpacked_ones(causal: bool, positions: Any, ngrams: Any) -> None:
    network = build(Transformer(layers=2, heads=2, width=16, positions=positions, ngrams=ngrams), causal=causal)
    x_BL = tokens(1, 14)
    restart_BL = torch.cat([torch.arange(6), torch.arange(8)])[None] if positions == "learned" else None
    packed_BLV = network(x_BL, documents_BL=DOCUMENTS, positions_BL=restart_BL)
    unpacked_BLV = torch.cat([network(x_BL[:, :6]), network(x_BL[:, 6:])], dim=1)
    torch.testing.assert_close(packed_BLV, unpacked_BLV, atol=1e-5, rtol=0)


def test_documents_need_not_be_contiguous() -> None:
    network, x_BL = build(), tokens(1, 8)
    documents_BL = torch.tensor([[0, 1] * 4])
    alone = network(x_BL[:, 1::2], positions_BL=torch.tensor([[1, 3, 5, 7]]))
    torch.testing.assert_close(network(x_BL, documents_BL=documents_BL)[:, 1::2], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("ngrams", [(), (97, 32)], ids=["", "ngrams"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_padding_on_either_side_leaves_the_logits_unchanged(causal: bool, positions: Any, ngrams: Any) -> None:
    network = build(Transformer(layers=2, heads=2, width=16, positions=positions, ngrams=ngrams), causal=causal)
    x_BL = tokens(1, 9)
    for real in ([False] * 3 + [True] * 9, [True] * 9 + [False] * 3):
        real_BL = torch.tensor([real])
        padded_BL = torch.zeros(1, 12, dtype=torch.int64).masked_scatter(real_BL, x_BL)
        padded_BLV = network(padded_BL, real_BL=real_BL)
        torch.testing.assert_close(padded_BLV[:, real_BL[0]], network(x_BL), atol=1e-5, rtol=0)
        assert padded_BLV.isfinite().all()
        padded_BLV.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_rotary_scores_depend_on_distance_only_and_are_a_rotation() -> None:
    rope_CP2 = rotary_table(64, 8).view(torch.float32)
    q, k = torch.randn(2, 1, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def score(i: int, j: int) -> float:
        return float((rotate(q, rope_CP2[None, i : i + 1]) * rotate(k, rope_CP2[None, j : j + 1])).sum())

    for shift in (1, 17, 50):
        assert score(3 + shift, 9 + shift) == pytest.approx(score(3, 9), abs=1e-5)
    assert abs(score(3, 10) - score(3, 9)) > 1e-3
    assert torch.equal(rotate(q, rope_CP2[None, :1]), q)
    assert rotate(q, rope_CP2[None, 5:6]).norm().item() == pytest.approx(q.norm().item(), abs=1e-6)


def test_a_batch_of_no_rows_is_rotated() -> None:
    """A process without rows of its own makes the same passes as the others, which share its weights."""
    nothing = torch.zeros(0, 3, 2, 2, 8)
    assert rotate(nothing, rotary_table(3, 8).view(torch.float32)[None]).shape == nothing.shape


def test_shifting_all_positions_changes_learned_embeddings_and_not_rotary_ones() -> None:
    x_BL, shifted_BL = tokens(2, 8), torch.arange(8, 16).expand(2, 8)
    rope = build()
    torch.testing.assert_close(rope(x_BL, positions_BL=shifted_BL), rope(x_BL), atol=1e-5, rtol=0)
    learned = build(Transformer(layers=2, heads=2, width=16, positions="learned"))
    assert not torch.allclose(learned(x_BL, positions_BL=shifted_BL), learned(x_BL), atol=1e-3)


@pytest.mark.parametrize("config", SHAPES, ids=NAMES)
@pytest.mark.parametrize("ragged", [False, True])
@torch.no_grad()
def test_cached_logits_equal_uncached_ones(config: Transformer, ragged: bool) -> None:
    network, x_BL = build(config), tokens(3, 14)
    lengths = [14, 9, 11] if ragged else [14, 14, 14]
    real_BL = torch.stack([torch.arange(14) >= 14 - n for n in lengths])
    cache = network.cache(3)
    pieces = []
    for start, end in ((0, 6), (6, 7), (7, 8), (8, 11), (11, 14)):  # prefill, single tokens, several at once
        given = {"real_BL": real_BL[:, start:end]} if ragged and start == 0 else {}
        pieces.append(network(x_BL[:, start:end], cache=cache, **given))
    cached_BLV = torch.cat(pieces, dim=1)
    assert cache.length == 14
    for row, n in enumerate(lengths):  # each row alone, without padding and without a cache
        alone = network(x_BL[row : row + 1, 14 - n :])
        torch.testing.assert_close(cached_BLV[row : row + 1, 14 - n :], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_cached_logits_equal_uncached_ones_with_time_and_memory() -> None:
    network = build(time_conditioned=True, memory_width=5)
    x_BL, time_B, memory_BMD = tokens(2, 10), torch.rand(2), torch.randn(2, 4, 5)
    mask_BM = torch.tensor([[True, True, False, True], [True, False, False, False]])
    whole = network(x_BL, time_B=time_B, memory_BMD=memory_BMD, memory_mask_BM=mask_BM)
    cache = network.cache(2, 10)
    first = network(x_BL[:, :6], time_B=time_B, memory_BMD=memory_BMD, memory_mask_BM=mask_BM, cache=cache)
    then = network(x_BL[:, 6:], time_B=time_B, cache=cache)  # the cache holds the memory and its mask
    torch.testing.assert_close(torch.cat([first, then], dim=1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [SMALL, SHAPES[-1]], ids=["plain", "ngrams"])
@torch.no_grad()
def test_selected_rows_of_a_cache_continue_as_before(config: Transformer) -> None:
    network = build(config, memory_width=5)
    x_BL, memory_BMD, rows_B = tokens(3, 10), torch.randn(3, 4, 5), torch.tensor([2, 0, 2])
    cache = network.cache(3)
    real_BL = torch.stack([torch.arange(6) >= n for n in (0, 2, 3)])
    network(x_BL[:, :6], memory_BMD=memory_BMD, real_BL=real_BL, cache=cache)
    cache.select(rows_B)
    then = network(x_BL[rows_B, 6:], cache=cache)
    real_BL = torch.cat([real_BL[rows_B], torch.ones(3, 4, dtype=torch.bool)], dim=1)
    whole = network(x_BL[rows_B], memory_BMD=memory_BMD[rows_B], real_BL=real_BL)
    torch.testing.assert_close(then, whole[:, 6:], atol=1e-5, rtol=0)


def test_a_full_cache_refuses_more_tokens() -> None:
    network = build()
    cache = network.cache(1, 4)
    network(tokens(1, 3), cache=cache)
    with pytest.raises(UserError, match="5 tokens is longer than the 4 positions of this cache"):
        network(tokens(1, 2), cache=cache)


@pytest.mark.parametrize("config", [SMALL, SHAPES[-1]], ids=["plain", "ngrams"])
@torch.no_grad()
def test_a_truncated_cache_continues_from_the_tokens_that_remain(config: Transformer) -> None:
    network, x_BL = build(config), tokens(2, 8)
    cache = network.cache(2)
    network(x_BL[:, :6], cache=cache)
    cache.truncate(4)
    torch.testing.assert_close(network(x_BL[:, 4:], cache=cache), network(x_BL)[:, 4:], atol=1e-5, rtol=0)
    padded = network.cache(2)
    network(x_BL[:, :6], real_BL=torch.arange(6).expand(2, 6) > 0, cache=padded)
    with pytest.raises(AssertionError, match="padded"):
        padded.truncate(4)


def test_an_attention_mask_is_a_tensor_only_where_the_kernel_needs_one() -> None:
    device = torch.device("cpu")
    assert AttentionMask.of_documents(None, length=4, causal=False, device=device) == NO_MASK
    assert AttentionMask.of_documents(None, length=4, causal=True, device=device) == AttentionMask(is_causal=True)
    assert AttentionMask.of_documents(None, length=1, causal=True, device=device, cached=3) == NO_MASK
    several = AttentionMask.of_documents(None, length=2, causal=True, device=device, cached=1)
    assert several.allowed is not None
    assert several.allowed.tolist() == [[[[True, True, False], [True, True, True]]]]


def test_document_masks_separate_documents_and_padding() -> None:
    documents_BL = with_padding(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[True, True, True, False]]))
    assert documents_BL is not None
    mask = AttentionMask.of_documents(documents_BL, length=4, causal=True, device=torch.device("cpu"))
    assert mask.allowed is not None
    assert mask.allowed[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert torch.equal(mask.additive() == 0, mask.allowed)
    assert with_padding(None, None) is None


def test_block_masks_show_clean_tokens_of_earlier_blocks_and_noisy_ones_of_the_own_block() -> None:
    mask = AttentionMask.of_blocks(4, 2, None, torch.device("cpu"))
    assert mask.allowed is not None
    clean, noisy = mask.allowed[0, 0].int().tolist()[:4], mask.allowed[0, 0].int().tolist()[4:]
    assert clean == [[1, 1, 0, 0, 0, 0, 0, 0]] * 2 + [[1, 1, 1, 1, 0, 0, 0, 0]] * 2
    assert noisy == [[0, 0, 0, 0, 1, 1, 0, 0]] * 2 + [[1, 1, 0, 0, 0, 0, 1, 1]] * 2
