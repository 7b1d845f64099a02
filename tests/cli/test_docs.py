"""The commands that the documentation shows are commands: their flags exist and their values are taken."""

import shlex
from pathlib import Path

import pytest
import tyro

from seedfast import recipes
from seedfast.cli import COMMANDS
from seedfast.cli.sample import Sample
from seedfast.cli.train import parse

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("finetune", "--model")
"""Of commands that would read a pretrained model before they knew their flags."""


def commands() -> list[tuple[str, ...]]:
    """The words of each command of seedfast in the shell blocks of README and docs."""
    found = []
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in file.read_text().split("```")[1::2]:
            lines = block.replace("\\\n", " ").splitlines()
            parts = [part.strip() for line in lines for part in line.split("&&")]
            found += [tuple(shlex.split(part, comments=True)[1:]) for part in parts if part.startswith("seedfast ")]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_documented_command_is_one(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, *rest = words
    assert name in COMMANDS
    if name == "train" and not set(ELSEWHERE) & set(rest):
        asked = parse(rest[0], rest[1:])
        assert asked.run.recipe == rest[0]
    if name == "sample" and rest[0].startswith("runs/") and not set(ELSEWHERE) & {rest[0].removeprefix("runs/")}:
        run = recipes.make(rest[0].removeprefix("runs/"))
        kind = type(run.objective).build.__globals__[_family(run.objective)].request
        asked = tyro.cli(Sample[kind], args=rest, config=(tyro.conf.UseAppendAction,))  # type: ignore[valid-type]
        assert str(asked.run) == rest[0]


def _family(objective: object) -> str:
    """The name of the family that this objective builds."""
    return str(type(objective).build.__annotations__["return"]).strip("'\"")


def test_some_commands_are_documented() -> None:
    documented = {words[0] for words in commands()}
    assert {"train", "sample", "evaluate", "report", "verify"} <= documented
