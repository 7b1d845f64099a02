"""The micro-batch that fits into memory: found before the run begins, stored in it, halved where it does not fit."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.processes import python, start_ranks
from tests.helpers.runs import flags, small_run, train_in, train_until

from seedfast.errors import TrainingStopped, UserError
from seedfast.loop import memory, trial
from seedfast.loop.config import Run
from seedfast.loop.micro_batch import even_parts, predicted, search
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session, stored_run
from seedfast.loop.train import run_training
from seedfast.run_folder import journal

FAILS_FROM = 4  # the step, from 0, at which a forward pass of more than three examples does not fit any more


@given(most=st.integers(1, 4000), limit=st.integers(0, 5000))
def test_the_largest_even_part_that_fits_is_found(most: int, limit: int) -> None:
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    found = search(even_parts(most), fits)
    assert found == max((size for size in even_parts(most) if size <= limit), default=0)
    assert max(tried) <= max(2 * found, min([size for size in even_parts(most) if size > found], default=0))
    assert len(tried) == len(set(tried)) <= 25


@given(most=st.integers(1, 3000), passes=st.integers(1, 3000))
def test_even_parts_need_no_more_passes_than_larger_ones(most: int, passes: int) -> None:
    size = -(-most // min(passes, most))
    assert size in even_parts(most)
    assert -(-most // size) <= passes


def test_the_peak_of_a_larger_size_is_on_the_line_through_the_last_two() -> None:
    assert predicted({1: 110, 3: 130}, 8) == pytest.approx(180)
    assert predicted({1: 110}, 8) == 0  # nothing is known yet


def test_errors_of_allocators_are_told_from_others() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 52, dtype=torch.uint8).fill_(1)
    assert memory.is_out_of_memory(caught.value)
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert memory.is_out_of_memory(MemoryError())
    assert not memory.is_out_of_memory(RuntimeError("shapes do not match"))
    assert not memory.is_out_of_memory(ValueError("out of memory"))


def test_the_peak_of_memory_includes_what_is_freed_again() -> None:
    device = torch.device("cpu")
    small, large = (memory.peak(device, lambda size=size: torch.ones(size << 20).sum()) for size in (1, 60))
    assert large - small > 150 << 20


LIMITED = """
import json, resource, sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.helpers.runs import small_run
from seedfast.data.text.config import TextData
from seedfast.loop import memory
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.train import run_training
from seedfast.run_folder import journal

text, folder, extra, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
run = small_run("text-autoregressive", text, steps=2, batch_size=16, eval_every=0, eval_examples=1)
run = replace(run, data=TextData(path=str(text), tokenizer="bytes", context=1024))
run = replace(run, micro_batch=size if size == "auto" else int(size))
if extra:
    memory.limit = lambda device: None  # nothing is known: only the allocator's own error can stop the search
    soft = memory._status()["VmSize"] + (extra << 20)
    resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
with open_session(run, folder) as session:
    run_training(session, Silent())
    print(json.dumps([session.run.micro_batch, [e["loss"] for e in journal.read(folder) if "loss" in e]]))
"""


def limited(text: Path, folder: Path, extra: int, size: str) -> tuple[int, list[float]]:
    """The micro-batch and the losses of a short training, in a process with so many mebibytes to spare (0: all)."""
    done = python(LIMITED, text, folder, str(extra), size).finish()
    assert done.returncode == 0, done.stderr
    found, losses = json.loads(done.stdout)
    return found, losses


def test_the_allocator_s_own_error_ends_the_search(story: Path, tmp_path: Path) -> None:
    found, losses = limited(story, tmp_path / "limited", 60, "auto")
    assert 1 <= found < 16
    # Memory may be short in a later step too, which then halves the size once more: equal up to rounding.
    assert limited(story, tmp_path / "free", 0, str(found)) == (found, pytest.approx(losses, rel=1e-6))


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "limit", lambda device: 1 << 60)


def test_memory_that_is_known_to_be_too_small_is_not_tried(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(memory, "limit", lambda device: 1000)
    monkeypatch.setattr(memory, "peak", lambda device, work: tried.append(work) or 100 + 300 * len(tried))
    run = small_run("text-masked", story, micro_batch="auto")
    with open_session(run, tmp_path / "run") as opened:
        assert opened.run.micro_batch == 2  # the peaks are 400, 700 and, as is predicted for the third size, 1000
        assert len(tried) == 2


def test_a_network_without_room_for_one_example_is_refused(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "limit", lambda device: 1 << 20)
    with pytest.raises(UserError, match=r"Not even one example fits into 0\.00 GB"):
        with open_session(small_run("text-masked", story, micro_batch="auto"), tmp_path / "run"):
            pass
    assert not (tmp_path / "run").exists()


def test_the_found_number_is_stored_and_kept(
    story: Path, tmp_path: Path, roomy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run("text-autoregressive", story, micro_batch="auto", steps=8)
    with open_session(run, tmp_path) as opened:
        assert opened.run.micro_batch == 6
        train_until(opened, 5)
    assert stored_run(run, tmp_path).micro_batch == 6
    monkeypatch.setattr(trial, "largest_that_fits", None)  # which would be called by a search
    train_in(tmp_path, run)
    assert stored_run(run, tmp_path).micro_batch == 6


UNEQUAL = """
import os, runpy, sys
from seedfast.loop import memory

