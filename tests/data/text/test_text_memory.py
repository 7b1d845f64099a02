"""Memory does not grow with the data."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import resource, sys
from seedfast.data.text.config import TextData
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MiB
before = peak()
for tokenizer in sys.argv[2:]:
    TextData(path=sys.argv[1], tokenizer=tokenizer).load()
print(peak() - before)
"""


def grown(path: Path, *tokenizers: str) -> int:
    """By how many MiB a process grows at most while it prepares the file with each of these tokenizers."""
    return int(subprocess.check_output([sys.executable, "-c", MEASURE, str(path), *tokenizers]))


def text_file(path: Path, megabytes: int) -> Path:
    letters = random.Random(0)
    words = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyzé", k=letters.randint(1, 9))) for _ in range(20_000)]
    block = "".join(" ".join(letters.choices(words, k=20)) + "\n\n" for _ in range(8_000)).encode()
    with path.open("wb") as file:
        for _ in range(megabytes * 10**6 // len(block) + 1):
            file.write(block)
    return path


def test_preparing_sixty_megabytes_needs_less_than_fifty(tmp_path: Path) -> None:
    assert grown(text_file(tmp_path / "big.txt", 60), "characters", "bytes") < 50


@pytest.mark.slow
def test_preparing_a_gigabyte_with_bpe_needs_less_than_five_hundred_megabytes(tmp_path: Path) -> None:
    assert grown(text_file(tmp_path / "big.txt", 1000), "bpe") < 500
