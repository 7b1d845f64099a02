"""Frames of the samplers of text: what they show is what the sampler did, and filming changes no token."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seedfast import keys, recipes
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Bytes, Characters
from seedfast.families.film import OPEN, TextFrame, pieces
from seedfast.families.text.request import TextSamples
from seedfast.keys import Draws
from seedfast.models.transformer import Transformer

LETTERS, CONTEXT = "abcdefgh ", 16
TEXTS = ("text-autoregressive", "text-masked", "text-block", "text-proofreading", "text-embedding")
EVALUATIONS = {"text-masked": 6, "text-block": CONTEXT - 2, "text-proofreading": 16 + 48, "text-embedding": 2 * 4}
"""A block is written whole; embedding diffusion is guided by the given text."""


def samples(recipe: str, tokenizer: Any = None, **options: Any) -> TextSamples:
    """Samples of a network with random weights: `ab` and six more tokens, unless the options say otherwise."""
    assets = TextAssets(tokenizer or Characters(LETTERS), CONTEXT, validation_tokens=1, validation_bytes=1)
    family = recipes.make(recipe).objective.build(assets)
    keys.seed_torch(0, "test")
    network = family.objective.network(Transformer(layers=1, heads=2, width=16)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    generator: Any = family.generator
    base = {"prompt": ("ab",), "tokens": 6} if "infill" not in options else {}
    base |= {"steps": 4} if recipe == "text-embedding" else {}
    request = generator.Request(**{**base, **options})
    draws = Draws(seed=1, scope="sample", positions_B=torch.arange(request.count), group=request.count)
    found: TextSamples = generator.generate(network, request, draws, family.initial_state())
    return found


@pytest.mark.parametrize("recipe", TEXTS)
def test_filming_changes_no_token_and_ends_with_the_text(recipe: str) -> None:
    plain, filmed = samples(recipe, num=3), samples(recipe, num=3, trace=True)
    assert filmed.tokens == plain.tokens
    assert not plain.films
    for film, text in zip(filmed.films, plain.texts, strict=True):
        assert film[-1].text.startswith(text), "a text may end before the last position"
        assert not film[-1].open
        assert [frame.number for frame in film] == list(range(len(film)))
        assert [cell.state for cell in film[0].cells][:3] == ["given", "given", "open"]


@pytest.mark.parametrize("recipe", TEXTS)
def test_frames_count_every_evaluation_of_the_network(recipe: str) -> None:
    (film,) = samples(recipe, trace=True).films
    counts = [frame.evaluations for frame in film]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == EVALUATIONS.get(recipe, len(film) - 1)


@pytest.mark.parametrize("recipe", ["text-masked", "text-autoregressive"])
def test_the_probability_of_a_cell_is_that_by_which_its_token_was_drawn(recipe: str) -> None:
    found = samples(recipe, trace=True, explain=True)
    cells = found.films[0][-1].cells
    for choice in found.choices[0]:
        if choice.kept:
            assert cells[choice.place].probability == pytest.approx(math.exp(choice.log_prob))
            assert cells[choice.place].since == choice.step + 1
    assert [cell.probability for cell in cells[:2]] == [None, None], "given text was not drawn"


def test_embedding_diffusion_has_probabilities_too() -> None:
    frame = samples("text-embedding", trace=True).films[0][-1]
    assert all(0 < (cell.probability or 0) <= 1 for cell in frame.cells[2:])
    assert frame.entropy is not None
    assert 0 < frame.entropy < math.log(len(LETTERS) + 1)


def test_the_entropy_of_a_frame_is_the_mean_over_the_tokens_that_it_wrote() -> None:
    found = samples("text-masked", trace=True, explain=True, steps=2)
    for frame in found.films[0][1:]:
        entropies = [choice.entropy for choice in found.choices[0] if choice.step + 1 == frame.number]
        assert len(entropies) == 3
        assert frame.entropy == pytest.approx(sum(entropies) / 3)


def test_words_that_are_masked_again_are_told_from_those_that_were_never_written() -> None:
    film = samples("text-proofreading", trace=True, passes=4).films[0]
    again = [sum(map(frame.is_remasked, frame.cells)) for frame in film]
    assert again[0] == 0
    assert sum(again) > 0
    for before, frame in pairwise(film):
        for old, new in zip(before.cells, frame.cells, strict=True):
            assert frame.is_remasked(new) == (old.state == "written" and new.state == "open")


def test_an_infill_of_an_autoregressive_model_shows_only_the_chosen_candidate() -> None:
    found = samples("text-autoregressive", infill="ab<gap:3>cd<gap:2>e", trace=True)
    (film,) = found.films
    assert film[0].text == f"ab{OPEN * 3}cd{OPEN * 2}e"
    assert len(film) == 3
    assert film[-1].text == found.texts[0]


def test_the_first_sample_is_passed_on_while_it_is_generated() -> None:
    seen: list[TextFrame] = []
    found = samples("text-masked", num=2, trace=True, on_frame=seen.append)
    assert tuple(seen) == found.films[0]
    assert samples("text-masked", num=2, on_frame=seen.append).tokens == found.tokens


def test_a_part_of_a_character_is_shown_with_the_byte_that_completes_it() -> None:
    film = samples("text-autoregressive", Bytes(), prompt=("é→",), trace=True).films[0]
    assert [cell.text for cell in film[0].cells[:5]] == ["", "é", "", "", "→"]
    assert all(frame.text == Bytes().decode(list("é→".encode())) + frame.text[2:] for frame in film)


@given(st.lists(st.integers(0, 255), max_size=12) | st.text(max_size=6).map(lambda text: list(text.encode())))
def test_pieces_are_the_whole_text(tokens: list[int]) -> None:
    decode = Bytes().decode
    prefix = (decode(tokens[: size + 1]) for size in range(len(tokens)))
    found = pieces([decode([token]) for token in tokens], decode(tokens), prefix)
    assert len(found) == len(tokens)
    assert "".join(found) == (decode(tokens) if tokens else "")


def test_a_frame_without_its_given_text_keeps_its_numbers() -> None:
    frame = samples("text-masked", trace=True).films[0][1]
    rest = frame.after(2)
    assert (rest.evaluations, rest.entropy, rest.open) == (frame.evaluations, frame.entropy, frame.open)
    assert rest == replace(frame, cells=frame.cells[2:])
