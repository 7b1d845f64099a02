"""Cases that show one mechanism: the quick tests try a few of them, and `make test-slow` tries the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(quick: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases as parameters of a test; all that are not quick are slow. A tuple has the values of several names."""
    few = list(quick)
    cases = list(cases)
    assert all(case in cases for case in few), "a quick case is none of the cases"
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if case in few else [pytest.mark.slow])
        for case in cases
    ]
