"""Two real processes, in the environment that torchrun gives them, train as one does."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.helpers.processes import ranks, seedfast, start_ranks
from tests.helpers.runs import flags, small_run

from seedfast.errors import UserError
from seedfast.loop.distributed import DistributedContext
from seedfast.run_folder import journal
from seedfast.verify.resume import compare
from seedfast.verify.saboteur import Plan


@pytest.mark.parametrize(
    "recipe",
    ["text-proofreading", "image-diffusion", pytest.param("text-masked", marks=pytest.mark.slow)],
)
def test_two_processes_train_as_one_to_rounding(recipe: str, story: Path, tmp_path: Path) -> None:
    words = ["train", recipe, *flags(small_run(recipe, story, micro_batch=2, steps=4, eval_every=3)), "--out"]
    seedfast(*words, tmp_path / "one", check=True)
    assert all(done.returncode == 0 for done in ranks(2, *words, tmp_path / "two"))
    one, two = list(journal.read(tmp_path / "one")), list(journal.read(tmp_path / "two"))
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        if "loss" in a:
            assert a["weight"] == b["weight"]  # the same samples
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)  # the same noise
            assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
        else:
            assert a["validation"]["ema"]["loss"] == pytest.approx(b["validation"]["ema"]["loss"], rel=1e-5)
    weights, others = (load_file(tmp_path / n / "checkpoints/step-00000004/model.safetensors") for n in ("one", "two"))
    assert all((weights[name] - others[name]).abs().max() < 1e-3 for name in weights)


def test_two_processes_resume_bit_for_bit_after_one_was_killed(story: Path, tmp_path: Path) -> None:
    recipe = "text-masked"
    words = ["train", recipe, *flags(small_run(recipe, story, micro_batch=2, steps=8)), "--out"]
    assert all(done.returncode == 0 for done in ranks(2, *words, tmp_path / "whole"))
    plan = Plan("step", after=6, rank=1).encode()
    group = start_ranks(2, "seedfast.verify.saboteur", [plan, *words, tmp_path / "killed"])
    assert group[1].finish().returncode == -signal.SIGKILL
    left = group[0].finish()
    assert left.returncode == 3
    assert "Another process of this training has ended, so process 0 of 2 stops too" in left.stderr
    assert "Traceback" not in left.stderr
    assert all(done.returncode == 0 for done in ranks(2, *words, tmp_path / "killed"))
    assert compare(tmp_path / "whole", tmp_path / "killed")[0] is None
    events = [json.loads(line)["event"] for line in (tmp_path / "killed/events.jsonl").read_text().splitlines()]
    assert "resumed" in events


def test_a_batch_that_cannot_be_shared_is_refused(story: Path, tmp_path: Path) -> None:
    words = [
        "train",
        "text-masked",
        *flags(small_run("text-masked", story, batch_size=5)),
        "--out",
        str(tmp_path / "x"),
    ]
    main, other = ranks(2, *words)
    assert main.returncode == 2
    assert "cannot be shared evenly by 2 processes" in main.stderr
    assert other.returncode != 0


def test_a_process_without_a_validation_example_blocks_no_other(story: Path, tmp_path: Path) -> None:
    small = small_run("text-autoregressive", story, micro_batch=2, steps=3, eval_examples=1)
    done = ranks(2, "train", "text-autoregressive", *flags(small), "--out", tmp_path / "x")
    assert [each.returncode for each in done] == [0, 0]


PLACE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29501"}


@pytest.mark.parametrize(
    "changed",
    [
        {"RANK": "2"},
        {"RANK": "-1"},
        {"RANK": None},
        {"LOCAL_RANK": None},
        {"WORLD_SIZE": "two"},
        {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": None},
        {"MASTER_ADDR": None},
        {"MASTER_PORT": "http"},
    ],
)
def test_an_environment_of_no_group_is_refused(changed: dict[str, str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (PLACE | changed).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"names no process of a group .*: start the processes with torchrun"):
        DistributedContext.join("cpu", "fp32", 30)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [0, 1])
def test_a_process_that_the_others_do_not_meet_ends_with_a_sentence(alone: int, story: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = PLACE | {"RANK": str(alone), "MASTER_PORT": str(free.getsockname()[1])}
    words = ["train", "text-masked", *flags(small_run("text-masked", story)), "--rank-timeout", "0.01"]
    done = seedfast(*words, "--out", tmp_path / "run", env=os.environ | place)
    assert done.returncode == 3
    assert f"Process {alone} of 2 does not meet the others at 127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr


OWN = Path(__file__).with_name("uneven_diagnostics.py")


def diagnostics(folder: Path) -> list[dict[str, float]]:
    """The training diagnostics of each step."""
    return [entry["diagnostics"] for entry in journal.read(folder) if "loss" in entry]


@pytest.mark.parametrize("recipe", ["uneven", "per_name"])
def test_diagnostics_that_only_some_ranks_know_are_averaged_over_all_ranks(
    recipe: str, story: Path, tmp_path: Path
) -> None:
    """Each micro-batch has diagnostics of its own; the twin `per_name` reduces each rank's names one by one."""
    # Micro-batches of a rank's size: one process and two have the same ones.
    small = small_run("text-masked", story, micro_batch=3, steps=3, eval_every=0)
    words = ["train", f"{OWN}:{recipe}", *flags(small), "--out"]
    seedfast(*words, tmp_path / "one", check=True)
    one = diagnostics(tmp_path / "one")
    assert any(len(names) > 1 for names in one), "the ranks must know different names"
    done = ranks(2, *words, tmp_path / "two")
    if recipe == "uneven":
        assert [each.returncode for each in done] == [0, 0], done[0].stderr
        assert diagnostics(tmp_path / "two") == [pytest.approx(step, rel=1e-4) for step in one]
    else:  # with one name on each rank, the reductions of different names are added up
        assert any(each.returncode for each in done) or diagnostics(tmp_path / "two") != [
            pytest.approx(s, rel=1e-4) for s in one
        ]
