"""Which checkpoint is used: the best, the newest, a step's, or a checkpoint's own folder; one rule everywhere."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers import cli
from tests.helpers.runs import small_run, train_in

import seedfast
from seedfast.errors import UserError
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder.checkpoints import Checkpoints
from seedfast.run_folder.choice import find, is_checkpoint, run_folder_of


@pytest.fixture(scope="module")
def run(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that gets worse after step 8, where its rate is raised beyond reason."""
    folder = tmp_path_factory.mktemp("choice") / "run"
    run = small_run("text-autoregressive", story, steps=8, eval_every=4, save_every=4, keep=9)
    train_in(folder, run)
    run = replace(run, steps=20, optimizer=OptimizerConfig(lr=10.0))
    train_in(folder, run, allow_change=("optimizer.lr",))
    return folder


@pytest.fixture
def two_best(run: Path, tmp_path: Path) -> Path:
    """The run with another best step of its raw weights."""
    shutil.copytree(run, tmp_path / "run")
    records = json.loads((run / "best.json").read_text())
    records["raw"]["step"] = 4
    (tmp_path / "run/best.json").write_text(json.dumps(records))
    return tmp_path / "run"


def best(run: Path) -> dict[str, int]:
    return {weights: record["step"] for weights, record in json.loads((run / "best.json").read_text()).items()}


def test_the_run_is_one_where_the_rule_matters(run: Path) -> None:
    assert best(run) == {"raw": 8, "ema": 8}, "the newest, step 20, is worse"


def test_the_best_checkpoint_is_that_of_the_weights_which_are_used(two_best: Path) -> None:
    assert find(two_best).step == find(two_best, weights="ema").step == 8
    assert find(two_best, weights="raw").step == 4
    assert seedfast.load(two_best).step == 8
    assert seedfast.load(two_best, weights="raw").step == 4


def test_the_newest_and_a_step_are_named(run: Path) -> None:
    assert find(run, at="newest").step == seedfast.load(run, step="newest").step == 20
    assert find(run, at=4).step == 4
    with pytest.raises(UserError, match="no checkpoint at step 3; intact are those of the steps 0, 4, 8"):
        find(run, at=3)


@pytest.mark.parametrize("words", [[], ["--at", "newest"], ["--at", "4"], ["--weights", "raw"]], ids=" ".join)
def test_every_command_tells_the_step_and_the_weights(
    words: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = "raw" if "raw" in words else "ema"
    step = 20 if "newest" in words else 4 if "4" in words else best(run)[weights]
    note = "" if "--at" in words else r" (best)"  # step 4 was the best until step 8
    assert not cli.seedfast("evaluate", run, "--json", *words)
    record = json.loads(capsys.readouterr().out)
    assert (record["weights"], record["step"]) == (weights, step)
    for command in (["evaluate", run], ["sample", run, "--tokens", "2"]):
        assert not cli.seedfast(*command, *words)
        shown = capsys.readouterr()
        assert f"{weights} weights, step {step}{note} of {run}" in shown.out + shown.err


def test_a_checkpoint_is_named_in_place_of_its_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newest = run / "checkpoints/step-00000020"
    before = sorted(path.name for path in newest.rglob("*"))
    assert is_checkpoint(newest)
    assert not is_checkpoint(run)
    assert run_folder_of(newest) == run.absolute()
    assert seedfast.load(newest).step == 20
    for command in ("evaluate", "sample", "digest"):
        assert not cli.seedfast(command, newest)
    capsys.readouterr()
    assert sorted(path.name for path in newest.rglob("*")) == before, "nothing is written into it"
    with pytest.raises(UserError, match="is the checkpoint of step 20"):
        find(newest, at=4)


def test_a_checkpoint_that_was_copied_elsewhere_is_used_alone(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints/step-00000020", tmp_path / "mine")
    assert seedfast.load(tmp_path / "mine").step == 20
    (tmp_path / "mine/model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="is damaged"):
        find(tmp_path / "mine")


def test_a_damaged_best_checkpoint_is_named_and_others_are_still_used(
    two_best: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (two_best / "checkpoints/step-00000008/ema.safetensors").write_bytes(b"broken")
    assert cli.seedfast("sample", two_best, "--tokens", "2") == 2
    named = r"step-00000008 is damaged: .*ema\.safetensors .*; intact are those of the steps 0, 4, 12, 16, 20\..*--at"
    assert re.search(named, capsys.readouterr().err)
    for words in (["--at", "newest"], ["--at=4"]):
        assert cli.seedfast("sample", two_best, "--tokens", "2", *words) == 0


def test_training_does_not_write_into_a_checkpoint(run: Path, story: Path) -> None:
    with pytest.raises(UserError, match="is a checkpoint, which is never changed"):
        train_in(run / "checkpoints/step-00000020", small_run("text-autoregressive", story))


def test_without_a_validation_the_best_is_the_newest(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/best.json").unlink()
    assert find(tmp_path / "run").step == 20
    (tmp_path / "run/best.json").write_text("{}")
    assert find(tmp_path / "run").step == 20
    record = json.loads((run / "best.json").read_text())["raw"]
    for content in (
        "[",
        "[]",
        '{"raw": 3}',
        json.dumps({"other": record}),
        json.dumps({"raw": {**record, "step": "1"}}),
    ):
        (tmp_path / "run/best.json").write_text(content)
        with pytest.raises(UserError, match=r"best\.json .* Pass --at newest"):
            find(tmp_path / "run")
    with pytest.raises(UserError, match="has no checkpoint"):
        find(tmp_path)
    with pytest.raises(UserError, match="There is no folder"):
        find(tmp_path / "nowhere")


def test_the_best_checkpoints_are_kept(run: Path) -> None:
    assert {*best(run).values(), 20} <= {checkpoint.step for checkpoint in Checkpoints(run).committed()}
