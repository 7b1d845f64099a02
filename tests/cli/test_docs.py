"""The commands in the documentation are valid: their flags exist and take the values that are shown."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from seedfast import recipes
from seedfast.cli import COMMANDS
from seedfast.cli.arguments import parse
from seedfast.cli.compare import Compare
from seedfast.cli.compress import Compress
from seedfast.cli.decompress import Decompress
from seedfast.cli.evaluate import Evaluate
from seedfast.cli.sample import sample_class
from seedfast.cli.score import Score
from seedfast.cli.study import StudyOptions
from seedfast.cli.train import parse_run
from seedfast.data.caption.dataset import CaptionAssets
from seedfast.data.image.dataset import ImageAssets
from seedfast.data.image.processor import CenterCropResize
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Characters

ROOT = Path(__file__).parents[2]
PRETRAINED = ("finetune", "--model")
"""Commands with these words read a pretrained model before they know their flags."""
OWN = ("my_", "bigram")
"""Commands with files of the tutorials, which tests/docs runs."""


def commands() -> list[tuple[str, ...]]:
    """The words of each command of seedfast in the shell blocks of README and docs."""
    found = []
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in file.read_text().split("```")[1::2]:
            lines = block.replace("\\\n", " ").splitlines()
            parts = [part.strip() for line in lines for part in line.split("&&")]
            found += [tuple(shlex.split(part, comments=True)[1:]) for part in parts if part.startswith("seedfast ")]
    return found


def request_class(recipe: str) -> Any:
    """The class of the requests of a recipe's family."""
    tokenizer = Characters("ab")
    if recipe == "image-caption":
        assets: Any = CaptionAssets(tokenizer, CenterCropResize(8, 1), 8)
    elif recipe.startswith("image"):
        assets = ImageAssets(8, 1, ("a", "b"), (1, 1))
    else:
        assets = TextAssets(tokenizer, 16, validation_tokens=1, validation_bytes=1, one_document_per_window=False)
    generator = recipes.make(recipe).objective.build(assets).generator
    assert generator is not None
    return generator.Request


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_documented_command_is_valid(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, *rest = words
    assert name in COMMANDS
    if any(word.startswith(OWN) for word in rest):
        return
    if name == "train" and not set(PRETRAINED) & set(rest):
        asked = parse_run(rest[0], rest[1:])
        assert asked.run.recipe == rest[0]
    recipe = rest[0].removeprefix("runs/") if rest else ""
    if name in ("evaluate", "score") and "--judge" not in rest:
        asked_numbers: Any = parse({"evaluate": Evaluate, "score": Score}[name], rest, prog=f"seedfast {name}")
        assert str(asked_numbers.run) == rest[0]
    if name in ("compress", "decompress"):
        asked_file: Any = parse({"compress": Compress, "decompress": Decompress}[name], rest, prog=f"seedfast {name}")
        assert str(asked_file.run).startswith("runs/")
    if name == "compare":
        assert parse(Compare, rest, prog="seedfast compare").runs
    if name == "study":
        assert parse(StudyOptions, rest, prog="seedfast study").data
    if name == "sample" and recipe in recipes.RECIPES and recipe != "finetune":
        asked_samples: Any = parse(sample_class(request_class(recipe)), rest, prog="seedfast sample")
        assert str(asked_samples.run) == rest[0]


def test_some_commands_are_documented() -> None:
    documented = {words[0] for words in commands()}
    assert {"train", "sample", "evaluate", "score", "compress", "decompress", "report", "verify"} <= documented
