"""The best checkpoint to the hub and the journal to Weights & Biases: real processes, and a hub that may be broken."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.helpers.hub_server import Hub, Mood, serving
from tests.helpers.runs import Silent, flags, small_run, train_in, train_until
from tests.loop.test_distributed import LAUNCH

from seedfast import recipes
from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.listeners import background, wandb
from seedfast.listeners import hub as upload
from seedfast.listeners.base import Listener, Listeners
from seedfast.loop.open import open_session
from seedfast.loop.train import run_training
from seedfast.run_folder import journal
from seedfast.run_folder.train_state import digest, read_tensors

Serve = Callable[[Mood], Hub]


@pytest.fixture(autouse=True)
def _fair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "NICE", 0)  # on a machine that others use too, the processes would starve


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Serve]:
    """Makes a hub, which is then the hub of this test's processes."""
    opened: list[Any] = []

    def begin(mood: Mood) -> Hub:
        opened.append(serving(mood))
        hub: Hub = opened[-1].__enter__()
        for name, value in {
            "HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "hf"),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        return hub

    # This process must not think that it is offline: it looks whether names are names, no more.
    yield begin
    for each in opened:
        each.__exit__(None, None, None)


class WaitingFor(Silent):
    """Does not let the training go on beyond step 7 before the hub has been asked, however slow this machine is."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def step(self, session: Any, entry: dict[str, Any], seconds: float) -> None:
        if entry["step"] == 7:
            wait_for(lambda: self._hub.asked)


def wait_for(what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def left(folder: Path) -> tuple[str, list[Any]]:
    """What a run leaves behind, to the last bit."""
    lines = [{key: value for key, value in entry.items() if key != "time"} for entry in journal.read(folder)]
    return digest(read_tensors(trained.find(folder).folder)), lines


def events(folder: Path) -> list[str]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [line["reason"] for line in lines if line["event"] == "warning"]


def test_the_best_checkpoint_arrives_and_can_be_sampled_from(story: Path, serve: Serve, tmp_path: Path) -> None:
    hub, run = serve("kind"), small_run("text-masked", story, hub="me/model")
    train_in(tmp_path / "run", run)
    best = json.loads((tmp_path / "run/best.json").read_text())["ema"]["step"]
    assert hub.commits[-1][0] == f"Step {best}"
    assert hub.private, "nothing is made public unasked"
    assert json.loads((tmp_path / "run/hub.json").read_text())["step"] == best
    hub.write(tmp_path / "got")
    assert str(tmp_path) not in (tmp_path / "got/run.yaml").read_text(), "no folder of this machine"
    names = {str(file.relative_to(tmp_path / "got")) for file in (tmp_path / "got").rglob("*.*")}
    assert not any("optimizer" in name or "model.safetensors" in name for name in names)
    ours, theirs = (trained.find(tmp_path / name, at=best) for name in ("run", "got"))
    assert not theirs.problems()
    assert all(
        tensor.equal(read_tensors(theirs.folder)["ema"][n]) for n, tensor in read_tensors(ours.folder)["ema"].items()
    )
    samples = []
    for each in (ours, theirs):
        model = trained.load(recipes.stored(each.folder), each)
        samples.append(model.sample(model.family.request(num=2), seed=1).texts)  # type: ignore[attr-defined]
    assert samples[0] == samples[1]
    asked = len(hub.asked)
    train_in(tmp_path / "run", run)  # it is there: nothing is uploaded again
    assert len(hub.asked) == asked


def test_a_captioner_arrives_as_its_export(story: Path, serve: Serve, tmp_path: Path) -> None:
    hub = serve("kind")
    train_in(tmp_path / "run", small_run("image-caption", story, steps=4, eval_every=0, hub="me/model"))
    hub.write(tmp_path / "got")
    best = json.loads((tmp_path / "run/best.json").read_text())["ema"]["step"]
    held = load_file(tmp_path / f"run/checkpoints/step-{best:08d}/ema.safetensors")
    given = load_file(tmp_path / "got/model.safetensors")
    assert all(tensor.equal(held[name]) for name, tensor in given.items())
    assert trained.bare(tmp_path / "got").family.assets.tokenizer.size  # type: ignore[attr-defined]


@pytest.mark.parametrize("mood", ["broken", "silent"])
def test_a_hub_that_fails_is_warned_of_and_changes_nothing(
    mood: Mood, story: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hub, run = serve(mood), small_run("text-masked", story, steps=8, eval_every=4)
    with open_session(replace(run, hub="me/model"), tmp_path / "run") as opened:
        run_training(opened, WaitingFor(hub))
        monkeypatch.setattr(upload, "PATIENCE", 600.0 if mood == "broken" else 1.0)
    train_in(tmp_path / "alone", run)
    assert left(tmp_path / "run") == left(tmp_path / "alone")
    said = capsys.readouterr().err
    reason = {"broken": "500", "silent": "it did not end within 1 s"}[mood]
    assert hub.asked
    assert all(reason in each and "by hand: seedfast push" in each for each in events(tmp_path / "run"))
    assert events(tmp_path / "run")[-1] in said
    assert not (tmp_path / "run/hub.json").exists()
    if mood == "broken":  # mended, the next session makes up for it
        hub.mood = "kind"
        train_in(tmp_path / "run", replace(run, hub="me/model"))
        assert hub.commits


def test_without_network_or_token_training_ends_all_the_same(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of whoever runs the tests
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(wandb, "PATIENCE", 600.0)
    run = small_run("text-masked", story, steps=3, hub="me/model", wandb="project")
    assert train_in(tmp_path / "run", run).step == 3
    said = " ".join(events(tmp_path / "run"))
    assert "127.0.0.1 cannot be reached" in said
    assert "No API key configured" in said


def test_ctrl_c_is_not_held_up_by_a_silent_hub(story: Path, serve: Serve, tmp_path: Path) -> None:
    hub, run = serve("silent"), small_run("text-masked", story, steps=100_000, eval_every=2)
    words = [sys.executable, "-m", "seedfast", "train", "text-masked", *flags(run), "--hub", "me/model", "--out"]
    training = subprocess.Popen([*words, str(tmp_path / "run")], stderr=subprocess.PIPE)
    wait_for(lambda: hub.asked)
    training.send_signal(signal.SIGINT)
    _, said = training.communicate(timeout=100)  # the hub would be silent for longer
    assert training.returncode == 130, said
    assert b"Interrupted and saved" in said


@pytest.mark.parametrize(
    ("package", "options"), [("huggingface_hub.utils", {"hub": "me/model"}), ("wandb", {"wandb": "project"})]
)
def test_a_missing_package_is_one_sentence_before_the_first_step(
    package: str, options: dict[str, Any], story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(wandb, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(UserError, match=r"pip install 'seedfast\["):
        train_in(tmp_path / "run", small_run("text-masked", story, steps=2, **options))
    assert not list(journal.read(tmp_path / "run"))


def test_a_name_that_is_none_is_refused(story: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="USER/MODEL"):
        train_in(tmp_path / "run", small_run("text-masked", story, steps=2, hub="a/b/c"))


def sent(run_folder: Path) -> list[tuple[str, dict[str, Any], dict[int, dict[str, float]]]]:
    """Of each session: the name of the run, its configuration and the numbers of each step, as its file has them.

    The file is a log of records of LevelDB: blocks of 32 kB, and before each part its checksum, length and place.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted((run_folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        content, place, whole = path.read_bytes(), 7, b""
        name, config, steps = "", {}, dict[int, dict[str, float]]()
        while place + 7 <= len(content):
            if 0x8000 - place % 0x8000 < 7:  # the rest of a block is too short for a header
                place += 0x8000 - place % 0x8000
            size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
            whole += content[place + 7 : place + 7 + size]
            place += 7 + size
            if kind in (2, 3):  # the first or a middle part
                continue
            record, whole = Record.FromString(whole), b""
            if record.HasField("run"):
                name = record.run.run_id
                config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.HasField("history"):
                row = {item.key or "/".join(item.nested_key): item for item in record.history.item}
                values = {key: json.loads(item.value_json) for key, item in row.items() if item.value_json}
                steps.setdefault(record.history.step.num, {}).update(values)
        found.append((name, config, steps))
    return found


def test_weights_and_biases_has_each_line_of_the_journal_also_after_a_resume(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "PATIENCE", 3600.0)
    run = small_run("text-masked", story, steps=10, save_every=4, eval_every=5, sample_every=5, wandb="project")
    with open_session(run, tmp_path / "run") as opened:
        train_until(opened, 7)
    train_in(tmp_path / "run", run)
    train_in(tmp_path / "alone", replace(run, wandb=None))
    assert left(tmp_path / "run") == left(tmp_path / "alone"), "it changes no bit"
    (name, _, first), (again, config, second) = sent(tmp_path / "run")
    assert name == again == (tmp_path / "run/wandb.id").read_text()
    assert config["seed"] == run.seed
    assert config["model"]["width"] == 16
    wanted: dict[int, dict[str, float]] = {}
    for entry in journal.read(tmp_path / "run"):
        if numbers := journal.scalars(entry):
            wanted.setdefault(entry["step"], {}).update(numbers)
    # Offline nobody can say what has arrived, so the second session sends all of it: the same numbers.
    for seen, last in ((first, 7), (second, 10)):
        assert {s: {k: row[k] for k in wanted[s]} for s, row in seen.items()} == {
            s: wanted[s] for s in range(1, last + 1)
        }
    assert any(key.startswith("samples/") for key in second[5])


def test_what_follows_a_journal_waits_for_whole_lines(tmp_path: Path) -> None:
    def written() -> Iterator[bool]:
        with (tmp_path / "journal.jsonl").open("ab", buffering=0) as file:
            for part in (b'{"step": 1}\n{"st', b'ep": 2}', b'\n{"step": 3}\n'):
                file.write(part)
                yield False
            file.write(b'{"step": 4}\n{"step"')
            yield True

    (tmp_path / "journal.jsonl").touch()
    story = written()
    assert [entry["step"] for entry in journal.follow(tmp_path, lambda: next(story))] == [1, 2, 3, 4]


def test_a_listener_that_cannot_write_is_told_nothing_more() -> None:
    class Full(Listener):
        told = 0

        def line(self, entry: Any) -> None:
            self.told += 1
            raise OSError("no space left")

    warnings: list[str] = []
    full = Full()
    listeners = Listeners([full], warnings.append)
    for step in range(3):
        listeners.line({"step": step})
    listeners.close(finished=True)
    assert full.told == len(warnings) == 1
    assert "no space left" in warnings[0]


@pytest.mark.slow
def test_of_two_processes_only_the_leading_one_uploads(story: Path, serve: Serve, tmp_path: Path) -> None:
    hub, run = serve("kind"), small_run("text-masked", story, micro_batch=3, steps=4)
    words = [*LAUNCH, "train", "text-masked", *flags(run), "--hub", "me/model", "--out", str(tmp_path / "run")]
    result = subprocess.run(words, capture_output=True, text=True, timeout=300, env=os.environ | {"WORLD_SIZE": "2"})
    assert result.returncode == 0, result.stderr
    assert len(hub.commits) == 1
