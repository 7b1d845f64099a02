"""What training costs: FLOPs against a hand count and PyTorch's own, times by a clock that only the test moves."""

import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.helpers.quick import slow_but
from tests.helpers.runs import FAMILIES, FINETUNE, small_run
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from seedfast.data.dataset import Batch, Dataset
from seedfast.loop import micro_batch, sample, step, train, validate
from seedfast.loop.config import Run
from seedfast.loop.flops import model_flops
from seedfast.loop.open import open_session
from seedfast.loop.peak import known_peak
from seedfast.loop.progress import Line
from seedfast.loop.session import Session
from seedfast.loop.tasks import step_tasks
from seedfast.models.token_network import score
from seedfast.models.transformer import Transformer
from seedfast.run_folder import journal

B, L, W, V, LAYERS = 3, 8, 16, 11, 2
PRODUCTS = LAYERS * 12 * W * W + W * V
"""Weights that a token is multiplied with: queries, keys, values, output and an MLP of 4 W; the output layer."""
TRAINED = B * L * (6 * PRODUCTS + LAYERS * 12 * W * L)
"""PaLM, appendix B: 6 N + 12 · layers · heads · head size · L for each token."""
TOKENS = torch.zeros(B, L, dtype=torch.int64, device="meta")


def network(**changes: Any) -> nn.Module:
    config = replace(Transformer.gpt2(layers=LAYERS, heads=2, width=W), **changes)
    return config.build(vocabulary=V, context=L, causal=True)


def logits(network: nn.Module) -> Tensor:
    summed: Tensor = network(TOKENS).sum()
    return summed


def test_the_flops_of_a_transformer_are_those_of_the_formula() -> None:
    assert model_flops(network(), logits) == TRAINED


def test_activations_and_logits_that_are_computed_again_do_not_count() -> None:
    assert model_flops(network(gradient_checkpointing=True), logits) == TRAINED
    hidden = torch.zeros(B * L, W, device="meta", requires_grad=True)
    head = nn.Linear(W, V, bias=False)
    assert model_flops(head, lambda head: score(head, hidden, TOKENS.flatten(), chunk=5 * V)) == B * L * 6 * W * V


def test_a_weight_that_is_not_trained_takes_no_product_for_its_gradient() -> None:
    assert model_flops(network().requires_grad_(False), logits) == TRAINED // 3
    one_frozen = network()
    one_frozen.blocks[1].mlp.down.weight.requires_grad_(False)  # type: ignore[union-attr,index]
    assert model_flops(one_frozen, logits) == TRAINED - B * L * 2 * 4 * W * W


def test_flops_that_depend_on_values_are_unknown() -> None:
    assert model_flops(network(), lambda network: float(logits(network).detach())) is None


@pytest.mark.parametrize(
    "recipe",
    slow_but(
        ["text-embedding", "image-diffusion", "image-caption", "image-transformer", FINETUNE, "dpo"],
        [*FAMILIES, "image-transformer", "image-diffusers", FINETUNE, "finetune-masked", "dpo"],
    ),
)
def test_the_flops_of_every_recipe_are_those_that_pytorch_counts(recipe: str, story: Path, tmp_path: Path) -> None:
    run = small_run(recipe, story, micro_batch=None, batch_size=2)
    with open_session(run, tmp_path / "run") as session:
        (task,) = step_tasks(session, 0)
        objective, state = session.family.objective.for_step(0), session.state.family
        session.network.train()

        def loss(network: nn.Module, device: str) -> Tensor:
            there = {name: value.to(device) for name, value in state.items()}
            total: Tensor = objective.loss(network, task.to(torch.device(device)), there).total_B.sum()
            return total

        loss(session.network, "cpu")  # the first batch is checked with passes of its own
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            loss(session.network, "cpu").backward()
        assert model_flops(session.network, lambda network: loss(network, "meta")) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("", None),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(name: str, half: float | None) -> None:
    peak = known_peak(name)
    assert (peak.half if peak else None) == half


class Clock:
    """Seconds that pass only where the test lets them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which takes this long."""

        def slow(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return function(*args, **kwargs)

        return slow


@dataclass(frozen=True)
class Slow:
    """Data of which each batch takes two seconds."""

    data: Dataset
    clock: Clock

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, ids: list[int]) -> Batch:
        self.clock.now += 2
        return self.data.batch(ids)


