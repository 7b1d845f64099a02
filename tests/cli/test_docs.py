"""The commands in the documentation are valid: their flags exist and take the values that are shown."""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import tiny_models
from tests.helpers.pages import Command, commands

from seedfast import recipes
from seedfast.cli import COMMANDS
from seedfast.cli.arguments import parse, without
from seedfast.cli.chat import _NOT_FOR_CHATS, Chat
from seedfast.cli.evaluate import _NOT_FOR_SAMPLES, JudgeSamples
from seedfast.cli.sample import sample_class
from seedfast.cli.train import parse_run
from seedfast.cli.verify import CHOICES
from seedfast.data.caption.dataset import CaptionAssets
from seedfast.data.image.dataset import ImageAssets
from seedfast.data.image.processor import CenterCropResize
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Characters
from seedfast.loop.plain_config import to_yaml

OWN = ("my_", "bigram", "sums.py")
"""Words that name files of the tutorials, which tests/docs runs."""
PLAIN = {
    "cache": "Cache", "captions": "CaptionArguments", "clean": "Clean", "compare": "Compare",
    "completion": "Completion", "compress": "Compress", "decompress": "Decompress", "diff": "Diff", "digest": "Digest",
    "evaluate": "Evaluate", "export": "Export", "fidelity": "FidelityFlags", "import": "Import", "journal": "Journal",
    "push": "Push", "recipes": "Recipes", "replay": "Replay", "report": "Report", "runs": "Runs", "score": "Score",
    "serve": "Serve", "studio": "Studio", "study": "StudyOptions",
}  # fmt: skip
"""The commands whose flags do not depend on what they are given, with the class of their flags."""


@cache
def request_class(recipe: str) -> Any:
    """The class of the requests of a recipe's family."""
    tokenizer = Characters("ab")
    if recipe == "image-caption":
        assets: Any = CaptionAssets(tokenizer, CenterCropResize(8, 1), 8)
    elif recipe.startswith("image"):
        assets = ImageAssets(8, 1, ("a", "b"), (1, 1))
    else:
        assets = TextAssets(
            tokenizer,
            16,
            validation_tokens=1,
            validation_bytes=1,
            one_document_per_window=False,
            preferences=recipe == "dpo",
        )
    generator = recipes.make(recipe).objective.build(assets).generator
    assert generator is not None
    return generator.Request


def recipe_of(folder: str, command: Command) -> str:
    """The recipe of a run folder: that of its page, or of its name; another one is taken for autoregressive."""
    recipe = dict(command.trained).get(folder, folder.removeprefix("runs/"))
    return recipe if recipe in recipes.RECIPES else "text-autoregressive"


def parse_training(words: Sequence[str], pretrained: Path) -> Any:
    """The arguments of a training. The name of a pretrained model becomes that of a tiny one in a folder."""
    recipe, *flags = words
    if "--model" in flags:
        place = flags.index("--model")
        flags[place : place + 2] = [] if recipe == "image-caption" else ["--model", str(pretrained)]
    return parse_run(recipe, flags)


def parsed(command: Command, pretrained: Path) -> Any:
    """The arguments of a command as a value. Raises SystemExit or UserError if they are wrong."""
    name, *rest = command.words
    prog = f"seedfast {name}"
    if name == "train":
        return parse_training(rest, pretrained)
    if name == "preview":
        own = [i for i, word in enumerate(rest) if word in ("--samples", "--step")]
        return parse_training([word for i, word in enumerate(rest) if i not in own and i - 1 not in own], pretrained)
    if name == "verify":
        kind = CHOICES[rest[0]][1]
        if rest[0] != "resume":
            return parse(kind, rest[1:], prog=f"{prog} {rest[0]}")
        at = rest.index("--kills")
        assert parse(kind, [rest[1], *rest[at : at + 2]], prog=f"{prog} resume").kills > 0
        return parse_training([*rest[1:at], *rest[at + 2 :]], pretrained)
    if name == "prepare":
        return parse(import_module("seedfast.cli.prepare").CHOICES[rest[0]][1], rest[1:], prog=prog)
    if name == "sample":
        return parse(sample_class(request_class(recipe_of(rest[0], command))), rest, prog=prog)
    if name == "chat":
        kind = without(request_class(recipe_of(rest[0], command)), _NOT_FOR_CHATS)
        return parse(Chat[kind], rest, prog=prog)
    if name == "evaluate" and "--judge" in rest:
        assert not set(rest) & set(_NOT_FOR_SAMPLES)
        kind = without(request_class(recipe_of(rest[0], command)), ("num", "trace", "explain"))
        return parse(JudgeSamples[kind], rest, prog=prog)
    module = "import_run" if name == "import" else name
    return parse(getattr(import_module(f"seedfast.cli.{module}"), PLAIN[name]), rest, prog=prog)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.folder(tmp_path_factory.mktemp("pretrained") / "llama", "llama", text="the cat sees the dog")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands are typed, with a run.yaml."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "run.yaml").write_text(to_yaml(recipes.make("text-masked")))
    return folder


DOCUMENTED = {" ".join(each.words): each for each in commands()}


@pytest.mark.parametrize("command", [pytest.param(each, id=text) for text, each in DOCUMENTED.items()])
def test_a_documented_command_is_valid(
    command: Command, pretrained: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    name, *rest = command.words
    if "--help" in command.words:
        assert name == "--help" or name in COMMANDS
    elif not any(word.startswith(OWN) for word in rest):
        assert parsed(command, pretrained) is not None


def test_every_command_is_documented() -> None:
    assert {command.words[0] for command in DOCUMENTED.values()} >= set(COMMANDS)


def test_a_wrong_flag_on_a_page_is_noticed(pretrained: Path) -> None:
    with pytest.raises(SystemExit):
        parsed(Command("page", ("train", "text-masked", "--data.contxt", "64"), ()), pretrained)
    with pytest.raises(SystemExit):
        parsed(Command("page", ("sample", "runs/x", "--passes", "3"), ()), pretrained)
