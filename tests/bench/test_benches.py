"""Every benchmark runs to its end with small arguments, and compares what it claims to compare."""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.helpers import browser
from tests.helpers.processes import Command
from tests.helpers.runs import small_run, train_in, write_images

import seedfast
from seedfast.models.transformer import Transformer
from seedfast.optim.adamw import AdamW
from seedfast.optim.muon import StackedMuon
from seedfast.optim.optimizer import OptimizerConfig

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text with enough different words for every tokenizer."""
    file = tmp_path_factory.mktemp("bench") / "text.txt"
    file.write_text("".join(Path(module.__file__).read_text() for module in (argparse, tarfile)))
    return file


@pytest.fixture(scope="module")
def runs(text: Path) -> dict[str, Path]:
    """Trained run folders of one small model of each text family that a benchmark compares."""
    folders = {}
    for recipe in ("text-autoregressive", "text-masked", "text-proofreading", "text-embedding"):
        folders[recipe] = text.parent / recipe
        train_in(folders[recipe], small_run(recipe, text, steps=2))
    return folders


def run_bench(name: str, *arguments: object, cwd: Path, fresh: bool = False) -> str:
    """The output of a benchmark. Raises CalledProcessError, with its stderr printed, if it fails.

    fresh: in a new interpreter, because a process inherits the peak of the memory of the one that it was forked from.
    """
    source = str(Path(seedfast.__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SEEDFAST_CACHE": str(cwd / "cache"), "PYTHONPATH": source}
    words = [str(BENCH / f"{name}.py"), *map(str, arguments)]
    if fresh:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
    else:
        done = Command(words[0], words[1:], cwd=cwd, env=environment).finish()
    print(done.stderr, file=sys.stderr)
    done.check_returncode()
    return done.stdout


@pytest.fixture
def run_bench_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`run_bench` in this process, for a benchmark that starts processes of seedfast at once, as the tests do."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.syspath_prepend(BENCH)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.setenv("SEEDFAST_CACHE", os.environ["SEEDFAST_CACHE"])  # what a benchmark sets is undone
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(name).main()
        out, err = capsys.readouterr()
        assert not ended.value.code, err
        return out

    return run


def test_every_benchmark_has_a_test() -> None:
    tested = {"loop_overhead", "finetune_speed", "chunked_memory", "corruption", "proofreading", "embedding_samplers"}
    tested |= {"digits_fidelity", "image_speed", "captions", "resume_cost", "decoding", "generation", "shards", "gpu"}
    tested |= {"async_save", "faults", "kills", "damage", "compression", "serve", "studio", "gradient_noise"}
    elsewhere = {"study"}  # tests/scaling/test_study.py
    others = {"time_to_loss", "start_up", "exact_sums", "common", "nanogpt"}
    assert {path.stem for path in BENCH.glob("*.py")} == tested | elsewhere | others


def test_loop_overhead(text: Path, tmp_path: Path) -> None:
    small = ("--steps", 2, "--rounds", 1, "--threads", 1, "--width", 16)
    lines = run_bench("loop_overhead", "--data", text, *small, cwd=tmp_path).splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [
        [recipe, kind] for recipe in ("text-autoregressive", "text-masked") for kind in ("muon", "adamw")
    ]


def test_finetune_speed(text: Path, tmp_path: Path) -> None:
    small = ("--steps", 3, "--rounds", 1, "--threads", 1)
    assert "ratio" in run_bench("finetune_speed", "--data", text, *small, cwd=tmp_path)


def test_chunked_memory(tmp_path: Path) -> None:
    small = ("--vocabulary", 500, "--tokens", 16, "--width", 8, "--threads", 1)
    assert "the losses differ by" in run_bench("chunked_memory", *small, cwd=tmp_path)


def test_corruption(tmp_path: Path) -> None:
    small = ("--rounds", 1, "--seconds", 0.001, "--shapes", "4x16")
    assert run_bench("corruption", *small, cwd=tmp_path).splitlines()[-1].split()[:2] == ["4", "16"]


def test_proofreading(runs: dict[str, Path], tmp_path: Path) -> None:
    models = ("--proofreading", runs["text-proofreading"], "--masked", runs["text-masked"])
    small = ("--evaluations", 4, "--samples", 2, "--plot", "quality.png", "--threads", 1)
    out = run_bench("proofreading", "--judge", runs["text-autoregressive"], *models, *small, cwd=tmp_path)
    assert "proofreading, proofread" in out
    assert len(json.loads((tmp_path / "results.json").read_text())) == 7
    assert (tmp_path / "quality.png").stat().st_size > 0


def test_embedding_samplers(runs: dict[str, Path], tmp_path: Path) -> None:
    small = ("--samples", 2, "--seeds", 1, "--tables", "guidance")
    out = run_bench("embedding_samplers", runs["text-embedding"], runs["text-autoregressive"], *small, cwd=tmp_path)
    assert "guidance 3.0" in out


def test_gradient_noise(runs: dict[str, Path], tmp_path: Path) -> None:
    out = run_bench("gradient_noise", runs["text-masked"], "--windows", 2, cwd=tmp_path)
    laws = {line.split()[0]: float(line.split()[1]) for line in out.splitlines() if "uniform k" in line}
    assert set(laws) == {"root-k", "fixed-k", "best"}
    assert laws["best"] <= laws["root-k"] < laws["fixed-k"]
    with pytest.raises(subprocess.CalledProcessError):
        run_bench("gradient_noise", runs["text-autoregressive"], cwd=tmp_path)


def test_digits_fidelity(tmp_path: Path) -> None:
    out = run_bench("digits_fidelity", "--steps", 2, "--seeds", 1, "--images", 12, "--threads", 1, cwd=tmp_path)
    assert "distance" in out


def test_decoding(runs: dict[str, Path], tmp_path: Path) -> None:
    small = ("--samples", 2, "--seeds", 1)
    for recipe, way in {"text-masked": "confidence, top-p 0.9", "text-proofreading": "8 + 24"}.items():
        models = (runs[recipe], runs["text-autoregressive"])
        assert way in run_bench("decoding", "text", *models, *small, "--only", way, cwd=tmp_path)
    ways = ("null label, DDIM 50", "classes, DPM-Solver++(2M) 25, guidance 3")
    out = run_bench("decoding", "digits", "--steps", 2, "--images", 12, "--only", *ways, cwd=tmp_path)
    assert [line[:46].strip() for line in out.splitlines()] == list(ways)


def test_generation(tmp_path: Path) -> None:
    small = ("--rounds", 1, "--context", 8, "--batch", 1, 2, "--threads", 1)
    lines = run_bench("generation", *small, cwd=tmp_path).splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["8", "1"], ["8", "2"]]
    assert "64 evaluations" in lines[3]
    assert [line.split()[:2] for line in lines[4:]] == [["8", "1"], ["8", "2"]]


def test_time_to_loss(text: Path, tmp_path: Path) -> None:
    small = ("--rounds", 1, "--iterations", 2, "--only", "masked", "--steps-beside", 2, "--threads", 1)
    flags = "--steps 2 --schedule.warmup 0 --model.width 16 --model.ngrams 64 --sample-every 0"
    short = tmp_path / "short.txt"
    short.write_text(text.read_text()[:20_000])
    *_, row = run_bench("time_to_loss", short, *small, "--flags", flags, cwd=tmp_path).splitlines()
    assert row.split()[0] == "masked"
    assert "of nanoGPT's time" in row
    assert "s beside (goal" in row


def test_start_up(text: Path, tmp_path: Path) -> None:
    rows = run_bench("start_up", text, "--rounds", 1, "--threads", 1, cwd=tmp_path).splitlines()
    assert [re.split(r"\s{2,}", row)[0] for row in rows] == ["import torch", "seedfast"]


def test_compression(text: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    small = ("--steps", 2, "--width", 16, "--context", 8, "--size", 120, "--threads", 1, "--recipes", "text-block")
    head, *rows = run_bench("compression", text, *small, cwd=tmp_path).splitlines()
    assert head.startswith("120 bytes, after")
    names = [row.split("|")[1].strip() for row in rows[3:]]
    assert names[:2] == ["xz -9e", "xz -9e, after the text before"]
    assert names[-1] == "text-block"
    out = run_bench("compression", text, *small, "--runs", runs["text-masked"], "--unmasking", 2, cwd=tmp_path)
    assert out.splitlines()[-1].startswith("| text-masked, 2 steps | ")


def test_exact_sums(text: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", text.read_bytes())
    small = ("--steps", 2, "--rounds", 1, "--width", 16, "--batch", 2, "--chunks", 1, 2)
    data = ("--data", text, "--images", tmp_path / "images")
    head, *rows = run_bench("exact_sums", *data, *small, cwd=tmp_path).splitlines()
    assert "chunk 1" in head
    assert [row.split()[0] for row in rows] == ["text-autoregressive", "text-masked", "image-diffusion"]
    assert all(float(ratio) > 0 for row in rows for ratio in row.split()[2:4])


def test_gpu(text: Path, tmp_path: Path) -> None:
    small = ("--quick", "--steps", 2, "--threads", 1, "--only", "text", "images")
    out = run_bench("gpu", "--data", text, *small, cwd=tmp_path)
    names = [line[:52].strip() for line in out.splitlines()[2:]]
    assert names[:2] == ["plain loop, nanoGPT's network, compiled", "text-autoregressive, nanoGPT's network, off"]
    assert names[-2:] == ["image-diffusion, off", "image-transformer, off"]


def test_image_speed(tmp_path: Path) -> None:
    small = ("--size", 8, "--batch", 2, "--rounds", 1, "--steps", 1, "--threads", 1)
    assert "times" in run_bench("image_speed", *small, cwd=tmp_path)


def test_captions(tmp_path: Path) -> None:
    assert "the same captions: True" in run_bench("captions", "speed", "--tiny", cwd=tmp_path)


def test_resume_cost(text: Path, tmp_path: Path) -> None:
    small = ("--threads", 1, "--tiny", "--only", "empty cache", "at 100,000")
    lines = run_bench("resume_cost", "--data", text, *small, cwd=tmp_path).splitlines()
    assert [line[:16].strip() for line in lines] == ["empty cache", "at 100,000"]


def test_shards(tmp_path: Path) -> None:
    out = run_bench("shards", "--shards", 6, "--megabytes", 0.3, "--ids", 512, cwd=tmp_path)
    assert "after a kill" in out
    assert out.count("thousand ids/s at positions 0, 10^12, 10^14") == 2


def test_serve(runs: dict[str, Path], tmp_path: Path) -> None:
    small = ("--requests", 12, "--rates", 20, 100, "--tokens", 8)
    *_, slow, fast = run_bench("serve", runs["text-autoregressive"], *small, cwd=tmp_path).splitlines()
    assert [line.split()[0] for line in (slow, fast)] == ["20.000", "100.000"]
    assert [line.split()[-1] for line in (slow, fast)] == ["0", "0"], "no wrong answers"


def test_studio(runs: dict[str, Path], tmp_path: Path) -> None:
    browser.installed()
    out = run_bench("studio", runs["text-masked"], "--times", 1, cwd=tmp_path)
    assert [line.rsplit(maxsplit=2)[0].strip() for line in out.splitlines()] == ["list", "comparison", "drawn again"]


def test_async_save(text: Path, tmp_path: Path) -> None:
    small = ("--parameters", 0.1, "--saves", 3, "--every", 3, "--context", 8, "--threads", 1)
    *_, beside, same = run_bench("async_save", "--data", text, *small, cwd=tmp_path).splitlines()
    assert beside.startswith("| asynchronous |")
    assert same == "the same bits: True"


def test_faults(tmp_path: Path, run_bench_here: Callable[..., str]) -> None:
    """A small campaign, which is stopped and continued."""
    small = ("--out", tmp_path, "--kills", 2, "--steps", 12, "--families", "text-masked", "--placements", "one process")
    run_bench_here("faults", *small, "--faults", "--minutes", 0)
    out = run_bench_here("faults", *small, "--faults", "lock")
    assert "2 kills in 2 runs: 0 runs lost, 0 ended with other bits" in out
    assert "1 damaged folders: 0 lost or silently wrong" in out
    assert out.count("sync saving | 0 | 1 | 1 | 0 | 0 |") == 2
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_the_whole_fault_campaign_loses_no_run(tmp_path: Path) -> None:
    out = run_bench("faults", "--out", tmp_path, cwd=tmp_path)
    assert re.search(r"2\d\d kills in 30 runs: 0 runs lost, 0 ended with other bits", out)
    assert "folders: 0 lost or silently wrong" in out


@pytest.mark.slow
def test_a_gigabyte_by_shard_takes_no_more_memory_than_a_tenth_of_it(tmp_path: Path) -> None:
    peaks = []
    for megabytes in (100, 1000):
        small = ("--ids", 512, "--only-shards")
        out = run_bench("shards", "--megabytes", megabytes, *small, cwd=tmp_path, fresh=True)
        line = next(line for line in out.splitlines() if line.startswith("by shard "))
        peaks.append([float(part.replace(",", "")) for part in re.findall(r"([\d,]+) MiB", line)])
    (own, worker), (own_of_more, worker_of_more) = peaks
    assert own_of_more < own + 60
    assert worker_of_more < worker + 60


@pytest.fixture
def loop_overhead(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("loop_overhead")


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_the_plain_loop_uses_the_optimizers_of_torch_with_equal_hyperparameters(
    loop_overhead: ModuleType, kind: Any
) -> None:
    network = Transformer(layers=1, heads=2, width=16, norm="layer").build(vocabulary=11, context=8, causal=True)
    config = OptimizerConfig(kind=kind, lr=1e-3, betas=(0.8, 0.9), eps=1e-7, weight_decay=0.2)
    if kind == "muon":
        config = replace(config, matrix_lr_factor=30.0, momentum=0.9)
    ours = config.build(network).parts
    plain = loop_overhead.torch_optimizers(config.build(network))
    assert [type(part) for part in ours] == [StackedMuon, AdamW][kind == "adamw" :]
    assert [type(part) for part in plain] == [torch.optim.Muon, torch.optim.AdamW][kind == "adamw" :]
    for part, other in zip(ours, plain, strict=True):
        for group, same in zip(part.param_groups, other.param_groups, strict=True):
            assert all(same[key] == value for key, value in group.items() if key != "params")
            assert [id(parameter) for parameter in same["params"]] == [id(parameter) for parameter in group["params"]]
