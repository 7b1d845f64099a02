"""Options and requests of embedding diffusion that are refused."""

from typing import Any

import pytest

from seedfast.errors import UserError
from seedfast.families.text.embedding import Embedding, EmbeddingRequest
from seedfast.options import renamed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, r"objective\.channels must be at least 1, not 0"),
        ({"evaluation_draws": 0}, r"objective\.evaluation_draws must be at least 1, not 0"),
        ({"clean_context": 1.5}, r"objective\.clean_context must be in \[0, 1\], not 1\.5"),
        ({"condition_dropout": -0.1}, r"objective\.condition_dropout must be in \[0, 1\], not -0\.1"),
        ({"self_conditioning": 2.0}, r"objective\.self_conditioning must be in \[0, 1\], not 2\.0"),
        ({"rounding": 0.5}, r"objective\.rounding \(0\.5\) has no effect without objective\.loss weighted"),
        ({"loss": "weighted"}, r"objective\.schedule to linear or cosine"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Embedding(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"steps must be in \[1, 1000\], not 0"),
        ({"steps": 1001}, r"steps must be in \[1, 1000\], not 1001"),
        ({"eta": 2.0}, r"eta must be in \[0, 1\], not 2\.0"),
        ({"eta": 0.5, "sampler": "heun"}, r"eta \(0\.5\) has no effect without sampler ddim"),
        ({"guidance": -1.0}, r"guidance must be in \[0, inf\), not -1\.0"),
        ({"guidance": float("nan")}, r"guidance must be in \[0, inf\), not nan"),
        ({"guidance": float("inf")}, r"guidance must be in \[0, inf\), not inf"),
    ],
    ids=str,
)
def test_requests_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EmbeddingRequest(**options)


def test_old_names_of_options_are_known() -> None:
    assert renamed(Embedding) == {
        "context": "clean_context",
        "reading": "prompt_conditioning",
        "withheld": "condition_dropout",
    }
