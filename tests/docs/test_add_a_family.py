"""The tutorial's family, extracted from the page, goes through everything that the families of the house do."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.processes import run_killed_or_whole
from tests.helpers.processes import seedfast as run

import seedfast
from seedfast.verify.resume import prove_resume

PAGE = Path(__file__).parents[2] / "docs/tutorials/add-a-family.md"
SMALL = ("--data.tokenizer", "characters", "--data.context", "16", "--steps", "30", "--batch-size", "6",
         "--micro-batch", "4", "--eval-every", "10", "--save-every", "7", "--eval-examples", "8",
         "--no-report")  # fmt: skip


def code(page: Path) -> str:
    """The first Python block of a page."""
    found = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "bigram.py"
    path.write_text(code(PAGE))
    return f"{path}:bigram"


@pytest.fixture(scope="module")
def trained(recipe: str, story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bigram") / "run"
    result = run("train", recipe, "--data", str(story), *SMALL, "--out", str(folder))
    assert result.returncode == 0, result.stderr
    return folder


def test_the_family_is_one_file_of_at_most_sixty_lines() -> None:
    assert len(code(PAGE).splitlines()) <= 60


def test_it_resumes_bit_for_bit_after_kills(recipe: str, story: Path, tmp_path: Path) -> None:
    words = [recipe, "--data", str(story), *SMALL]
    certificate = prove_resume(words, kills=2, folder=tmp_path, say=lambda _: None, execute=run_killed_or_whole)
    assert certificate.difference is None
    assert len(certificate.kills) == 2


def test_it_learns(trained: Path) -> None:
    loss = seedfast.journal(trained)["training/loss"]
    loss = loss[np.isfinite(loss)]  # other lines have no training loss
    assert loss[-1] < loss[0]


def test_it_is_evaluated_as_an_exact_likelihood(trained: Path) -> None:
    result = run("evaluate", str(trained), "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["is_bound"] is False
    assert record["perplexity"] > 1


def test_it_samples_prompts_and_gaps(trained: Path) -> None:
    for flags, pattern in ((("--prompt", "the ", "--tokens", "5"), r"the .{0,5}\n"),
                           (("--infill", "the <gap:3> sees"), r"the .{3} sees\n")):  # fmt: skip
        result = run("sample", str(trained), *flags)
        assert result.returncode == 0, result.stderr
        assert re.fullmatch(pattern, result.stdout, re.DOTALL)


def test_the_log_probability_of_a_text_is_that_of_its_bigrams(trained: Path) -> None:
    model = seedfast.load(trained)
    tokens = [model.tokenizer.end_of_text, *model.tokenizer.encode("the cat")]
    log_q = model.network.weight.double().log_softmax(dim=1)
    by_hand = sum(float(log_q[a, b]) for a, b in pairwise(tokens))
    assert model.log_prob("the cat") == pytest.approx(by_hand, rel=1e-5)
