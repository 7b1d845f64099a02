"""Processes that were started with different options, code or data end soon, with one sentence of rank 0."""

import re
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.helpers.processes import ranks
from tests.helpers.runs import flags, small_run

OWN = "/proc/self/cwd"
"""One name of a folder, which is another folder for each process."""

pytestmark = pytest.mark.skipif(not Path(OWN).exists(), reason="gives each process other files under one name in /proc")


def check_refused(sentence: str, done: list["CompletedProcess[str]"]) -> None:
    """Assert that rank 0 prints the sentence and nothing else, the other rank nothing, and that both fail."""
    main, other = done
    assert [main.returncode, other.returncode] == [2, 2]
    assert re.search(sentence, main.stderr), main.stderr
    assert main.stderr.count("\n") == 1
    assert other.stderr == ""


@pytest.fixture
def words(story: Path, tmp_path: Path) -> list[str]:
    """A training on a text that each process has in a folder of its own."""
    words = ["train", "text-masked", *flags(small_run("text-masked", story)), "--out", str(tmp_path / "run")]
    words[words.index("--data.path") + 1] = f"{OWN}/text.txt"
    for rank in range(2):
        folder(tmp_path, rank).mkdir()
        (folder(tmp_path, rank) / "text.txt").write_text(story.read_text())
    return words


def folder(of: Path, rank: int) -> Path:
    """The folder of a rank."""
    return of / f"rank-{rank}"


def both(tmp_path: Path) -> list[Path]:
    """The folders of both ranks."""
    return [folder(tmp_path, rank) for rank in range(2)]


def test_equal_processes_train(words: list[str], tmp_path: Path) -> None:
    assert [done.returncode for done in ranks(2, *words, "--steps", "1", cwds=both(tmp_path))] == [0, 0]


def test_other_options(words: list[str], tmp_path: Path) -> None:
    sentence = (
        r"Process 1 of this run has another option seed \(2\) than process 0 \(1\): start all with the same command"
    )
    check_refused(sentence, ranks(2, *words, own=["--seed", "2"], cwds=both(tmp_path)))


def test_other_data(words: list[str], tmp_path: Path) -> None:
    text = folder(tmp_path, 1) / "text.txt"
    text.write_text(text.read_text().replace("cat", "dog"))
    sentence = "Process 1 of this run has another fingerprint of the data"
    check_refused(sentence, ranks(2, *words, cwds=both(tmp_path)))


def test_other_code(words: list[str], tmp_path: Path) -> None:
    for rank in range(2):
        code = f"from seedfast import recipes\n\ndef mine():\n    return recipes.make('text-masked')  # {rank}\n"
        (folder(tmp_path, rank) / "own.py").write_text(code)
    words[1] = f"{OWN}/own.py:mine"
    check_refused("Process 1 of this run has another code", ranks(2, *words, cwds=both(tmp_path)))


def test_an_error_of_one_process(words: list[str], tmp_path: Path) -> None:
    (folder(tmp_path, 1) / "text.txt").unlink()
    check_refused("Process 1: .*text.txt", ranks(2, *words, cwds=both(tmp_path)))


def test_an_error_of_rank_0_alone(words: list[str], tmp_path: Path) -> None:
    """It prepares the data while the others wait."""
    (folder(tmp_path, 0) / "text.txt").unlink()
    main, other = ranks(2, *words, cwds=both(tmp_path))
    assert [main.returncode, other.returncode] == [2, 3]
    assert re.search("text.txt", main.stderr)
    assert main.stderr.count("\n") == 1
    assert other.stderr == ""


def test_an_error_of_all_processes(words: list[str], tmp_path: Path) -> None:
    sentence = "batch_size 5 cannot be shared evenly by 2 processes"
    check_refused(sentence, ranks(2, *words, "--batch-size", "5", cwds=both(tmp_path)))
