"""Completion offers what the table of commands has: commands, first words, flags with their values, and run folders."""

import subprocess
from pathlib import Path
from typing import get_args

import pytest
from tests.cli.test_cli import seedfast

from seedfast.cli import COMMANDS
from seedfast.cli.completion import Shell, entries
from seedfast.recipes import RECIPES


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    """The script of each shell."""
    from seedfast.cli.shells import SCRIPTS

    known = entries()
    return {shell: make(known) for shell, make in SCRIPTS.items()}


def test_every_command_is_completed_and_has_something_to_follow() -> None:
    found = {entry.words[0]: entry for entry in entries()}
    assert list(found) == list(COMMANDS)
    assert all(entry.flags or entry.values or entry.takes_path for entry in found.values())
    assert {entry.words[1] for entry in entries() if entry.words[0] == "train" and entry.words[1:]} == set(RECIPES)


def test_every_shell_has_a_script_with_every_command(scripts: dict[str, str]) -> None:
    assert set(scripts) == set(get_args(Shell))
    for script in scripts.values():
        assert all(name in script for name in COMMANDS)
        assert "model.width" in script
        assert "temperature" in script


def test_the_command_prints_the_script(scripts: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("completion", "fish") == 0
    assert capsys.readouterr().out == scripts["fish"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ca"], {"captions", "cache"}),
        (["train", "text-m"], {"text-masked"}),
        (["compress", "--wi"], {"--with"}),
        (["train", "text-masked", "--model.wid"], {"--model.width"}),
        (["train", "text-masked", "--precision", "b"], {"bf16"}),
        (["train", "text-masked", "--out", ""], {"runs/mine"}),
        (["evaluate", "runs/"], {"runs/mine"}),
        (["sample", "mi"], {"runs/mine"}),
        (["prepare", ""], {"flickr30k"}),
        (["nothing", ""], set()),
    ],
)
def test_bash_offers(words: list[str], offered: set[str], scripts: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / "runs/mine/run.yaml").touch()
    (tmp_path / "runs/other").mkdir()
    ask = 'COMP_WORDS=(seedfast "$@"); COMP_CWORD=$#; _seedfast; printf "%s\\n" "${COMPREPLY[@]}"'
    command = ["bash", "-c", f"{scripts['bash']}\n{ask}", "bash", *words]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert shown.stderr == ""
    assert set(shown.stdout.split()) == offered
