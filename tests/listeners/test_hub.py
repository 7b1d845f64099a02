"""The upload of the best checkpoint to the hub: real processes, and a hub that works, fails or does not answer."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.helpers.hub_server import Behaviour, Hub, Serve
from tests.helpers.outcome import outcome, warnings_of
from tests.helpers.processes import Command, ranks
from tests.helpers.runs import Silent, flags, small_run, train_in

import seedfast
from seedfast.errors import UserError
from seedfast.listeners import hub as hub_listener
from seedfast.listeners import tracker
from seedfast.loop.open import open_session
from seedfast.loop.train import run_training
from seedfast.run_folder.choice import find


class WaitingFor(Silent):
    """Holds the training at step 7 until the hub has received a request, on any slow machine."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def step(self, session: Any, entry: dict[str, Any], seconds: float) -> None:
        if entry["step"] == 7:
            wait_for(lambda: self._hub.requests)


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_best_checkpoint_is_uploaded_and_can_be_sampled_from(story: Path, serve: Serve, tmp_path: Path) -> None:
    hub, run = serve("working"), small_run("text-masked", story, steps=4, eval_every=4, hub="me/model")
    train_in(tmp_path / "run", run)
    best = json.loads((tmp_path / "run/best.json").read_text())["ema"]["step"]
    assert hub.commits[-1][0] == f"Step {best}"
    assert hub.private, "a repository is created as a private one"
    assert json.loads((tmp_path / "run/hub.json").read_text())["step"] == best
    hub.download(tmp_path / "copy")
    assert str(tmp_path) not in (tmp_path / "copy/run.yaml").read_text(), "no folder of this machine"
    names = {str(file.relative_to(tmp_path / "copy")) for file in (tmp_path / "copy").rglob("*.*")}
    assert not any("optimizer" in name or "model.safetensors" in name for name in names)
    original, copy = (find(tmp_path / name, at=best) for name in ("run", "copy"))
    assert not copy.problems()
    copied = copy.tensors("ema")["ema"]
    assert all(tensor.equal(copied[name]) for name, tensor in original.tensors("ema")["ema"].items())
    assert copy.manifest.measure == original.manifest.measure
    samples = [seedfast.load(tmp_path / name, step=best).sample(num=2, seed=1) for name in ("run", "copy")]
    assert samples[0].texts == samples[1].texts  # type: ignore[attr-defined]
    requests = len(hub.requests)
    train_in(tmp_path / "run", run)  # nothing is uploaded again
    assert len(hub.requests) == requests
    commits = len(hub.commits)
    train_in(tmp_path / "run", replace(run, hub=None), at=0, allow_change=("clip",))
    train_in(tmp_path / "run", replace(run, clip=0.5), at=0, allow_change=("clip",))  # another checkpoint of the step
    best = json.loads((tmp_path / "run/best.json").read_text())["ema"]["step"]
    assert hub.commits[commits:][-1][0] == f"Step {best}"


def test_a_captioner_is_uploaded_as_its_export(story: Path, serve: Serve, tmp_path: Path) -> None:
    hub = serve("working")
    train_in(tmp_path / "run", small_run("image-caption", story, steps=4, eval_every=0, hub="me/model"))
    hub.download(tmp_path / "copy")
    best = json.loads((tmp_path / "run/best.json").read_text())["ema"]["step"]
    original = load_file(tmp_path / f"run/checkpoints/step-{best:08d}/ema.safetensors")
    uploaded = load_file(tmp_path / "copy/model.safetensors")
    assert all(tensor.equal(original[name]) for name, tensor in uploaded.items())
    assert seedfast.load(tmp_path / "copy").tokenizer.size


@pytest.mark.parametrize("behaviour", ["broken", "silent"])
def test_a_hub_that_fails_is_a_warning_and_changes_nothing(
    behaviour: Behaviour, story: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hub, run = serve(behaviour), small_run("text-masked", story, steps=8, eval_every=4)
    with open_session(replace(run, hub="me/model"), tmp_path / "run") as session:
        run_training(session, WaitingFor(hub))
        monkeypatch.setattr(hub_listener, "PATIENCE", 600.0 if behaviour == "broken" else 1.0)
    train_in(tmp_path / "alone", run)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "alone")
    stderr, warnings = capsys.readouterr().err, warnings_of(tmp_path / "run")
    reason = {"broken": "500", "silent": "it did not end within 1 s"}[behaviour]
    assert hub.requests
    assert all(reason in each and "by hand: seedfast push" in each for each in warnings)
    assert warnings[-1] in stderr
    assert not (tmp_path / "run/hub.json").exists()
    if behaviour == "broken":  # once the hub works again, the next session uploads
        hub.behaviour = "working"
        train_in(tmp_path / "run", replace(run, hub="me/model"))
        assert hub.commits


def test_without_network_or_token_training_finishes(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # without the login of the user who runs the tests
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(tracker, "PATIENCE", 600.0)
    run = small_run("text-masked", story, steps=3, hub="me/model", wandb="project")
    assert train_in(tmp_path / "run", run).step == 3
    warnings = " ".join(warnings_of(tmp_path / "run"))
    assert "127.0.0.1 cannot be reached" in warnings
    assert "No API key configured" in warnings


def test_ctrl_c_does_not_wait_for_a_silent_hub(story: Path, serve: Serve, tmp_path: Path) -> None:
    hub, run = serve("silent"), small_run("text-masked", story, steps=100_000, eval_every=2)
    words = ["train", "text-masked", *flags(run), "--hub", "me/model", "--out", tmp_path / "run"]
    training = Command("seedfast", words)
    wait_for(lambda: hub.requests)
    os.kill(training.pid, signal.SIGINT)
    done = training.finish(timeout=100)  # the hub is silent for longer
    assert done.returncode == 130, done.stderr
    assert "Interrupted and saved" in done.stderr


def test_a_missing_package_is_an_error_before_the_first_step(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", None)
    with pytest.raises(UserError, match=r"pip install 'seedfast\["):
        train_in(tmp_path / "run", small_run("text-masked", story, steps=2, hub="me/model"))
    assert not (tmp_path / "run").exists()


def test_an_impossible_name_is_refused(story: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="USER/MODEL"):
        train_in(tmp_path / "run", small_run("text-masked", story, steps=2, hub="a/b/c"))


@pytest.mark.slow
def test_of_two_processes_only_rank_0_uploads(story: Path, serve: Serve, tmp_path: Path) -> None:
    hub, run = serve("working"), small_run("text-masked", story, micro_batch=3, steps=4)
    words = ["train", "text-masked", *flags(run), "--hub", "me/model", "--out", str(tmp_path / "run")]
    done = ranks(2, *words)
    assert [each.returncode for each in done] == [0, 0], done[0].stderr
    assert len(hub.commits) == 1
