"""What reads prompts and tokens in generation gives the logits of the network, for every architecture and padding."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from seedfast.errors import UserError
from seedfast.models.decode_step import DecodeStep
from seedfast.models.transformer import Transformer
from seedfast.models.transformer_network import TransformerNetwork

V, C = 13, 12
SMALL = Transformer(layers=2, heads=2, width=16)


def network(config: Transformer) -> TransformerNetwork:
    """A network of which every weight and bias matters."""
    torch.manual_seed(1)
    made = config.build(vocabulary=V, context=C, causal=True).eval()
    assert isinstance(made, TransformerNetwork)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    return made


def tokens(rows: int) -> Tensor:
    return torch.randint(0, V, (rows, C), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def by_steps(network: TransformerNetwork, tokens_BL: Tensor, read: int, real_BL: Tensor | None = None) -> Tensor:
    """The logits after each token from number `read` on, [B, L - read, V]: `read` tokens at once, then one by one."""
    cache, read_on = network.cache(len(tokens_BL)), network.reader()
    assert isinstance(read_on, DecodeStep)
    if real_BL is None:
        begun_BV = read_on(tokens_BL[:, :read], cache)
        torch.testing.assert_close(begun_BV, network(tokens_BL[:, :read])[:, -1], rtol=1e-4, atol=1e-4)
    else:
        network(tokens_BL[:, :read], cache=cache, real_BL=real_BL[:, :read])
    return torch.stack([read_on(tokens_B1, cache) for tokens_B1 in tokens_BL[:, read:].split(1, dim=1)], dim=1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": False},
        {"positions": "learned"},
        {"mlp": "relu2", "bias": True},
        {"mlp": "gelu"},
        {"mlp": "gelu-erf", "bias": True},
        {"norm": "layer", "bias": True},
        {"norm": "layer", "tied": True},
        {"norm": "layer", "qk_norm": False, "positions": "learned", "mlp": "gelu-erf", "tied": True},
    ],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_logits_are_those_of_the_network(changes: dict[str, Any], rows: int) -> None:
    made, tokens_BL = network(replace(SMALL, **changes)), tokens(rows)
    with torch.no_grad():
        expected = made(tokens_BL)[:, 4:]
    torch.testing.assert_close(by_steps(made, tokens_BL, 4), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_rows_of_unequal_length_have_the_logits_that_they_have_alone(positions: Any) -> None:
    made, tokens_BL = network(replace(SMALL, positions=positions)), tokens(3)
    real_BL = torch.arange(C) >= torch.tensor([[0], [2], [3]])
    found = by_steps(made, tokens_BL, 4, real_BL)
    for row, padding in enumerate((0, 2, 3)):
        with torch.no_grad():
            alone = made(tokens_BL[row : row + 1, padding:])[:, 4 - padding :]
        torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("read", [1, 2, C])
def test_a_prompt_of_any_length_is_read_at_once(read: int) -> None:
    made, tokens_BL = network(SMALL), tokens(2)
    cache = made.cache(2)
    found = made.reader()(tokens_BL[:, :read], cache)
    with torch.no_grad():
        torch.testing.assert_close(found, made(tokens_BL[:, :read])[:, -1], rtol=1e-4, atol=1e-4)
    other = made.cache(2)
    with torch.no_grad():
        made(tokens_BL[:, :read], cache=other)
    torch.testing.assert_close(cache.pairs_NBPCD, other.pairs_NBPCD, rtol=1e-4, atol=1e-4)
    assert cache.length == other.length == read
    assert torch.equal(cache.next_B, other.next_B)


def test_the_weights_of_the_network_stay_as_they_are() -> None:
    made = network(SMALL)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    by_steps(made, tokens(2), 4)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_a_full_cache_takes_no_token() -> None:
    made = network(SMALL)
    cache, read = made.cache(1, 1), made.reader()
    read(torch.tensor([[1]]), cache)
    with pytest.raises(UserError, match="no room for more than 1 token\\."):
        read(torch.tensor([[1]]), cache)


def test_several_tokens_are_read_into_an_empty_cache_alone() -> None:
    made = network(SMALL)
    cache, read = made.cache(1), made.reader()
    read(torch.tensor([[1, 2]]), cache)
    with pytest.raises(AssertionError, match="empty cache"):
        read(torch.tensor([[1, 2]]), cache)


def test_rows_that_are_kept_go_on_as_before() -> None:
    made, tokens_BL = network(SMALL), tokens(3)
    kept = torch.tensor([2, 0])
    cache, read = made.cache(3), made.reader()
    with torch.no_grad():
        made(tokens_BL[:, :4], cache=cache)
        cache.select(kept)
        found = read(tokens_BL[kept, 4:5], cache)
        torch.testing.assert_close(found, made(tokens_BL[kept, :5])[:, 4], rtol=1e-4, atol=1e-4)
