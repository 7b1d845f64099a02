"""Corruption: exact counts, disjoint positions, right targets, and edits that can be undone from their targets."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seedfast.errors import UserError
from seedfast.families.text.positions import at_random, in_spans, sticky
from seedfast.families.text.proofreading.corruption import (
    IDENTITY,
    NOTHING,
    REMASK,
    UNMASK,
    Corrupted,
    Corruption,
    Symbols,
    corrupt,
    counts,
)
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.proofreading.edits import choose_edits, parts
from seedfast.keys import Draws

WORDS = 11
ALL = Corruption(replaced=Ramp(end=1.0))


def draws(batch: int, seed: int = 1, group: int = 1) -> Draws:
    return Draws(seed=seed, scope="train", positions_B=torch.arange(batch), group=group)


def texts(batch: int, length: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Texts of which the first tokens of some are not scored."""
    keyed = draws(batch, seed)
    tokens_BL = keyed.randint("text", length, high=WORDS)
    return tokens_BL, torch.arange(length) >= keyed.randint("start", 1, high=max(1, length // 2))


def corrupted(options: Corruption, version: str = "mask-wrong", batch: int = 400, length: int = 24) -> Corrupted:
    tokens_BL, scored_BL = texts(batch, length)
    return corrupt(tokens_BL, scored_BL, options, Symbols(WORDS, version), draws(batch, group=batch))  # type: ignore[arg-type]


VERSIONS = ("mask", "mask-wrong", "edit")
OPTIONS = {
    "usual": ALL,
    "independent": replace(ALL, rates="independent"),
    "clustered": replace(ALL, sticky=0.5, spans=0.5),
    "bert": replace(ALL, bert=True),
    "mixture": replace(ALL, mixture=(0.6, 0.2, 0.2)),
    "kept": replace(ALL, keep_multiplier=5.0),
    "nothing replaced": Corruption(replaced=Ramp(end=0.0)),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("version", ["mask", "mask-wrong"])
def test_every_position_has_the_kind_and_target_of_its_input(options: Corruption, version: str) -> None:
    symbols, (tokens_BL, scored_BL) = Symbols(WORDS, version), texts(400, 24)  # type: ignore[arg-type]
    found = corrupted(options, version)
    unmask, remask, identity = (found.kind_BL == kind for kind in (UNMASK, REMASK, IDENTITY))
    assert torch.equal(found.kind_BL == NOTHING, ~scored_BL)
    assert torch.equal(found.inputs_BL[~scored_BL], tokens_BL[~scored_BL])
    assert torch.equal(found.targets_BL[unmask | identity], tokens_BL[unmask | identity])
    assert bool((found.targets_BL[remask] == symbols.wrong).all())
    assert torch.equal(found.inputs_BL[identity], tokens_BL[identity])
    assert not bool((found.inputs_BL[remask] == tokens_BL[remask]).any()), "a replaced word is always another one"
    if not options.bert:
        assert torch.equal(found.inputs_BL == symbols.mask, unmask)
    assert bool(remask.any()) == (options.replaced.end > 0)


def test_words_are_replaced_uniformly_by_the_others() -> None:
    found, (tokens_BL, _) = corrupted(ALL, batch=4000), texts(4000, 24)
    where = found.kind_BL == REMASK
    distance = (found.inputs_BL[where] - tokens_BL[where]) % WORDS
    share = torch.bincount(distance, minlength=WORDS).double() / int(where.sum())
    assert share[0] == 0
    assert float((share[1:] - 1 / (WORDS - 1)).abs().max()) < 0.01


@pytest.mark.parametrize("rates", ["total", "independent"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rates_have_their_laws(rates: str, share: float) -> None:
    """Total: the corrupted fraction is uniform up to 1 - g; its wrong part is uniform up to the ramp's value."""
    n, g = 1000, 0.2
    options = Corruption(rates=rates, guaranteed_correct=g, replaced=Ramp(end=share))  # type: ignore[arg-type]
    masked_B, wrong_B = (c.double() / n for c in counts(torch.full((4096,), n), options, draws(4096, group=4096)))
    uniform = masked_B + wrong_B if rates == "total" else masked_B
    assert float(uniform.max()) <= 1 - g
    assert float((uniform.sort().values - torch.linspace(0, 1 - g, 4096)).abs().max()) < 0.003
    part = wrong_B / uniform if rates == "total" else wrong_B / (1 - g - masked_B)
    part = part[(uniform > 0.1) & (uniform < 0.7)]
    assert float(part.mean()) == pytest.approx(share / 2, abs=0.02)
    assert float(part.max()) <= share + 1e-9


@settings(max_examples=60)
@given(st.integers(1, 20), st.integers(0, 10_000), st.sampled_from([at_random, in_spans, sticky]))
def test_the_requested_number_of_positions_is_chosen(length: int, seed: int, choose: object) -> None:
    eligible_BL = texts(30, length, seed)[1]
    count_B = draws(30, seed).randint("wanted", 1, high=length + 1)[:, 0].minimum(eligible_BL.sum(dim=1))
    chosen_BL = choose("x", eligible_BL, count_B, draws(30, seed))  # type: ignore[operator]
    assert torch.equal(chosen_BL.sum(dim=1), count_B)
    assert not bool((chosen_BL & ~eligible_BL).any())


def test_clusters_cluster_and_spans_span() -> None:
    """The right neighbour of a masked position is masked more often than by chance, most often in spans."""
    eligible_BL, half_B = torch.ones(2000, 60, dtype=torch.bool), torch.full((2000,), 20)

    def together(chosen_BL: Tensor) -> float:
        return float((chosen_BL[:, :-1] & chosen_BL[:, 1:]).sum() / chosen_BL[:, :-1].sum())

    random, clustered, spans = (
        together(choose("x", eligible_BL, half_B, draws(2000))) for choose in (at_random, sticky, in_spans)
    )
    assert random == pytest.approx(19 / 59, abs=0.02)
    assert random + 0.1 < clustered < spans


def test_bert_shows_80_10_10() -> None:
    found, (tokens_BL, _) = corrupted(OPTIONS["bert"], batch=4000), texts(4000, 24)
    where = found.kind_BL == UNMASK
    shown, own = found.inputs_BL[where], tokens_BL[where]
    mask = Symbols(WORDS, "mask-wrong").mask
    assert float((shown == mask).double().mean()) == pytest.approx(0.8, abs=0.01)
    assert float((shown == own).double().mean()) == pytest.approx(0.1, abs=0.01)


def test_a_mixture_has_its_frequencies() -> None:
    plain, mixed = corrupted(ALL, batch=4000), corrupted(OPTIONS["mixture"], batch=4000)
    before, after = (int((c.kind_BL == REMASK).sum()) for c in (plain, mixed))
    assert after / before == pytest.approx(0.8, abs=0.01), "a fifth shows [MASK] and is a gap"


def test_words_from_elsewhere_are_as_frequent_as_in_the_text() -> None:
    """In a window of two words, words from elsewhere are one of these two; random words would be any."""
    tokens_BL = draws(500).randint("two", 24, high=2)
    options, symbols = replace(ALL, mixture=(0.0, 0.0, 1.0)), Symbols(WORDS, "mask-wrong")
    found = corrupt(tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool), options, symbols, draws(500, group=500))
    wrong = found.kind_BL == REMASK
    assert float((found.inputs_BL[wrong] < 2).double().mean()) > 0.4
    assert not bool((found.inputs_BL[wrong] == tokens_BL[wrong]).any())


def test_a_replaced_position_keeps_its_word_with_the_probability_of_its_multiplier() -> None:
    options = replace(ALL, keep_multiplier=5.0)
    all_of_them, fewer = (int((corrupted(o, batch=4000).kind_BL == REMASK).sum()) for o in (ALL, options))
    assert 1 - fewer / all_of_them == pytest.approx(5 / (WORDS - 1 + 5), abs=0.01)


def test_the_task_of_an_example_does_not_depend_on_the_others() -> None:
    for version in VERSIONS:
        for options in OPTIONS.values():
            tokens_BL, scored_BL = texts(12, 24)
            symbols, keyed = Symbols(WORDS, version), draws(12, group=12)  # type: ignore[arg-type]
            whole = corrupt(tokens_BL, scored_BL, options, symbols, keyed)
            part = corrupt(
                tokens_BL[5:7], scored_BL[5:7], options, symbols, replace(keyed, positions_B=torch.arange(5, 7))
            )
            for name in ("inputs_BL", "targets_BL", "kind_BL"):
                assert torch.equal(getattr(whole, name)[5:7], getattr(part, name))


# ---- edits ------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.integers(0, 500), st.tuples(*[st.floats(0, 1)] * 3).filter(lambda shares: sum(shares) > 0))
def test_the_parts_of_the_edits_sum_to_the_whole(edits: int, shares: tuple[float, float, float]) -> None:
    each = parts(torch.tensor([edits]), shares)
    assert all(int(part) >= 0 for part in each)
    assert sum(int(part) for part in each) == edits


def test_twin_parts_that_are_not_normalised_do_not() -> None:
    """The distribution of a known implementation after 4000 iterations: 1.75 times the requested number."""
    assert sum(int(100 * share) for share in (1.0, 0.5, 0.25)) != 100


def undone(found: Corrupted, row: int, tokens: list[int], symbols: Symbols) -> list[int]:
    """The source, rebuilt by applying the targets to the inputs; holes are filled from the source."""
    assert found.source_BL is not None
    assert found.real_BL is not None
    text: list[int] = []
    for token, target, kind, source, real in zip(
        *(t[row].tolist() for t in (found.inputs_BL, found.targets_BL, found.kind_BL, found.source_BL, found.real_BL)),
        strict=True,
    ):
        if not real:
            break
        if kind == NOTHING:
            text.append(token)
        elif target == symbols.delete:
            continue
        elif target == symbols.wrong:
            text.append(tokens[source])
        elif target == symbols.insert:
            text += [token, tokens[source + 1]]
        else:
            text.append(target)
    return text


def test_applying_the_targets_restores_the_text() -> None:
    tokens_BL, scored_BL = texts(600, 24)
    symbols = Symbols(WORDS, "edit")
    found = corrupt(tokens_BL, scored_BL, ALL, symbols, draws(600, group=600))
    for row, tokens in enumerate(tokens_BL.tolist()):
        text = undone(found, row, tokens, symbols)
        assert text == tokens[: len(text)]
        assert len(text) >= 24 - int((found.targets_BL[row] == symbols.delete).sum())
    assert {int(t) for t in found.targets_BL.unique()} == {*range(WORDS), symbols.wrong, symbols.insert, symbols.delete}


def test_holes_and_their_left_neighbours_are_untouched_otherwise() -> None:
    scored_BL = texts(500, 24)[1]
    edits = choose_edits(scored_BL, torch.full((500,), 16), (0.2, 0.4, 0.4), draws(500))
    left = edits.before_hole_BL
    assert torch.equal(left[:, :-1], edits.removed_BL[:, 1:])
    assert not bool((left & edits.removed_BL).any()), "no two holes touch"
    assert not bool((edits.added_BL & (left | edits.removed_BL)).any())
    assert not bool((edits.free_BL & (left | edits.removed_BL)).any())
    assert not bool((left & ~scored_BL).any())


@given(st.integers(0, 4000), st.integers(0, 300))
def test_edits_sum_to_their_number_at_every_step_of_the_curriculum(step: int, edits: int) -> None:
    """In a known implementation the fractions sum to 0.75 at step 0, and to 1.75 at step 4000."""
    share = Corruption().replaced.value(step)
    assert 0 <= share <= 1
    found = parts(torch.tensor([edits]), (0.5, 0.25, 0.25))
    assert sum(int(part) for part in found) == edits
    assert min(int(part) for part in found) >= 0


def test_a_hole_at_the_beginning_is_not_the_target_of_the_last_word() -> None:
    scored_BL = torch.ones(3000, 6, dtype=torch.bool)
    edits = choose_edits(scored_BL, torch.full((3000,), 3), (0.0, 1.0, 0.0), draws(3000))
    assert not bool(edits.removed_BL[:, 0].any())
    assert not bool(edits.before_hole_BL[:, -1].any())
    assert bool(edits.removed_BL[:, 1].any())
    wraps = torch.roll(torch.tensor([[True, False, False]]), -1, dims=1)  # twin: the effect of an index of -1
    assert bool(wraps[0, -1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guaranteed_correct": 1.0}, r"guaranteed_correct must be in \[0, 1\), not 1"),
        ({"sticky": 0.6, "spans": 0.6}, "cannot exceed 1"),
        ({"sticky": -1.0}, r"sticky must be in \[0, 1\], not -1"),
        ({"replaced": Ramp(end=1.5)}, r"replaced must be in \[0, 1\], not \(1.5, 1.5\)"),
        ({"keep_multiplier": -1.0}, "keep_multiplier must be at least 0, not -1"),
        ({"mixture": (0.0, 0.0, 0.0)}, "mixture are relative frequencies"),
        ({"edits": (-1.0, 1.0, 1.0)}, "edits are relative frequencies"),
    ],
)
def test_impossible_corruptions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Corruption(**options)  # type: ignore[arg-type]