limits, peaks = [int(number) for number in sys.argv.pop(1).split(",")], iter([400, 700, 1000])
own = limits[int(os.environ["RANK"])]


def peak(device, work):
    if not own:
        raise memory.OutOfMemory("out of memory")
    work()
    return next(peaks)


memory.limit, memory.peak = lambda device: own or 10**9, peak
sys.argv[0] = "seedfast"
runpy.run_module("seedfast", run_name="__main__", alter_sys=True)
"""
"""Trains in a group whose processes have these bytes of memory; 0: it lacks memory where that was not foreseen."""


def unequal(limits: str, story: Path, folder: Path) -> list["CompletedProcess[str]"]:
    """A training by two processes with such memory that share the weights."""
    run = small_run("text-masked", story, batch_size=16, steps=2)
    words = ["train", "text-masked", *flags(run), "--micro-batch", "auto", "--placement", "fsdp", "--out", folder]
    return [rank.finish() for rank in start_ranks(2, "-c", [UNEQUAL, limits, *words])]


def test_processes_that_share_the_weights_measure_together(story: Path, tmp_path: Path) -> None:
    first, second = unequal("1000000,1000", story, tmp_path / "run")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "2 examples fit into a forward pass (4 for each step)" in first.stderr + first.stdout


def test_a_lack_of_memory_in_one_of_them_ends_all_with_a_sentence(story: Path, tmp_path: Path) -> None:
    first, second = unequal("1000000,0", story, tmp_path / "run")
    assert all(done.returncode in (2, 3) for done in (first, second))
    sentence = "1 examples in a forward pass need more memory than there is (out of memory)"
    assert (first.stderr + second.stderr).count(sentence) == 1
    assert "Traceback" not in first.stderr + second.stderr
    assert not (tmp_path / "run").exists()


@contextmanager
def shrinking(opened: Session) -> Iterator[None]:
    """A network that lacks memory for more than three examples from a step on, where gradients are needed."""

    def refuse(_: Any, args: Any, kwargs: Any) -> None:
        examples = max(
            len(each) for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor) and each.ndim == 2
        )
        if torch.is_grad_enabled() and opened.state.step >= FAILS_FROM and examples > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")

    hook = opened.state.network.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def halved(run: Run, folder: Path, stop: int | None = None) -> None:
    with open_session(run, folder) as opened, shrinking(opened):
        if stop is None:
            run_training(opened, Silent())
        else:
            train_until(opened, stop)


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in journal.read(folder) if "digest" in entry]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "time"} for entry in journal.read(folder)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_micro_batch_that_does_not_fit_is_halved_with_the_same_numbers(
    workers: int, story: Path, tmp_path: Path, roomy: None
) -> None:
    run = small_run("text-masked", story, micro_batch="auto", steps=6, workers=workers)
    halved(run, tmp_path / "halved")
    assert stored_run(run, tmp_path / "halved").micro_batch == 3
    events = [json.loads(line) for line in (tmp_path / "halved" / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "micro-batch"] == [FAILS_FROM]
    train_in(tmp_path / "whole", replace(run, micro_batch=6))
    assert losses(tmp_path / "halved") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    assert losses(tmp_path / "halved")[:FAILS_FROM] == losses(tmp_path / "whole")[:FAILS_FROM]


def test_a_halved_run_that_is_stopped_continues_to_the_same_bits(story: Path, tmp_path: Path, roomy: None) -> None:
    run = small_run("text-masked", story, micro_batch="auto", steps=8)
    halved(run, tmp_path / "whole")
    halved(run, tmp_path / "stopped", stop=6)
    train_in(tmp_path / "stopped", run)  # with memory for all, and the smaller micro-batch
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")


def test_a_number_that_the_user_gave_is_not_halved(story: Path, tmp_path: Path) -> None:
    run = small_run("text-masked", story, micro_batch=6, steps=12)
    with pytest.raises(TrainingStopped, match=r"6 examples in a forward pass need more memory .* --micro-batch 3\."):
        halved(run, tmp_path)


def test_an_error_of_another_kind_is_no_lack_of_memory(story: Path, tmp_path: Path, roomy: None) -> None:
    with open_session(small_run("text-masked", story, micro_batch="auto"), tmp_path) as opened:
        hook = opened.state.network.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
        with pytest.raises(RuntimeError, match="broken"):
            run_training(opened, Silent())
        hook.remove()
