"""Beam search on networks small enough to be enumerated (identity 26 itself: tests/identities)."""

import pytest

from seedfast.families.caption.beam_search import length_penalty
from seedfast.verify.identities.captions import Tree


@pytest.mark.parametrize("alpha", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("wanted", [1, 2])
def test_26_stopping_as_soon_as_none_can_overtake_changes_nothing(wanted: int, alpha: float) -> None:
    asked = {True: 0, False: 0}
    for seed in range(8):
        found = {}
        for early in asked:
            tree = Tree(2, seed)
            options = {"wanted": wanted} if early else {}
            found[early] = [each[:wanted] for each in tree.search(problems=2, beams=3, alpha=alpha, **options)]
            asked[early] += sum(len(prefix) for _, prefix in tree.held)
        assert found[True] == found[False]
    assert asked[True] < asked[False]


def test_26_problems_do_not_change_each_other() -> None:
    together = Tree(5).search(problems=5, beams=3, alpha=0.6)
    for problem in range(5):
        alone = Tree(5)
        alone.held = [(problem, ())]
        assert alone.search(beams=3, alpha=0.6)[0] == together[problem]


def test_26_finished_beams_are_frozen() -> None:
    """A text's reported probability is its own, whatever went on beside it after it had ended."""
    for seed in range(10):
        tree = Tree(1, seed)
        for each in tree.search(beams=5, alpha=1.0)[0]:
            assert each.log_probability == pytest.approx(tree.log_p(0, tree.with_end(each)))
            assert each.score == pytest.approx(each.log_probability / length_penalty(len(tree.with_end(each)), 1.0))
