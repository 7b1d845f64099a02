"""The tutorial's data source, extracted from the page: training, resuming and evaluating on the command line."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from tests.helpers.processes import seedfast

from seedfast.data.text.config import TextData
from seedfast.data.text.packing import PackedDataset

PAGE = Path(__file__).parents[2] / "docs/tutorials/add-a-data-source.md"
SMALL = ("--data.tokenizer", "bytes", "--data.context", "32", "--model.layers", "1", "--model.width", "16",
         "--model.heads", "2", "--batch-size", "8", "--eval-every", "4", "--save-every", "4",
         "--no-report")  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's first Python block as the file that it names."""
    found = re.search(r'```python\n("""(\S+\.py):.*?)```', PAGE.read_text(), re.DOTALL)
    assert found
    path = tmp_path_factory.mktemp("own") / found[2]
    path.write_text(found[1])
    return path


@pytest.fixture(scope="module")
def trained(source: Path) -> Path:
    """Trained for 6 steps, and resumed until step 12."""
    for steps in ("6", "12"):
        result = train(source, "run", steps)
        assert result.returncode == 0, result.stderr
    assert "continues at step 6" in result.stderr or "resumes at step 6" in result.stderr
    return source.parent / "run"


def train(source: Path, folder: str, steps: str) -> "subprocess.CompletedProcess[str]":
    """Run from the source's folder, with the source's name as the page writes it."""
    return run(source, "train", "text-autoregressive", "--data", f"{source.name}:documents", *SMALL, "--steps", steps,
               "--out", folder)  # fmt: skip


def run(source: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return seedfast(*words, cwd=source.parent)


def test_its_documents_are_sums_whose_answers_are_scored(source: Path) -> None:
    corpus = TextData(path=f"{source}:documents", tokenizer="bytes", context=32).load()
    assert sum(split["documents"] for split in corpus.splits.values()) == 3600
    assert isinstance(corpus.train, PackedDataset)
    batch = corpus.train.batch([0])
    scored = batch["tokens"][:, 1:][batch["scored"]].tolist()
    assert ord("+") not in scored
    assert ord("=") not in scored


def test_it_is_evaluated_on_sums_that_were_not_trained_on(source: Path, trained: Path) -> None:
    result = run(source, "evaluate", "run", "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["step"] == 12
    assert 0 < record["nats_per_token"] < 10


def test_it_answers_a_prompt(source: Path, trained: Path) -> None:
    result = run(source, "sample", "run", "--prompt", "12+30=", "--tokens", "4")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("12+30=")


def test_changed_documents_are_refused_on_resume(source: Path, trained: Path) -> None:
    before = source.read_text()
    source.write_text(before.replace("a + b", "a - b"))
    try:
        result = train(source, "run", "13")
    finally:
        source.write_text(before)
    assert result.returncode == 2
    assert "changed: sums.py, sums.py:documents" in result.stderr
