"""Embeddings of n-grams: what they read, that they begin as nothing, and runs that were stored before they existed."""

from dataclasses import asdict, replace

import pytest
import torch
from tests.helpers.networks import SMALL, build, scramble, tokens

from seedfast.errors import UserError
from seedfast.loop.plain_config import from_mapping
from seedfast.models.dit import DiT
from seedfast.models.ngrams import NGramEmbedding
from seedfast.models.transformer import Transformer

NGRAMS = Transformer(layers=2, heads=2, width=16, ngrams=(97, 64, 32))
IN_LAYERS = replace(NGRAMS, layers=3, ngrams_in="layers")
PLACES = pytest.mark.parametrize("config", [NGRAMS, IN_LAYERS], ids=["embedding", "layers"])


def embedding() -> NGramEmbedding:
    made = NGramEmbedding(rows=(10_007, 10_007), vocabulary=11, width=12)
    for number, table in enumerate(made.tables):
        torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(number))
    return made


@torch.no_grad()
def test_a_position_reads_its_token_and_the_two_before_and_nothing_else() -> None:
    made, x_BL = embedding(), tokens(1, 9)
    before = made(x_BL, made.preceding(x_BL))
    for changed in range(9):
        other_BL = x_BL.clone()
        other_BL[0, changed] = (x_BL[0, changed] + 1) % 11
        differs_L = (made(other_BL, made.preceding(other_BL)) != before).any(dim=-1)[0]
        assert differs_L.nonzero().flatten().tolist() == [at for at in range(changed, changed + 3) if at < 9]


@torch.no_grad()
def test_the_order_of_tokens_counts_and_so_does_the_beginning_of_the_text() -> None:
    made = embedding()
    x_BL = torch.tensor([[1, 2, 3], [2, 1, 3], [3, 2, 1], [0, 1, 2]])
    found_BW = made(x_BL, made.preceding(x_BL))[:, -1]
    assert len(found_BW.unique(dim=0)) == 4
    first = torch.tensor([[1]])
    assert not torch.equal(made(first, made.preceding(first))[0, 0], made(x_BL[3:], made.preceding(x_BL[3:]))[0, 1])


def test_ngrams_are_spread_over_the_rows() -> None:
    """Of N n-grams in N rows, a random hash leaves 1/e of the rows empty."""
    rows = 1 << 14
    made = NGramEmbedding(rows=(rows,), vocabulary=128, width=4)
    torch.nn.init.ones_(made.read.weight)
    pairs_BL = torch.cartesian_prod(torch.arange(128), torch.arange(128))
    made.tables[0].weight.data.copy_(torch.arange(rows)[:, None])  # type: ignore[union-attr, operator]
    found = made(pairs_BL, made.preceding(pairs_BL))[:, 1, 0]
    assert len(found.unique()) / rows == pytest.approx(1 - 2.718281828**-1, abs=0.02)


@torch.no_grad()
def test_a_new_table_changes_no_logit_and_is_trained_from_the_first_step_on() -> None:
    plain, with_ngrams = (
        config.build(vocabulary=11, context=16, causal=True)
        for config in (SMALL, Transformer(**{**vars(SMALL), "ngrams": (97,)}))
    )
    scramble(plain)
    weights = dict(plain.state_dict())
    with_ngrams.load_state_dict(weights, strict=False)
    x_BL = tokens(2, 12)
    assert torch.equal(plain(x_BL), with_ngrams.eval()(x_BL))
    with torch.enable_grad():
        with_ngrams(x_BL).square().sum().backward()
    assert with_ngrams.ngrams is not None
    gradient = with_ngrams.ngrams.tables[0].weight.grad
    assert isinstance(gradient, torch.Tensor)
    assert bool(gradient.any())


