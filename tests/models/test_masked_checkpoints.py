"""Checkpoints of masked models are recognised, and their special symbols found."""

from typing import Any

import pytest

from seedfast.errors import UserError
from seedfast.models.masked_checkpoints import masked_model, special_symbols


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "diffusion"}, "model_type diffusion"),
        ({"model_type": "llada"}, "model_type llada"),
        ({"model_type": "gpt2", "mask_token_id": 30}, "mask_token_id 30"),
        ({"mask_token_id": 0}, "mask_token_id 0"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "architecture BertForMaskedLM"),
        ({"model_type": "x", "architectures": ["GPTDiffusion"]}, "architecture GPTDiffusion"),
        ({"model_type": "gpt2", "is_causal": False}, "is_causal false"),
    ],
    ids=str,
)
def test_a_configuration_shows_a_masked_model(config: dict[str, Any], words: str) -> None:
    assert masked_model(config) == words


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "gpt2"},
        {"model_type": "gpt2", "mask_token_id": None},
        {"model_type": "xlm", "mask_token_id": 5},
    ],
    ids=str,
)
def test_a_causal_model_is_none(config: dict[str, Any]) -> None:
    assert masked_model(config) is None


@pytest.mark.parametrize(
    ("config", "size", "expected"),
    [
        ({"mask_token_id": 30}, 31, {"mask": 30}),
        ({"model_type": "diffusion"}, 31, {"mask": 30}),
        ({"mask_token_id": 30}, 32, {"mask": 30, "wrong": 31}),
        ({"mask_token_id": 30, "wrong_token_id": 31}, 32, {"mask": 30, "wrong": 31}),
        ({"mask_token_id": 32}, 34, {"delete": 30, "insert": 31, "mask": 32, "wrong": 33}),
    ],
    ids=str,
)
def test_special_symbols_follow_from_the_number_of_words(
    config: dict[str, Any], size: int, expected: dict[str, int]
) -> None:
    assert special_symbols(config, size=size, words=30, exact=True) == expected


@pytest.mark.parametrize(
    ("config", "size"),
    [({"mask_token_id": 27}, 28), ({"mask_token_id": 32}, 33), ({}, 35), ({"mask_token_id": 40}, 33)],
)
def test_words_of_another_model_are_refused(config: dict[str, Any], size: int) -> None:
    with pytest.raises(UserError, match="trained on other tokens"):
        special_symbols(config, size=size, words=30, exact=True)


def test_padding_may_lie_between_subwords_and_symbols() -> None:
    config = {"mask_token_id": 50305, "wrong_token_id": 50306}
    found = special_symbols(config, size=50307, words=50257, exact=False)
    assert found == {"mask": 50305, "wrong": 50306}