@dataclass(frozen=True)
class Trained:
    """The lines of the journal, its events, and what was printed."""

    steps: list[dict[str, Any]]
    events: str
    printed: str


def trained(run: Run, folder: Path, patch: pytest.MonkeyPatch) -> Trained:
    """A training whose batches take 2 s, updates 3 s, samples 100 s and validations 1000 s, commits 7 s."""
    clock, screen = Clock(), io.StringIO()
    patch.setattr(time, "perf_counter", clock)
    patch.setattr(micro_batch, "launch", clock.taking(3, step.launch))
    patch.setattr(Session, "commit", clock.taking(7, Session.commit))
    patch.setattr(train, "validate_session", clock.taking(1000, validate.validate_session))
    patch.setattr(sample, "generate", clock.taking(100, sample.generate))
    with open_session(run, folder) as session:
        session.corpus = replace(session.corpus, train=Slow(session.corpus.train, clock))
        with Line(Console(file=screen, width=200)) as line:
            train.run_training(session, line)
    lines = [entry for entry in journal.read(folder) if "loss" in entry]
    return Trained(lines, (folder / "events.jsonl").read_text(), screen.getvalue())


@pytest.fixture(scope="module")
def slow(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training with validations and samples between its steps."""
    run = small_run("text-autoregressive", story, steps=8, eval_every=2, sample_every=2, micro_batch=None)
    run = replace(run, peak_tflops=1e-6, log_every=3)
    with pytest.MonkeyPatch.context() as patch:
        return trained(run, tmp_path_factory.mktemp("costs") / "run", patch)


def test_the_time_of_a_step_is_that_of_training_alone(slow: Trained) -> None:
    assert [entry["time"]["seconds"] for entry in slow.steps] == [5.0] * 8


def test_waiting_for_a_slow_source_is_measured(slow: Trained) -> None:
    assert [entry["time"]["waiting"] for entry in slow.steps] == [2.0] * 8


def test_the_step_after_a_save_has_the_seconds_that_the_training_stood_still(slow: Trained) -> None:
    saved = {entry["step"]: entry["time"]["saving"] for entry in slow.steps if "saving" in entry["time"]}
    assert set(saved.values()) == {7.0}
    assert 6 in saved  # a checkpoint every five steps


def test_the_throughput_is_the_weight_over_the_time(slow: Trained) -> None:
    assert [entry["time"]["tokens_per_second"] for entry in slow.steps] == [entry["weight"] / 5 for entry in slow.steps]


def test_the_share_of_the_peak_is_that_of_the_counted_flops(slow: Trained) -> None:
    (counted,) = (json.loads(line) for line in slow.events.splitlines() if "counted" in line)
    flops = counted["flops_per_step"]
    assert flops > 6 * (6 * 16) * 12 * 16**2  # of six windows of 16 tokens, in one layer of width 16
    assert slow.steps[0]["time"]["mfu"] == pytest.approx(flops / (5 * 1e6), rel=1e-3)


def test_the_peak_of_the_memory_is_measured_at_every_line_that_is_shown(slow: Trained) -> None:
    measured = {entry["step"]: entry["time"].get("memory") for entry in slow.steps}
    assert [step for step, memory in measured.items() if memory] == [3, 6, 8]


def test_the_training_ends_with_its_costs(slow: Trained) -> None:
    *_, last = slow.printed.splitlines()
    assert "trained for 40 s  19.2 tokens/s  MFU " in last
    assert re.search(r"waiting for data 40%  saving \d+ s  memory ", last)


def test_the_shown_throughput_leaves_out_validations_and_samples(slow: Trained) -> None:
    shown = [line for line in slow.printed.splitlines() if " left" in line]
    assert shown
    assert all("19.2 tokens/s" in line for line in shown)


def test_long_waiting_goes_before_what_is_less_important(slow: Trained) -> None:
    line = next(line for line in slow.printed.splitlines() if " left" in line)
    assert line.index("waiting for data 40%") < line.index("epoch") < line.index("lr adamw")


def test_without_a_peak_no_share_of_it_is_shown(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run("text-autoregressive", story, steps=2, sample_every=0)
    found = trained(run, tmp_path / "run", monkeypatch)
    assert "mfu" not in found.steps[0]["time"]
    assert "MFU" not in found.printed
    assert "counted" not in found.events
