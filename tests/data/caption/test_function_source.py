"""Images with captions from a function of the user's, `--data path/to/file.py:function`."""

from pathlib import Path

import pytest
from PIL import Image

from seedfast.data.caption.config import CaptionData
from seedfast.data.caption.dataset import CaptionCorpus
from seedfast.errors import UserError

IN_MEMORY = """
from PIL import Image
import numpy as np

def pairs():
    for i in range(7):
        yield Image.new("RGB", (9, 9), (i * 30, 0, 0)), [f"red {i}", "a square"]
    yield np.full((9, 9), 77, np.uint8), "grey"
"""
FILES = """
def pairs():
    for i in range(8):
        yield f"{i}.png", [f"picture {i}"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of a user's file, beside eight images."""
    for i in range(8):
        Image.new("RGB", (20, 30), (i * 30, 10, 200)).save(tmp_path / f"{i}.png")
    return tmp_path / "my_captions.py"


def load(file: Path, code: str, function: str = "pairs") -> CaptionCorpus:
    file.write_text(code)
    return CaptionData(path=f"{file}:{function}", tokenizer="bytes", size=8, validation=0.3).load()


def captions_of(corpus: CaptionCorpus) -> list[list[str]]:
    return sorted(list(captions) for split in (corpus.train, corpus.validation) for captions in split.captions)


def test_pairs_of_images_in_memory(file: Path) -> None:
    corpus = load(file, IN_MEMORY)
    assert captions_of(corpus) == [["grey"], *[[f"red {i}", "a square"] for i in range(7)]]
    grey = next(
        split.pixels([split.names.index("image 7")])
        for split in (corpus.train, corpus.validation)
        if "image 7" in split.names
    )
    assert grey.shape == (1, 3, 8, 8)
    assert bool((grey == 77).all())
    assert load(file, IN_MEMORY).fingerprint == corpus.fingerprint, "from the cache"


def test_pairs_of_files_beside_the_function(file: Path) -> None:
    corpus = load(file, FILES)
    assert captions_of(corpus) == [[f"picture {i}"] for i in range(8)]
    assert {"my_captions.py", "0.png"} <= corpus.fingerprint.files.keys()


def test_the_fingerprint_covers_the_functions_file_and_the_images(file: Path) -> None:
    before = load(file, FILES).fingerprint
    assert load(file, FILES + "# a remark\n").fingerprint.files["my_captions.py"] != before.files["my_captions.py"]
    Image.new("RGB", (20, 30), "white").save(file.parent / "3.png")
    assert load(file, FILES).fingerprint.digest != before.digest
    memory = load(file, IN_MEMORY).fingerprint
    assert load(file, IN_MEMORY.replace("i * 30", "i * 20")).fingerprint.digest != memory.digest


def test_a_function_is_found_from_any_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(FILES)
    monkeypatch.chdir(file.parent)
    located = CaptionData(path="my_captions.py:pairs").located()
    assert located.path == f"{file}:pairs"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def pairs():\n    yield 3", "pair 0 is 3, and must be a pair"),
        ("def pairs():\n    yield 'x.png', [4]", r"pair 0: captions must be a text or a list of texts, not \[4\]"),
        ("def pairs():\n    yield 4, ['a']", "pair 0 is a int, and must be a PIL image"),
        ("def pairs():\n    return []", "yields no images"),
        ("def pairs():\n    raise ValueError('no disk')", "ValueError at line 2"),
        ("def other():\n    pass", "no function called pairs"),
        (
            "n = [0]\ndef pairs():\n    n[0] += 1\n    yield '1.png', str(n)\n    yield '2.png', 'x'",
            "the same pairs each",
        ),
    ],
)
def test_an_unusable_function_is_refused_in_a_sentence(code: str, message: str, file: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(file, code)
