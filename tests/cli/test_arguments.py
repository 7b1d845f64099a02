"""Flags have one convention: bare or with a value; one flag with several values or the flag several times."""

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.test_cli import seedfast

from seedfast.cli import COMMANDS
from seedfast.cli.arguments import flags, parse
from seedfast.cli.fidelity import FidelityFlags
from seedfast.cli.sample import Sample
from seedfast.cli.train import parse_run
from seedfast.families.text.causal_sampler import AutoregressiveRequest
from seedfast.loop.config import settings
from seedfast.recipes import RECIPES, make


def trained_with(words: str) -> dict[str, Any]:
    """The settings of a run of text-masked with these flags."""
    return settings(parse_run("text-masked", shlex.split(words)).run)


@pytest.mark.parametrize(
    ("words", "value"),
    [("--tensorboard", True), ("--tensorboard True", True), ("--tensorboard=true", True),
     ("--tensorboard false", False),     ("--no-tensorboard", False), ("--tensorboard --steps 3", True), ("", False)],
)  # fmt: skip
def test_a_flag_of_yes_or_no_is_bare_or_has_a_value(words: str, value: bool) -> None:
    assert trained_with(words)["tensorboard"] is value


@pytest.mark.parametrize(
    "words", ["--data.exclude a b", "--data.exclude a --data.exclude b", "--data.exclude=a --data.exclude=b"]
)
def test_a_list_replaces_that_of_the_recipe_in_every_form(words: str) -> None:
    assert trained_with(words)["data.exclude"] == ["a", "b"]
    assert trained_with(f"{words} --steps 3")["steps"] == 3


def test_lists_of_one_length_are_given_together() -> None:
    run = parse_run(
        "image-diffusion", ["--model.multipliers", "1", "2", "--model.attention", "False", "--model.attention", "True"]
    ).run
    assert settings(run)["model.multipliers"] == [1, 2]
    assert settings(run)["model.attention"] == [False, True]


def test_a_list_can_be_emptied() -> None:
    assert settings(make("text-masked"))["data.exclude"] != []
    assert trained_with("--data.exclude --steps 3")["data.exclude"] == []


@pytest.mark.parametrize(
    "words", ["--seeds 1 2 --json", "--seeds 1 --seeds 2 --json True", "--json --seeds=1 --seeds 2"]
)
def test_other_commands_have_the_convention_of_train(words: str) -> None:
    asked = parse(FidelityFlags, ["runs/a", *words.split()], prog="seedfast fidelity")
    assert asked.seeds == (1, 2)
    assert asked.json


@pytest.mark.parametrize("words", ["--prompt '- item' -5", "--prompt='- item' --prompt=-5"])
def test_a_text_may_begin_with_a_dash(words: str) -> None:
    kind = Sample[AutoregressiveRequest]
    asked: Any = parse(kind, ["runs/a", *shlex.split(words)], prog="seedfast sample")
    assert asked.request.prompt == ("- item", "-5")


def test_the_flags_of_a_request_and_of_nested_parts_are_known() -> None:
    assert {"seed", "prompt", "temperature"} <= {flag.name for flag in flags(Sample[AutoregressiveRequest])}
    assert {"tensorboard", "model.width"} <= {flag.name for flag in flags(make("text-masked"))}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_help_of_a_recipe_fits_a_screen(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("train", recipe, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    shown = {line.split()[0].removeprefix("--") for line in lines if line.startswith("  --")}
    known = {flag.name for flag in flags(make(recipe))} | {
        "data",
        "model",
        "out",
        "config",
        "print-config",
        "quiet",
        "size",
    }
    assert 10 <= len(shown & known) == len(shown)


@pytest.mark.parametrize(
    "words", [["train", "text-masked", "--help-all"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_help_has_80_columns_where_the_terminal_has(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert seedfast(*words) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_help_breaks_a_line_only_where_the_next_word_does_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert seedfast("train", "text-masked", "--help-all") == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    text = " " * 26
    pairs = [pair for pair in pairwise(lines) if all(line.startswith(text) for line in pair)]
    assert len(pairs) > 50
    assert [first for first, second in pairs if len(f"{first} {second.split()[0]}") <= 78] == []


def test_a_printed_configuration_starts_its_own_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert seedfast("train", "image-diffusion", "--steps", "7", "--print-config") == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["steps"] == 7
    assert list(tmp_path.iterdir()) == [], "nothing is trained"
    (tmp_path / "run.yaml").write_text(printed)
    assert seedfast("train", "--config", "run.yaml", "--print-config") == 0
    assert capsys.readouterr().out == printed


def test_a_configuration_without_a_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("steps: 7\n")
    assert seedfast("train", "--config", str(tmp_path / "run.yaml")) == 2
    assert "names no recipe" in capsys.readouterr().err


def test_code_that_only_a_configuration_names_needs_consent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    (tmp_path / "run.yaml").write_text(f"recipe: {tmp_path / 'own.py'}:recipe\n")
    assert seedfast("train", "--config", str(tmp_path / "run.yaml")) == 2
    assert "--trust" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()
