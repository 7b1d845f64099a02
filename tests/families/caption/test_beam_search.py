"""Beam search on trees that can be enumerated (closed forms: tests/identities, docs/identities.md#beam)."""

import pytest

from seedfast.families.caption.beam_search import length_penalty
from seedfast.verify.identities.captions import Tree


@pytest.mark.parametrize("alpha", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("count", [1, 2])
def test_stopping_when_no_open_beam_can_overtake_changes_no_result(count: int, alpha: float) -> None:
    work = {True: 0, False: 0}
    for seed in range(8):
        found = {}
        for early in work:
            tree = Tree(2, seed)
            options = {"count": count} if early else {}
            found[early] = [each[:count] for each in tree.search(problems=2, beams=3, alpha=alpha, **options)]
            work[early] += sum(len(prefix) for _, prefix in tree.rows)
        assert found[True] == found[False]
    assert work[True] < work[False]


def test_problems_do_not_affect_each_other() -> None:
    together = Tree(5).search(problems=5, beams=3, alpha=0.6)
    for problem in range(5):
        alone = Tree(5)
        alone.rows = [(problem, ())]
        assert alone.search(beams=3, alpha=0.6)[0] == together[problem]


def test_finished_beams_keep_their_probability() -> None:
    """A text's reported probability is that of the text alone, although other beams continued after its end."""
    for seed in range(10):
        tree = Tree(1, seed)
        for each in tree.search(beams=5, alpha=1.0)[0]:
            assert each.log_probability == pytest.approx(tree.log_p(0, tree.with_end(each)))
            assert each.score == pytest.approx(each.log_probability / length_penalty(len(tree.with_end(each)), 1.0))
