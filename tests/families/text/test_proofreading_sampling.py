"""Sampling: which words each policy doubts, its number of evaluations, and that fixed words and lengths stay."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.helpers.proofreading import LENGTH, WORDS, FixedLogits, arbitrary, batch, draws, generator, objective
from torch import Tensor
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.families.text.proofreading.corruption import UNMASK, Symbols
from seedfast.families.text.proofreading.generator import self_score
from seedfast.families.text.proofreading.sampling import (
    DRAFT_STEPS,
    PASSES,
    ProofreadingRequest,
    doubted,
    moved,
    stretches,
)
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_step import MaskedPage

VERSIONS = ("mask", "mask-wrong", "edit")
REQUESTS: dict[str, dict[str, Any]] = {
    "default": {},
    "fill": {"passes": 0},
    "cosine": {"steps": 2, "passes": 6},
    "linear": {"steps": 1, "passes": 5, "remask": "linear", "remask_rate": 0.9},
    "constant": {"steps": 3, "passes": 4, "remask": "constant", "remask_rate": 1.0},
    "usual thresholds": {"steps": 1, "remask": "threshold"},
    "thresholds": {"steps": 2, "remask": "threshold", "thresholds": (0.5, 0.9, 0.2)},
    "sampled": {"steps": 1, "passes": 7, "remask": "sampled"},
    "remdm, then passes": {"steps": 4, "order": "ancestral", "remdm": 0.5, "passes": 2},
}
CANVASES = {
    "nothing": {},
    "completion": {"prompt": ("abc", "fade", "")},
    "infill": {"infill": "ab<gap:4>cde<gap:3>fa"},
}


CASES = [
    # Each request with each version and each canvas; all combinations are slow.
    pytest.param(
        version, CANVASES[canvas], options, id=f"{version}-{canvas}-{request}",
        marks=[] if (number + number_of_canvas - number_of_version) % 3 == 0 else [pytest.mark.slow],
    )
    for number, (request, options) in enumerate(REQUESTS.items())
    for number_of_version, version in enumerate(VERSIONS)
    for number_of_canvas, canvas in enumerate(CANVASES)
]  # fmt: skip


@pytest.mark.parametrize(("version", "wanted", "options"), CASES)
def test_finished_texts_are_words_and_fixed_tokens_stay(
    version: str, wanted: dict[str, Any], options: dict[str, Any]
) -> None:
    built = generator(version)
    request = ProofreadingRequest(**wanted, **options, num=5, trace=True)
    network = arbitrary(built.symbols.answers)
    samples = built.generate(network, request, draws(request.count), {})
    canvases = [canvas for canvas in built.canvases(request) for _ in range(request.num)]
    for tokens, canvas, text in zip(samples.tokens, canvases, samples.texts, strict=True):
        assert len(tokens) <= len(canvas.tokens_L)
        fixed = canvas.fixed_L[: len(tokens)]
        assert torch.equal(torch.tensor(tokens)[fixed], canvas.tokens_L[: len(tokens)][fixed])
        assert all(0 <= token < WORDS for token in tokens)
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz")
    assert built.symbols.mask in network.inputs
    assert network.inputs <= {*range(WORDS), built.symbols.mask}, "the special answers are never an input"


def test_a_pass_costs_one_evaluation() -> None:
    built = generator()
    for options in REQUESTS.values():
        network = arbitrary(WORDS + 1)
        calls = []
        counted = FixedLogits(lambda tokens_BL, network=network, calls=calls: calls.append(1) or network(tokens_BL))
        request = ProofreadingRequest(**options)
        built.generate(counted, request, draws(1), {})
        assert len(calls) == (request.step_count or LENGTH) + request.pass_count


def test_a_quarter_of_64_evaluations_drafts_and_the_others_proofread_by_default() -> None:
    request = ProofreadingRequest()
    assert (request.step_count, request.pass_count) == (DRAFT_STEPS, PASSES) == (16, 48)
    assert request.decoding == (
        "a draft in 16 steps (random order) and 48 proofreading passes (cosine, rate 0.3): 64 network evaluations, "
        "temperature 1"
    )
    assert ProofreadingRequest(steps=4, passes=3, remask="sampled").decoding.startswith(
        "a draft in 4 steps (random order) and 3 proofreading passes (sampled): 7 network evaluations"
    )
    plain = ProofreadingRequest(passes=0)
    assert (plain.step_count, plain.pass_count) == (None, 0)
    assert plain.decoding == "random order, one network evaluation for each token, temperature 1"


def test_sample_i_does_not_depend_on_the_others() -> None:
    built = generator()
    for options in REQUESTS.values():
        network, several = arbitrary(WORDS + 1), ProofreadingRequest(**options, num=6)
        whole = built.generate(network, several, draws(6), {})
        one = replace(draws(6), positions_B=torch.arange(4, 5))
        assert built.generate(network, replace(several, num=1), one, {}).tokens[0] == whole.tokens[4]


@pytest.mark.parametrize("remask", ["cosine", "linear", "constant"])
def test_rates_fall_from_the_requested_one_and_stay_positive(remask: str) -> None:
    request = ProofreadingRequest(passes=10, remask=remask, remask_rate=0.8)  # type: ignore[arg-type]
    rates = [request.rate(number) for number in range(10)]
    assert rates[0] == pytest.approx(0.8)
    assert min(rates) > 0
    assert all(a >= b for a, b in pairwise(rates))
    assert (len(set(rates)) == 1) == (remask == "constant")


def page(batch: int = 2) -> MaskedPage:
    """Half of the text is generated; of that, one position is open."""
    writable = (torch.arange(LENGTH) >= LENGTH // 2).expand(batch, -1)
    is_open = (torch.arange(LENGTH) == LENGTH - 1).expand(batch, -1)
    return MaskedPage(torch.zeros(batch, LENGTH, dtype=torch.int64), is_open, writable)


def test_the_most_doubted_generated_words_are_masked() -> None:
    doubt_BL = torch.linspace(0, 1, LENGTH).flip(0).repeat(2, 1)  # fixed words most
    request = ProofreadingRequest(passes=4, remask="constant", remask_rate=0.25)
    found = doubted(page(), doubt_BL, request, 0, draws(2))
    assert found[0].nonzero()[:, 0].tolist() == [LENGTH // 2, LENGTH // 2 + 1]


def test_thresholds_are_spread_over_the_passes() -> None:
    assert ProofreadingRequest(remask="threshold").pass_count == 8
    request = ProofreadingRequest(remask="threshold", passes=16)
    assert [request.threshold(n) for n in (0, 1, 2, 15)] == [0.01, 0.01, 0.5, 0.98]


def test_sampled_doubts_have_their_frequency_at_words_and_at_gaps() -> None:
    request = ProofreadingRequest(passes=4, remask="sampled")
    found = doubted(page(4000), torch.full((4000, LENGTH), 0.3), request, 0, draws(4000))
    assert not bool(found[:, : LENGTH // 2].any())
    assert torch.allclose(found[:, LENGTH // 2 :].double().mean(dim=0), torch.tensor(0.3).double(), atol=0.03)


def test_a_bias_leaves_more_gaps_open() -> None:
    built = generator("mask")
    request = ProofreadingRequest(num=40, steps=1, passes=1, remask="sampled", trace=True)

    def open_positions(bias: float) -> int:
        samples = built.generate(arbitrary(WORDS + 1), request, draws(40), {"mask_bias": torch.tensor(bias)})
        return sum(frames[0].count("░") for frames in samples.frames)

    assert open_positions(-50.0) == 0
    assert open_positions(0.0) < open_positions(3.5) < open_positions(50.0) == 40 * LENGTH


# ---- moving words -----------------------------------------------------------------------------------------------


EDIT = Symbols(WORDS, "edit")


def answers(delete: dict[int, float], insert: dict[int, float]) -> Tensor:
    q_BLV = torch.zeros(1, LENGTH, EDIT.answers)
    for position, p in delete.items():
        q_BLV[0, position, EDIT.delete] = p
    for position, p in insert.items():
        q_BLV[0, position, EDIT.insert] = p
    return q_BLV


@pytest.mark.parametrize(
    ("out", "behind", "expected"),
    [
        (9, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, "_", 11, 12, 13, 14, 15]),
        (11, 9, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, "_", 10, 12, 13, 14, 15]),
        (10, 7, [0, 1, 2, 3, 4, 5, 6, 7, "_", 8, 9, 11, 12, 13, 14, 15]),
        (10, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, "_", 11, 12, 13, 14, 15]),
    ],
)
def test_a_superfluous_word_is_removed_and_a_gap_opened(out: int, behind: int, expected: list[object]) -> None:
    tokens, writable = 100 + torch.arange(LENGTH)[None], (torch.arange(LENGTH) >= 8)[None]
    before = MaskedPage(tokens, torch.zeros_like(writable), writable)
    after = moved(before, before, answers({out: 0.9}, {behind: 0.8})[..., EDIT.words :], EDIT)
    shown = ["_" if token == EDIT.mask else token - 100 for token in after.tokens_BL[0].tolist()]
    assert shown == expected
    assert [o for o in after.open_BL[0].tolist() if o] == [True]


@pytest.mark.parametrize(
    ("delete", "insert"),
    [({9: 0.5}, {10: 0.9}), ({9: 0.9}, {10: 0.5}), ({3: 0.9}, {10: 0.9}), ({9: 0.9}, {2: 0.9}), ({9: 0.9}, {15: 0.9})],
    ids=["no sure deletion", "no sure hole", "fixed word", "hole among fixed words", "hole at the end"],
)
def test_nothing_moves_without_a_pair_in_generated_text(delete: dict[int, float], insert: dict[int, float]) -> None:
    tokens, writable = 100 + torch.arange(LENGTH)[None], (torch.arange(LENGTH) >= 8)[None]
    before = MaskedPage(tokens, torch.zeros_like(writable), writable)
    after = moved(before, before, answers(delete, insert)[..., EDIT.words :], EDIT)
    assert torch.equal(after.tokens_BL, tokens)


def test_runs_of_writable_positions() -> None:
    assert stretches([False, True, True, False, True]) == [(1, 3), (4, 5)]
    assert stretches([]) == []


def test_proofreading_corrects_a_bad_draft() -> None:
    """The network knows the one right text and doubts everything else; its draft is wrong only where it guessed."""
    right_L = draws(1).randint("right", LENGTH, high=WORDS - 1)[0]

    def knows_later(tokens_BL: Tensor) -> Tensor:
        blank_B11 = (tokens_BL >= WORDS).all(dim=1)[:, None, None]
        words_BLV = torch.where(blank_B11, 0.0, 30.0) * F.one_hot(right_L, WORDS + 1)
        wrong_BL1 = ((tokens_BL != right_L) & (tokens_BL < WORDS))[..., None]
        special = torch.where(wrong_BL1, 40.0, -40.0) * F.one_hot(torch.tensor(WORDS), WORDS + 1)
        end = -40.0 * F.one_hot(torch.tensor(WORDS - 1), WORDS + 1)
        return words_BLV + special + end

    built = generator()

    def wrong(**options: Any) -> float:
        canvas = Canvas(right_L, torch.zeros(LENGTH, dtype=torch.bool))
        request = ProofreadingRequest(canvas=canvas, num=50, **options)
        tokens = torch.tensor(built.generate(FixedLogits(knows_later), request, draws(50), {}).tokens)
        return float((tokens != right_L).double().mean())

    assert wrong(steps=1, passes=0) > 0.7
    assert wrong(steps=1) == 0, "passes are the default"
    assert wrong(steps=1, remask="threshold", thresholds=(0.5,) * 6) == 0
    assert wrong(steps=1, passes=6, remask="sampled") == 0
    assert wrong(steps=1, passes=8, remask_rate=1.0) == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_every_input_of_the_sampler_has_been_trained_with_a_loss(version: str) -> None:
    built, trained = generator(version), objective(version=version)
    network = arbitrary(built.symbols.answers)
    for options in ({"steps": 2, "passes": 6}, {"steps": 1, "passes": 6, "remask": "sampled"}, {}):
        built.generate(network, ProofreadingRequest(num=8, **options), draws(8), {})  # type: ignore[arg-type]
    task = trained.task(batch(), draws(64))
    learned = set(task.inputs_BL[task.weights_BL > 0].tolist())
    assert network.inputs <= learned | {WORDS - 1}  # end-of-text, which these texts do not contain
    gaps = task.inputs_BL == built.symbols.mask
    assert bool((task.kind_BL[gaps] == UNMASK).all()), "every [MASK] in training is a gap"
    assert int(task.targets_BL[gaps].max()) < WORDS, "and its target is a word"


def test_a_word_that_is_probably_right_stays_and_another_is_masked() -> None:
    written = MaskedPage(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4).bool(), torch.ones(1, 4).bool())
    right_BL = torch.tensor([[0.1, 0.49, 0.51, 0.99]])
    request = ProofreadingRequest(remask="threshold", thresholds=(0.5,))
    assert doubted(written, 1 - right_BL, request, 0, draws(1)).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("version", VERSIONS)
def test_no_special_symbol_is_drawn_even_if_the_network_predicts_nothing_else(version: str) -> None:
    built = generator(version)
    special = torch.arange(built.symbols.answers) >= WORDS
    network = FixedLogits(lambda tokens: (1000.0 * special).expand(*tokens.shape, -1))
    for options in ({}, {"steps": 1, "passes": 5}, {"steps": 2, "passes": 3, "remask": "sampled"}):
        samples = built.generate(network, ProofreadingRequest(num=30, **options), draws(30), {})  # type: ignore[arg-type]
        assert {token for tokens in samples.tokens for token in tokens} <= set(range(WORDS))


def test_a_model_is_sure_of_its_own_repetitions() -> None:
    doubts_change = FixedLogits(  # a model that doubts every word that differs from the one before
        lambda tokens: 9.0 * F.one_hot(torch.where(tokens == tokens.roll(1, 1), 0, WORDS), WORDS + 1).float()
    )
    repetition, varied = torch.zeros(1, LENGTH, dtype=torch.int64), torch.arange(LENGTH)[None] % (WORDS - 1)
    symbols = Symbols(WORDS, "mask-wrong")
    assert self_score(doubts_change, repetition, {}, symbols) > self_score(doubts_change, varied, {}, symbols)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": -1}, "passes must be at least 0, not -1"),
        ({"passes": 0, "remask": "linear"}, "has no effect with --passes 0"),
        ({"passes": 0, "remask_rate": 0.5}, "has no effect with --passes 0"),
        ({"thresholds": (0.5,)}, "have no effect without --remask threshold"),
        ({"remask": "threshold", "thresholds": (0.5,), "passes": 2}, "1 thresholds for 2 passes"),
        ({"remask": "threshold", "thresholds": (1.5,)}, "probabilities"),
        ({"passes": 2, "remask_rate": 0.0}, r"remask-rate must be in \(0, 1\], not 0.0"),
        ({"passes": 2, "remask": "sampled", "remask_rate": 0.5}, "has no effect with --remask sampled"),
    ],
)
def test_contradictory_requests_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ProofreadingRequest(**options)