@PLACES
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_the_decode_step_has_the_logits_of_the_network(padded: bool, config: Transformer) -> None:
    network, x_BL = build(config), tokens(3, 10)
    real_BL = torch.tensor([[at >= (0, 2, 4)[row] * padded for at in range(10)] for row in range(3)])
    expected_BLV = network(x_BL, real_BL=real_BL)
    cache, read = network.cache(3), network.reader()
    if padded:
        network(x_BL[:, :5], cache=cache, real_BL=real_BL[:, :5])
    else:
        torch.testing.assert_close(read(x_BL[:, :5], cache), expected_BLV[:, 4], atol=1e-5, rtol=0)
    for at in range(5, 10):
        torch.testing.assert_close(read(x_BL[:, at : at + 1], cache), expected_BLV[:, at], atol=1e-5, rtol=0)


@PLACES
@torch.no_grad()
def test_a_block_in_training_reads_what_it_reads_when_it_is_generated(config: Transformer) -> None:
    """Noisy tokens of their own block, and clean tokens of the blocks before it."""
    network = build(config, causal=False, block=4)
    noisy_BL, clean_BL = tokens(2, 12), tokens(2, 12, seed=5)
    trained_BLV = network(noisy_BL, clean_BL=clean_BL)
    cache = network.cache(2, 12)
    for start in range(0, 12, 4):
        here = slice(start, start + 4)
        generated_BLV = network(noisy_BL[:, here], cache=cache)
        torch.testing.assert_close(generated_BLV, trained_BLV[:, here], atol=1e-5, rtol=0)
        cache.truncate(start)
        network(clean_BL[:, here], cache=cache)


@torch.no_grad()
def test_every_later_block_adds_the_ngrams_through_a_matrix_of_its_own() -> None:
    """The hidden states are those of a network whose embedding has them, and whose blocks receive them by a hook."""
    network, x_BL = build(IN_LAYERS), tokens(2, 12)
    expected_BLV = network(x_BL)
    assert network.ngrams is not None
    found_BLG = network.ngrams.look_up(x_BL, network.ngrams.preceding(x_BL))
    first, *later = network.blocks
    assert first.ngrams is None
    weights = [block.ngrams.weight for block in later]
    for block in later:
        block.ngrams = None
    assert not torch.allclose(network(x_BL), expected_BLV)
    for block, weight in zip(later, weights, strict=True):
        block.register_forward_pre_hook(
            lambda _, inputs, weight=weight: (inputs[0] + found_BLG @ weight.T, *inputs[1:])
        )
    torch.testing.assert_close(network(x_BL), expected_BLV)


def test_the_matrices_of_later_blocks_begin_as_zeros_and_are_trained_once_the_tables_are() -> None:
    network = IN_LAYERS.build(vocabulary=11, context=16, causal=True)
    matrices = [block.ngrams.weight for block in list(network.blocks)[1:]]
    assert not any(matrix.any() for matrix in matrices)
    assert network.ngrams is not None
    for table in network.ngrams.tables:
        torch.nn.init.ones_(table.weight)
    torch.nn.init.normal_(network.head.weight)
    network(tokens(2, 12)).square().sum().backward()
    assert all(matrix.grad is not None and matrix.grad.any() for matrix in matrices)


def test_a_configuration_stored_before_the_options_existed_has_no_ngrams() -> None:
    stored = asdict(SMALL)
    del stored["ngrams"], stored["ngrams_in"]
    assert from_mapping(IN_LAYERS, stored, where="run.yaml") == SMALL
    assert from_mapping(IN_LAYERS, {**stored, "ngrams": [97]}, where="run.yaml").ngrams_in == "embedding"
    assert from_mapping(NGRAMS, {"layers": 3}, where="own.yaml").ngrams == NGRAMS.ngrams, "not a stored configuration"


def test_ngrams_without_an_effect_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.body\.ngrams"):
        DiT(body=Transformer(ngrams=(8,)))
    with pytest.raises(UserError, match="every block but the first"):
        Transformer(layers=1, ngrams=(8,), ngrams_in="layers")
    with pytest.raises(UserError, match="no effect without"):
        Transformer(ngrams_in="layers")
    with pytest.raises(UserError, match="at least 1"):
        Transformer(ngrams=(8, 0))
