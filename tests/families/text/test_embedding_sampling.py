"""Sampling from embedding diffusion: fixed text, samplers, guidance, prompts and lengths."""

from typing import Any

import pytest
import torch
from tests.helpers.embedding import (
    LENGTH,
    canvas_of,
    draws_of,
    fill_texts,
    new_network,
    random_network,
    small_family,
    small_generator,
    small_objective,
)
from torch import Tensor

from seedfast.errors import UserError
from seedfast.families.text.embedding import EmbeddingNetwork, EmbeddingObjective
from seedfast.families.text.embedding.generator import with_drawn_lengths
from seedfast.families.text.embedding.sampling import CanvasBatch, Denoiser, EmbeddingRequest, sample_vectors
from seedfast.families.text.request import Canvas

TEXTS = ["............", "abc....", "ab...cd..e"]


def denoiser_of(
    objective: EmbeddingObjective, network: EmbeddingNetwork, canvases: list[Canvas], request: EmbeddingRequest
) -> Denoiser:
    """The denoiser of these canvases, on the CPU."""
    batch = CanvasBatch.of(canvases, network.shape, objective.assets.tokenizer, torch.device("cpu"))
    return Denoiser(network, batch, request)


@pytest.mark.parametrize("prediction", ["tokens", "x0", "eps", "v"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++2m", "dpm++2s", "heun"])
def test_fixed_tokens_stay_and_text_does_not_end_in_a_gap(prediction: str, sampler: str) -> None:
    family = small_family(prediction=prediction)
    for found, text in zip(fill_texts(family, TEXTS * 3, sampler=sampler), TEXTS * 3, strict=True):
        assert len(found) == len(text) or ("e" not in text and len(found) < len(text))
        assert all(letter in (".", written) for letter, written in zip(text, found, strict=False))


def test_a_sample_does_not_depend_on_the_others_of_its_batch() -> None:
    family = small_family()
    alone = fill_texts(family, TEXTS[:1])
    assert fill_texts(family, TEXTS)[:1] == alone
    together = fill_texts(family, ["............", "abc.........", "abc...."])
    assert together[2] == fill_texts(family, ["............", "abc.........", "abc....", "abcdefgh...."])[2]


def test_every_option_of_a_request_has_an_effect() -> None:
    family = small_family()
    base = fill_texts(family, ["abc........."] * 8, eta=0.0)
    for options in ({"steps": 3}, {"spacing": "linspace"}, {"guidance": 4.0}, {"guidance": 0.0}, {"clamp": True},
                    {"temperature": 0.2}, {"top_k": 2}, {"top_p": 0.5}):  # fmt: skip
        assert fill_texts(family, ["abc........."] * 8, eta=0.0, **options) != base, options
    for options in ({"sampler": "ddpm"}, {"sampler": "heun"}, {"sampler": "dpm++2m"}, {"sampler": "dpm++2s"},
                    {"eta": 0.5}, {}):  # fmt: skip
        assert fill_texts(family, ["abc........."] * 8, **options) != base, options


def test_given_text_guides_by_default_where_the_model_was_trained_without_it_too() -> None:
    options = (EmbeddingRequest(), EmbeddingRequest(prompt=("abc",)), EmbeddingRequest(prompt=("abc",), guidance=3.0))
    assert [small_generator().decoding(each) for each in options] == [
        "ddim with η = 1 in 50 steps, 50 network evaluations, temperature 1",
        "ddim with η = 1 in 50 steps, guidance 2, 100 network evaluations, temperature 1",
        "ddim with η = 1 in 50 steps, guidance 3, 100 network evaluations, temperature 1",
    ]
    without = small_generator(condition_dropout=0.0)
    assert "guidance 1, 50 network evaluations" in without.decoding(options[1])


def test_guidance_of_one_or_with_equal_branches_changes_nothing() -> None:
    objective = small_objective(prompt=4)
    network = random_network(objective)
    x_BLD = draws_of(2).normal("x", LENGTH, 8)
    level = network.schedule.level(torch.tensor(0.5).double())

    def estimate(text: str, guidance: float) -> tuple[Tensor, int]:
        denoiser = denoiser_of(objective, network, [canvas_of(text)] * 2, EmbeddingRequest(guidance=guidance))
        return denoiser(x_BLD, level).detach(), denoiser.evaluations

    prompted, blank = "abc" + "." * LENGTH, "." * LENGTH
    assert estimate(prompted, 1.0)[1] == estimate(prompted, 0.0)[1] == 1
    assert estimate(prompted, 2.0)[1] == 2
    assert torch.equal(estimate(blank, 3.0)[0], estimate(blank, 1.0)[0])
    assert torch.equal(estimate(prompted, 0.0)[0], estimate(blank, 1.0)[0]), "no prompt is the null prompt"
    u, c, w = (estimate(prompted, scale)[0] for scale in (0.0, 1.0, 3.0))
    assert torch.allclose(w, u + 3 * (c - u), atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++2m", "heun"])
def test_a_sampler_ends_with_x0_and_not_at_the_first_noise_level(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = small_objective()
    network = new_network(objective).eval()
    estimates: list[Tensor] = []
    original = Denoiser.__call__

    def remember(self: Denoiser, *inputs: Any) -> Tensor:
        estimates.append(original(self, *inputs))
        return estimates[-1]

    monkeypatch.setattr(Denoiser, "__call__", remember)
    request = EmbeddingRequest(sampler=sampler, steps=5)  # type: ignore[arg-type]
    canvases = small_generator().canvases(request) * 3
    with torch.no_grad():
        *_, last_BLD = sample_vectors(denoiser_of(objective, network, canvases, request), draws_of(3), 12)
    # DPM-Solver++ extrapolates x0 from the last two estimates, unless its last step is infinitely long.
    assert torch.allclose(last_BLD.float(), estimates[-1].float(), atol=1e-4)


def test_top_k_needs_a_distribution() -> None:
    with pytest.raises(UserError, match="predicts vectors"):
        fill_texts(small_family(prediction="eps"), ["..."], top_k=3)


# ---- prompts and lengths --------------------------------------------------------------------------------------


def test_a_prompt_takes_no_room_in_the_window() -> None:
    generator = small_generator(prompt=4)
    (canvas,) = generator.canvases(EmbeddingRequest(prompt=("abc",)))
    assert len(canvas.tokens_L) == 3 + LENGTH
    assert generator.window(5) == (4, LENGTH)
    assert small_generator().window(5) == (5, LENGTH - 5)


def test_lengths_are_drawn_before_the_text_and_leave_room_for_the_prompt() -> None:
    generator = small_generator(padded=True)
    always_five_L = torch.full((LENGTH,), -1e9).index_fill(0, torch.tensor([4]), 0.0)
    for prompt, length in {"": 5, "abc": 5, "abcde": LENGTH}.items():  # impossible lengths have probability zero
        canvases = generator.canvases(EmbeddingRequest(prompt=(prompt,)))
        cut = with_drawn_lengths(canvases * 50, always_five_L, draws_of(50))
        if length == 5:
            assert {len(canvas.tokens_L) for canvas in cut} == {5}
        assert all(canvas.tokens_L[: len(prompt)].equal(canvases[0].tokens_L[: len(prompt)]) for canvas in cut)
    canvases = small_generator(prompt=4, padded=True).canvases(EmbeddingRequest(prompt=("abc",)))
    cut = with_drawn_lengths(canvases * 9, always_five_L, draws_of(9))
    assert {len(canvas.tokens_L) for canvas in cut} == {3 + 5}


def test_lengths_are_drawn_with_their_probabilities() -> None:
    lengths_L = torch.randn(LENGTH, generator=torch.Generator().manual_seed(0))
    canvases = small_generator(padded=True).canvases(EmbeddingRequest()) * 4000
    cut = with_drawn_lengths(canvases, lengths_L, draws_of(4000))
    drawn = torch.tensor([len(canvas.tokens_L) for canvas in cut])
    found_L = torch.bincount(drawn - 1, minlength=LENGTH) / 4000
    assert float((found_L - lengths_L.softmax(dim=0)).abs().max()) < 0.03


def test_generation_draws_the_length_unless_the_request_sets_it() -> None:
    objective, generator = small_objective(padded=True), small_generator(padded=True)
    network = random_network(objective)
    assert network.lengths is not None
    with torch.no_grad():
        network.lengths.copy_(torch.full((LENGTH,), -1e9).index_fill(0, torch.tensor([4]), 0.0))
        network.frequency[objective.end_of_text] = -1e9  # texts do not end early
    for options, length in (({}, 5), ({"tokens": 9}, 9), ({"infill": "ab<gap:4>c"}, 7)):
        request = EmbeddingRequest(num=3, steps=4, **options)  # type: ignore[arg-type]
        samples = generator.generate(network, request, draws_of(3, "sample"), {})
        assert {len(tokens) for tokens in samples.tokens} == {length}
