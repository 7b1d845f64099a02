"""The words of other tools: the page names flags of ours that exist, and the command line answers theirs."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from tests.cli.test_cli import seedfast

from seedfast import recipes
from seedfast.cli.chosen import Chosen
from seedfast.cli.other_tools import ANSWERS, refuse_foreign_flags
from seedfast.cli.sample import Sample
from seedfast.cli.train import Train, parse_run
from seedfast.errors import UserError
from seedfast.families.caption.request import CaptionRequest
from seedfast.families.image.request import ImageRequest
from seedfast.families.text.causal_sampler import AutoregressiveRequest
from seedfast.families.text.embedding.generator import EmbeddingRequest
from seedfast.families.text.proofreading.generator import ProofreadingRequest
from seedfast.options import walk

PAGE = (Path(__file__).parents[2] / "docs/from-other-tools.md").read_text()
REQUESTS = (AutoregressiveRequest, ProofreadingRequest, EmbeddingRequest, ImageRequest, CaptionRequest)


def flags(names: set[str]) -> set[str]:
    return {f"--{name.replace('_', '-')}" for name in names}


def train_flags(recipe: str) -> set[str]:
    return flags({f.name for f in fields(Train)} | {name for name, *_ in walk(recipes.make(recipe))})


OURS = {
    "train": set().union(*(train_flags(recipe) for recipe in recipes.RECIPES)),
    "sample": flags({f.name for kind in (Sample, Chosen, *REQUESTS) for f in fields(kind)}),
}


def rows() -> list[tuple[str, str, str]]:
    """Each row of the page's tables: the command of its heading, their words, ours."""
    found, command = [], ""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or set(cells[0]) <= {"-"}:
            continue
        if heading := re.match(r"seedfast (.+)", cells[1]):
            command = heading[1]
        else:
            found.append((command, cells[0], cells[1]))
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[1])
def test_each_flag_of_ours_on_the_page_exists(row: tuple[str, str, str]) -> None:
    command, _, ours = row
    name, _, recipe = command.partition(" ")
    known = train_flags(recipe) if recipe and name == "train" else OURS[name]
    assert set(re.findall(r"--[a-z0-9.-]+", ours)) <= known


@pytest.mark.parametrize("command", ANSWERS)
def test_each_answer_names_flags_that_exist_and_refuses_none_of_ours(command: str) -> None:
    for flag, answer in ANSWERS[command].items():
        assert set(re.findall(r"--[a-z0-9.-]+", answer)) <= OURS[command], answer
        if f"--{flag}" in OURS[command]:
            assert any(name.startswith(f"--{flag}.") for name in OURS[command]), f"--{flag} is ours"


def test_the_page_and_the_command_line_agree_on_flags_with_dashes() -> None:
    unanswered = [
        flag
        for command, theirs, ours in rows()
        for flag in re.findall(r"`--([A-Za-z_-]+)`", theirs)
        if (name := command.split()[0]) in ANSWERS
        and f"--{flag}" not in OURS[name]
        and flag.replace("_", "-") not in ANSWERS[name] | ANSWERS["sample"]
        and ours
    ]
    assert set(unanswered) <= {"gradient_checkpointing", "original-model-name"}


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["--learning-rate", "1e-3"], "--optimizer.lr"),
        (["--learning_rate=1e-3"], "--optimizer.lr"),
        (["--lr", "1"], "--optimizer.lr"),
        (["--max_steps", "5"], "--steps"),
        (["--num-epochs", "5"], "--epochs"),
        (["--resume"], "--at STEP"),
        (["--lora"], "--model.adapter.kind lora"),
        (["--load-in-4bit"], "--model.adapter.base-precision nf4"),
        (["--num-processes", "2"], "torchrun"),
        (["--use-ema"], "--ema.half-life"),
        (["--amp"], "--precision"),
        (["--phase", "generate"], "seedfast sample"),
        (["--gradient-accumulation-steps", "4"], "--micro-batch"),
        (["--block-size", "4"], "--data.context"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_flag_of_another_tool_is_answered_in_one_sentence(words: list[str], ours: str) -> None:
    with pytest.raises(UserError, match=re.escape(ours)) as caught:
        parse_run("text-masked", words)
    assert "\n" not in str(caught.value)


def test_a_key_of_another_tool_in_a_file_is_answered(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("learning_rate: 1e-3\n")
    with pytest.raises(UserError, match=r"learning_rate of other tools, which is --optimizer\.lr here"):
        parse_run("text-masked", ["--config", str(tmp_path / "x.yaml")])


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            "captions --lr 3",
            "--lr of other tools belongs to seedfast train, where it is --optimizer.lr; seedfast captions",
        ),
        ("captions --num-beams 3", "--num-beams of other tools is --beams here"),
        ("evaluate --checkpoint-path x", "is the first word: seedfast evaluate RUN here"),
        ("export --max-new-tokens 3", "belongs to seedfast sample, where it is --tokens; seedfast export has no such"),
        ("fidelity --num_inference_steps 3", "is --steps here"),
        ("report --learning_rate=3", "belongs to seedfast train, where it is --optimizer.lr"),
        ("preview text-masked --block-size 3", "is --data.context here"),
        ("digest --resume", "belongs to seedfast train"),
    ],
)
def test_every_command_answers(words: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, *rest = words.split()
    assert seedfast(command, *(rest[:1] if command == "preview" else ["runs/a"]), *rest[command == "preview" :]) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "ours"),
    [
        ("--lora.rank", "--model.adapter.rank"),
        ("--training.max_steps", "--steps"),
        ("--model.n_layer", "--model.layers"),
        ("--optimizer.learning-rate", "--optimizer.lr"),
    ],
)
def test_words_with_dots_are_answered(flag: str, ours: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"{ours} here")):
        parse_run("text-masked", [flag, "3"])
    part, _, name = flag.removeprefix("--").partition(".")
    if part in ("lora", "training"):
        (tmp_path / "x.yaml").write_text(f"{part}: {{{name}: 3}}\n")
        with pytest.raises(UserError, match=re.escape(f"{ours} here")):
            parse_run("text-masked", ["--config", str(tmp_path / "x.yaml")])


def test_a_prompt_may_look_like_a_flag() -> None:
    refuse_foreign_flags("sample", ["--prompt", "--num-samples"], ())
    with pytest.raises(UserError, match="--num here"):
        refuse_foreign_flags("sample", ["--num-samples", "3"], ())
