"""Samplers: every policy doubts what it should, counts its evaluations, and leaves given words and lengths alone."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.helpers.proofreading import LENGTH, WORDS, Chosen, arbitrary, draws, family
from torch import Tensor
from torch.nn import functional as F

from seedfast.errors import UserError
from seedfast.families.text.proofreading import ProofreadingDiffusion
from seedfast.families.text.proofreading.mask_bias import Bias
from seedfast.families.text.proofreading.sampling import ProofreadingRequest, doubted, moved, stretches
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_sampler import Page

VERSIONS = ("mask", "mask-wrong", "edit")
REQUESTS: dict[str, dict[str, Any]] = {
    "fill": {},
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


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wanted", CANVASES.values(), ids=CANVASES.keys())
@pytest.mark.parametrize("options", REQUESTS.values(), ids=REQUESTS.keys())
def test_finished_texts_are_words_and_what_was_given_stays(
    version: str, wanted: dict[str, Any], options: dict[str, Any]
) -> None:
    built = family(version=version)
    request = ProofreadingRequest(**wanted, **options, num=5, trace=True)
    network = arbitrary(built.symbols.answers)
    samples = built.sample(network, request, draws(request.count), {})
    canvases = [canvas for canvas in built.canvases(request) for _ in range(request.num)]
    for tokens, canvas, text in zip(samples.tokens, canvases, samples.texts, strict=True):
        assert len(tokens) <= len(canvas.tokens_L)
        given = canvas.given_L[: len(tokens)]
        assert torch.equal(torch.tensor(tokens)[given], canvas.tokens_L[: len(tokens)][given])
        assert all(0 <= token < WORDS for token in tokens)
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz")
    assert built.mask in network.seen
    assert network.seen <= {*range(WORDS), built.mask}, "the special answers are never an input"


def test_a_pass_costs_one_evaluation() -> None:
    built = family()
    for options in REQUESTS.values():
        network = arbitrary(WORDS + 1)
        calls = []
        counted = Chosen(lambda tokens_BL, network=network, calls=calls: calls.append(1) or network(tokens_BL))
        request = ProofreadingRequest(**options)
        built.sample(counted, request, draws(1), {})
        assert len(calls) == (request.steps or LENGTH) + request.rounds


def test_sample_i_does_not_depend_on_the_others() -> None:
    built = family()
    for options in REQUESTS.values():
        network, several = arbitrary(WORDS + 1), ProofreadingRequest(**options, num=6)
        whole = built.sample(network, several, draws(6), {})
        one = replace(draws(6), positions_B=torch.arange(4, 5))
        assert built.sample(network, replace(several, num=1), one, {}).tokens[0] == whole.tokens[4]


@pytest.mark.parametrize("remask", ["cosine", "linear", "constant"])
def test_rates_fall_from_the_given_one_and_never_to_nothing(remask: str) -> None:
    request = ProofreadingRequest(passes=10, remask=remask, remask_rate=0.8)  # type: ignore[arg-type]
    rates = [request.rate(number) for number in range(10)]
    assert rates[0] == pytest.approx(0.8)
    assert min(rates) > 0
    assert all(a >= b for a, b in pairwise(rates))
    assert (len(set(rates)) == 1) == (remask == "constant")


def page(batch: int = 2) -> Page:
    """Half of the text is the model's own; of that, one position is open."""
    writable = (torch.arange(LENGTH) >= LENGTH // 2).expand(batch, -1)
    is_open = (torch.arange(LENGTH) == LENGTH - 1).expand(batch, -1)
    return Page(torch.zeros(batch, LENGTH, dtype=torch.int64), is_open, writable)


def test_the_most_doubted_own_words_are_hidden() -> None:
    doubt_BL = torch.linspace(0, 1, LENGTH).flip(0).repeat(2, 1)  # given words most of all
    request = ProofreadingRequest(passes=4, remask="constant", remask_rate=0.25)
    found = doubted(page(), doubt_BL, request, 0, draws(2))
    assert found[0].nonzero()[:, 0].tolist() == [LENGTH // 2, LENGTH // 2 + 1]


def test_thresholds_are_spread_over_the_passes() -> None:
    assert ProofreadingRequest(remask="threshold").rounds == 8
    request = ProofreadingRequest(remask="threshold", passes=16)
    assert [request.threshold(n) for n in (0, 1, 2, 15)] == [0.01, 0.01, 0.5, 0.98]


def test_sampled_doubts_have_their_frequency_and_gaps_are_kept_with_theirs() -> None:
    request = ProofreadingRequest(passes=4, remask="sampled")
    found = doubted(page(4000), torch.full((4000, LENGTH), 0.3), request, 0, draws(4000))
    assert not bool(found[:, : LENGTH // 2].any())
    assert torch.allclose(found[:, LENGTH // 2 :].double().mean(dim=0), torch.tensor(0.3).double(), atol=0.03)


def test_a_bias_makes_the_sampler_keep_more_gaps() -> None:
    built: ProofreadingDiffusion = family(version="mask", bias=Bias(kind="fixed"))
    request = ProofreadingRequest(num=40, steps=1, passes=1, remask="sampled", trace=True)

    def kept(bias: float) -> int:
        samples = built.sample(arbitrary(WORDS + 1), request, draws(40), {"mask_bias": torch.tensor(bias)})
        return sum(frames[0].count("░") for frames in samples.frames)

    assert kept(-50.0) == 0
    assert kept(0.0) < kept(3.5) < kept(50.0) == 40 * LENGTH


# ---- moving words -----------------------------------------------------------------------------------------------


def answers(built: ProofreadingDiffusion, delete: dict[int, float], insert: dict[int, float]) -> Tensor:
    q_BLV = torch.zeros(1, LENGTH, built.symbols.answers)
    for position, p in delete.items():
        q_BLV[0, position, built.symbols.delete] = p
    for position, p in insert.items():
        q_BLV[0, position, built.symbols.insert] = p
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
def test_a_superfluous_word_goes_and_a_gap_comes(out: int, behind: int, expected: list[object]) -> None:
    built = family(version="edit")
    tokens, writable = 100 + torch.arange(LENGTH)[None], (torch.arange(LENGTH) >= 8)[None]
    before = Page(tokens, torch.zeros_like(writable), writable)
    after = moved(before, before, answers(built, {out: 0.9}, {behind: 0.8}), built.symbols)
    shown = ["_" if token == built.mask else token - 100 for token in after.tokens_BL[0].tolist()]
    assert shown == expected
    assert [o for o in after.open_BL[0].tolist() if o] == [True]


@pytest.mark.parametrize(
    ("delete", "insert"),
    [({9: 0.5}, {10: 0.9}), ({9: 0.9}, {10: 0.5}), ({3: 0.9}, {10: 0.9}), ({9: 0.9}, {2: 0.9}), ({9: 0.9}, {15: 0.9})],
    ids=["no sure deletion", "no sure hole", "given word", "hole among given words", "hole at the end"],
)
def test_nothing_moves_without_a_pair_in_one_s_own_text(delete: dict[int, float], insert: dict[int, float]) -> None:
    built = family(version="edit")
    tokens, writable = 100 + torch.arange(LENGTH)[None], (torch.arange(LENGTH) >= 8)[None]
    before = Page(tokens, torch.zeros_like(writable), writable)
    after = moved(before, before, answers(built, delete, insert), built.symbols)
    assert torch.equal(after.tokens_BL, tokens)


def test_stretches() -> None:
    assert stretches([False, True, True, False, True]) == [(1, 3), (4, 5)]
    assert stretches([]) == []


def test_proofreading_mends_a_bad_draft() -> None:
    """A network that knows the one right text and doubts everything else: the draft is bad only where it guessed."""
    right_L = draws(1).randint("right", LENGTH, high=WORDS - 1)[0]

    def knows_later(tokens_BL: Tensor) -> Tensor:
        blank_B11 = (tokens_BL >= WORDS).all(dim=1)[:, None, None]
        words_BLV = torch.where(blank_B11, 0.0, 30.0) * F.one_hot(right_L, WORDS + 1)
        wrong_BL1 = ((tokens_BL != right_L) & (tokens_BL < WORDS))[..., None]
        special = torch.where(wrong_BL1, 40.0, -40.0) * F.one_hot(torch.tensor(WORDS), WORDS + 1)
        end = -40.0 * F.one_hot(torch.tensor(WORDS - 1), WORDS + 1)
        return words_BLV + special + end

    built = family()

    def wrong(**options: Any) -> float:
        canvas = Canvas(right_L, torch.zeros(LENGTH, dtype=torch.bool))
        request = ProofreadingRequest(canvas=canvas, num=50, **options)
        tokens = torch.tensor(built.sample(Chosen(knows_later), request, draws(50), {}).tokens)
        return float((tokens != right_L).double().mean())

    assert wrong(steps=1) > 0.7
    assert wrong(steps=1, remask="threshold", thresholds=(0.5,) * 6) == 0
    assert wrong(steps=1, passes=6, remask="sampled") == 0
    assert wrong(steps=1, passes=8, remask_rate=1.0) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passes": -1}, "passes must not be negative"),
        ({"remask": "linear"}, "say how many --passes"),
        ({"remask_rate": 0.5}, "say how many --passes"),
        ({"thresholds": (0.5,)}, "belong to --remask threshold"),
        ({"remask": "threshold", "thresholds": (0.5,), "passes": 2}, "1 thresholds for 2 passes"),
        ({"remask": "threshold", "thresholds": (1.5,)}, "probabilities"),
        ({"passes": 2, "remask_rate": 0.0}, "remask-rate must lie"),
        ({"passes": 2, "remask": "sampled", "remask_rate": 0.5}, "no meaning for --remask sampled"),
    ],
)
def test_requests_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ProofreadingRequest(**options)
