"""A run folder of a stranger: its files are data. Code that it names runs only with the user's consent."""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.runs import small_run, train_in

import seedfast
from seedfast import sealed_folder, user_code
from seedfast.cli import main
from seedfast.export import push

CODE = """
from dataclasses import dataclass, replace
from pathlib import Path
from seedfast import recipes
from seedfast.families.text.masked import Masked

Path(__file__).with_name("ran").touch()

@dataclass(frozen=True, kw_only=True)
class Own(Masked):
    pass

def own_class():
    return replace(recipes.make("text-masked"), objective=Own())

def built_in_classes():
    return recipes.make("text-masked")

def documents():
    return (Path(__file__).with_name("story.txt")).read_text().splitlines()
"""
SMALL = ("--data.tokenizer", "characters", "--data.context", "16", "--model.layers", "1", "--model.heads", "2",
         "--model.width", "16", "--batch-size", "4", "--steps", "2", "--eval-examples", "4", "--no-report")  # fmt: skip
KINDS = ("own_class", "built_in_classes", "documents")
Command = Callable[..., int]


@pytest.fixture(scope="module")
def place(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with code and runs that were trained with it: of an own class, an own recipe, and own data."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "code.py").write_text(CODE)
    shutil.copyfile(story, folder / "story.txt")
    code = folder / "code.py"
    for kind in KINDS:
        recipe, data = ("text-masked", f"{code}:{kind}") if kind == "documents" else (f"{code}:{kind}", str(story))
        with pytest.raises(SystemExit) as ended:
            main(["train", recipe, "--data", data, *SMALL, "--out", str(folder / kind)])
        assert not ended.value.code
    return folder


@pytest.fixture
def seedfast_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command in a session in which the user has named no file; returns its status."""

    def run(*words: object) -> int:
        monkeypatch.setattr(user_code, "_named", set())
        (place / "ran").unlink(missing_ok=True)
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return int(ended.value.code or 0)

    return run


@pytest.fixture(params=KINDS)
def stranger(request: pytest.FixtureRequest, place: Path, tmp_path: Path) -> Path:
    """A run folder that somebody else has trained: the same one in another place."""
    return Path(shutil.copytree(place / request.param, tmp_path / request.param))


NEEDING_CODE = {
    "sample": {"own_class"},
    "evaluate": {"own_class", "documents"},
    "preview": {"own_class", "documents"},
    "report": set(),
    "digest": set(),
}
"""The kinds of runs for which a command needs the code that the folder names."""


@pytest.mark.parametrize(
    ("command", "stranger"),
    [
        pytest.param(command, kind, marks=pytest.mark.slow if command == "report" and kind != "own_class" else ())
        for command in NEEDING_CODE
        for kind in KINDS
    ],
    indirect=["stranger"],
)
def test_no_command_runs_code_that_only_the_folder_names(
    command: str, stranger: Path, place: Path, seedfast_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = stranger.name in NEEDING_CODE[command]
    assert seedfast_command(command, stranger) == (2 if needed else 0)
    assert not (place / "ran").exists()
    if needed:
        (sentence,) = capsys.readouterr().err.strip().splitlines()
        assert f"names the Python file {place / 'code.py'}" in sentence
        assert "--trust" in sentence
        assert seedfast_command(command, stranger, "--trust") == 0
        assert (place / "ran").exists()


@pytest.mark.parametrize("words", [["replay", "--step", "1"], ["verify", "run"], ["verify", "best"], ["diff", "{run}"]])
def test_the_past_is_not_computed_by_code_that_only_the_folder_names(
    words: list[str], stranger: Path, place: Path, seedfast_command: Command
) -> None:
    words = [word.format(run=stranger) for word in words]
    """The story repeats itself, so its validation windows are in the training data, and no proof of a run holds."""
    if stranger.name == "own_class":
        expected = 2
    elif words[:2] == ["verify", "run"]:
        expected = 1
    elif stranger.name == "built_in_classes" or words[0] == "diff":  # equal checkpoints are equal without the data
        expected = 0
    else:
        expected = 2
    assert seedfast_command(*words, stranger) == expected
    assert not (place / "ran").exists()
    assert seedfast_command(*words, stranger, "--trust") == (1 if words[:2] == ["verify", "run"] else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_needs_no_trust_where_the_user_has_trained(kind: str, place: Path, seedfast_command: Command) -> None:
    assert seedfast_command("evaluate", place / kind) == 0
    assert (place / "ran").exists() == (kind != "built_in_classes")


def test_a_file_that_has_changed_needs_trust_again(place: Path, seedfast_command: Command) -> None:
    code = place / "code.py"
    try:
        code.write_text(CODE + "\n# harmful\n")
        assert seedfast_command("sample", place / "own_class") == 2
        assert not (place / "ran").exists()
    finally:
        code.write_text(CODE)


def test_what_the_user_names_runs(place: Path, tmp_path: Path, seedfast_command: Command) -> None:
    folder = shutil.copytree(place / "documents", tmp_path / "run")
    assert seedfast_command("evaluate", folder, "--data", f"{place / 'code.py'}:documents") == 0
    words = ["--out", folder, "--data", f"{place / 'code.py'}:documents", "--no-report"]
    assert seedfast_command("train", "text-masked", *words) == 0


def test_training_on_does_not_run_it_either(
    place: Path, tmp_path: Path, seedfast_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(place / "documents", tmp_path / "run")
    assert seedfast_command("train", "text-masked", "--steps", 3, "--out", folder) == 2
    assert "--trust" in capsys.readouterr().err
    other = shutil.copytree(place / "own_class", tmp_path / "other")
    assert seedfast_command("train", "text-masked", "--out", other) == 2
    assert not (place / "ran").exists()
    assert seedfast_command("train", "text-masked", "--steps", 3, "--out", folder, "--trust", "--no-report") == 0
    assert seedfast_command("evaluate", folder) == 0, "now the user has trained in this folder"


def test_python_asks_for_trust(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_code, "_named", set())
    folder = shutil.copytree(place / "own_class", tmp_path / "run")
    with pytest.raises(seedfast.UserError, match="trust=True"):
        seedfast.load(folder)
    assert seedfast.load(folder, trust=True).run.recipe.endswith("code.py:own_class")


def test_a_manifest_cannot_name_other_classes(place: Path, tmp_path: Path) -> None:
    """Only the classes of the ready runs stand for themselves; nothing is imported by name."""
    from seedfast.recipes import _of_built_in_classes

    folder = shutil.copytree(place / "built_in_classes", tmp_path / "run")
    checkpoint = folder / "checkpoints/step-00000002"
    stored = json.loads((checkpoint / "manifest.json").read_text())["classes"]
    assert stored["objective"] == "seedfast.families.text.masked:Masked"
    assert _of_built_in_classes("x.py:f", checkpoint) is not None


@pytest.fixture(scope="module")
def trained(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run."""
    folder = tmp_path_factory.mktemp("links") / "run"
    train_in(folder, small_run("text-masked", story, steps=2))
    return folder


def resealed(run: Path, name: str, content: str) -> None:
    """Replace a file of each checkpoint, and make the manifest fit: a seal has no key, so any stranger can."""
    for manifest in run.glob("checkpoints/step-*/manifest.json"):
        (manifest.parent / name).write_text(content)
        stored = json.loads(manifest.read_text())
        del stored["seal"]
        digest = hashlib.sha256(content.encode()).hexdigest()
        stored["files"][name] = {**stored["files"][name], "size": len(content.encode()), "sha256": digest}
        manifest.write_text(json.dumps({**stored, "seal": sealed_folder._seal_of(stored)}))


class TestResealed:
    """A stranger's checkpoint whose manifest fits what the stranger wrote."""

    @pytest.mark.parametrize("content", ["[]", "{}", "", "[" * 100_000], ids=["list", "object", "empty", "deep"])
    def test_a_state_that_is_none_is_one_sentence(
        self, content: str, trained: Path, tmp_path: Path, seedfast_command: Command, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = Path(shutil.copytree(trained, tmp_path / "run"))
        resealed(run, "state.json", content)
        assert seedfast_command("sample", run, "--tokens", 3) == 2
        assert "cannot be read" in capsys.readouterr().err.strip().splitlines()[-1]

    @pytest.mark.parametrize(("layers", "width"), [(100_000_000, 128), (1, 16_000_000)])
    def test_a_network_far_larger_than_its_weights_is_not_built(
        self, layers: int, width: int, trained: Path, tmp_path: Path, seedfast_command: Command, capsys: Any
    ) -> None:
        run = Path(shutil.copytree(trained, tmp_path / "run"))
        huge = (run / "run.yaml").read_text()
        for key, size in (("layers", layers), ("width", width)):
            huge = re.sub(rf"(\n  {key}:) \d+", rf"\1 {size}", huge)
            assert f"{key}: {size}\n" in huge
        resealed(run, "run.yaml", huge)
        (run / "run.yaml").write_text(huge)
        for words in (["sample", run, "--tokens", 3], ["train", "--out", run, "--steps", 9]):
            assert seedfast_command(*words) == 2
            assert "far larger than the weights stored with it" in capsys.readouterr().err


class TestLinks:
    """A stranger's folder with links to files of the user."""

    @pytest.fixture
    def secret(self, tmp_path: Path) -> Path:
        """A file of the user's."""
        path = tmp_path / "secret.txt"
        path.write_text("secret")
        return path

    @pytest.mark.parametrize("name", ["lock", "journal.jsonl", "events.jsonl", "checkpoints", "samples"])
    def test_training_writes_through_no_link(self, name: str, trained: Path, story: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        run = Path(shutil.copytree(trained, tmp_path / "run"))
        if (run / name).exists():
            (run / name).rename(outside / name)
        else:
            (outside / name).mkdir()
        (run / name).symlink_to(outside / name)
        before = {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
        with pytest.raises(seedfast.UserError, match="through a link"):
            train_in(run, small_run("text-masked", story, steps=3))
        assert {path: path.stat().st_mtime_ns for path in outside.rglob("*")} == before

    def test_only_files_of_the_manifest_are_uploaded(self, trained: Path, secret: Path, tmp_path: Path) -> None:
        run = Path(shutil.copytree(trained, tmp_path / "run"))
        (run / "checkpoints/step-00000002/assets/more").symlink_to(secret)
        (run / "checkpoints/step-00000002/notes").symlink_to(secret)
        push.write(seedfast.load(run), tmp_path / "upload")
        assert "secret" not in {path.read_text() for path in (tmp_path / "upload").rglob("*") if path.suffix == ""
                                and path.is_file()}  # fmt: skip
        assert not list((tmp_path / "upload").rglob("more"))

    def test_a_folder_with_a_link_out_is_not_uploaded(self, secret: Path, tmp_path: Path) -> None:
        folder = tmp_path / "exported"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "weights").symlink_to(secret)
        with pytest.raises(seedfast.UserError, match="leads out of"):
            push.push(folder, "user/model", private=True)

    def test_the_report_copies_no_file_from_elsewhere(
        self, trained: Path, secret: Path, tmp_path: Path, seedfast_command: Command
    ) -> None:
        run = Path(shutil.copytree(trained, tmp_path / "run"))
        (run / "samples/step-00000009").mkdir(parents=True)
        (run / "samples/step-00000009/a.txt").symlink_to(secret)
        assert seedfast_command("report", run) == 2
        assert not (run / "report.html").exists()

    @pytest.mark.parametrize("name", ["run.yaml", "journal.jsonl", "best.json", "latest.json"])
    def test_a_named_pipe_blocks_no_command(
        self, name: str, trained: Path, tmp_path: Path, seedfast_command: Command
    ) -> None:
        run = Path(shutil.copytree(trained, tmp_path / "run"))
        (run / name).unlink()
        os.mkfifo(run / name)
        assert seedfast_command("report", run) == 2


BOMB = "".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi",
               strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [x]\n" + BOMB, "more than 20000 values"),
        ("a: &a [*a]\n", "contains itself"),
        ("[" * 100_000, "nested more than 50 deep"),
        ("#" * 2_000_000, "more than 1048576 bytes"),
    ],
    ids=["aliases", "cycle", "depth", "size"],
)
def test_a_run_yaml_that_would_exhaust_the_memory_is_one_sentence(
    content: str, message: str, tmp_path: Path, seedfast_command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(content)
    for words in (["report", tmp_path], ["train", "text-masked", "--config", tmp_path / "run.yaml"]):
        assert seedfast_command(*words) == 2
        (sentence,) = capsys.readouterr().err.strip().splitlines()
        assert message in sentence


def test_aliases_of_a_usual_size_are_values(tmp_path: Path) -> None:
    from seedfast.untrusted import read_yaml

    (tmp_path / "run.yaml").write_text("a: &a [1, 2]\nb: {<<: {c: *a}, d: *a}\n")
    assert read_yaml(tmp_path / "run.yaml") == {"a": [1, 2], "b": {"c": [1, 2], "d": [1, 2]}}


def test_a_chat_template_reaches_nothing_of_python() -> None:
    from seedfast.data.text.tokenizers.chat import ChatTemplate

    template = ChatTemplate("{{ messages.__class__.__mro__ }}", {})
    with pytest.raises(seedfast.UserError, match=r"template refuses .*unsafe"):
        template.render([{"role": "user", "content": "Hi"}], add_generation_prompt=False)


def test_code_that_comes_with_a_model_never_runs_and_is_never_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seedfast.models.hf_causal_lm import architecture

    (tmp_path / "configuration.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "configuration.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))  # transformers would ask
    with pytest.raises(seedfast.UserError, match="cannot be read"):
        architecture(str(tmp_path))
    assert not (tmp_path / "ran").exists()
