"""What all tests share: a quiet number of threads, a cache of their own, and a little text to train on."""

import gc
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tests.helpers import cli

# A shared machine is slow now and then; tests assert no time. Every run tries other examples.
settings.register_profile("seedfast", deadline=None, max_examples=50)
settings.load_profile("seedfast")

MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4 << 30:
    # Every commit waits for the disk (fsync): on one that takes 10 ms for a file, half of the time of all tests.
    os.environ["PYTEST_DEBUG_TEMPROOT"] = os.environ["TMPDIR"] = str(MEMORY)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub; libraries read this when they are imported


def pytest_collection_finish() -> None:
    """The collector of garbage passes over the modules: they live as long as the tests, and are a million objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    # The tests run side by side, and sums in another order would give other bits.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SEEDFAST_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))  # the record of code that the user has run


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain text file of about 12 kB, the same everywhere."""
    path = tmp_path_factory.mktemp("text") / "story.txt"
    nouns, verbs = ["cat", "dog", "bird", "fox"], ["sees", "likes", "hears"]
    lines = [f"the {nouns[i % 4]} {verbs[i * 7 % 3]} the {nouns[i * 5 % 3]} {i % 10}.\n" for i in range(500)]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def random_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text in which no window of 16 characters comes again by chance often."""
    from tests.helpers import past

    return past.book(tmp_path_factory.mktemp("text") / "book.txt")


@pytest.fixture
def seedfast(capsys: pytest.CaptureFixture[str]) -> cli.Run:
    """The command line in this process: (status, stdout, stderr)."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.seedfast(*words)
        return status, *capsys.readouterr()

    return run
