"""Fine-tuning: equal to a plain loop, exact with frozen weights, and independent of the base model once started."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import tiny_models
from tests.helpers.processes import run_killed_or_whole
from tests.helpers.quick import slow_but
from tests.helpers.runs import FINETUNE, small_run, train_in, train_until
from torch import Tensor
from torch.nn import functional as F

from seedfast.data.text.config import TextData
from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.step import gradient
from seedfast.loop.tasks import step_tasks
from seedfast.loop.train import agree
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm import PretrainedLM
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal
from seedfast.run_folder.choice import find
from seedfast.run_folder.train_state import digest, network_tensors, read_tensors
from seedfast.verify.resume import compare, prove_resume

LORA = Adapter(kind="lora", rank=4, dropout=0.2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, story: Path) -> Path:
    """A tiny random GPT-2 with its tokenizer."""
    return tiny_models.folder(tmp_path_factory.mktemp("base") / "gpt2", text=story.read_text())


def tuned(base: Path, text: Path, **changes: Any) -> Run:
    """A small fine-tuning of the model in a folder."""
    adapter, dropout = changes.pop("adapter", Adapter()), changes.pop("dropout", None)
    run = small_run("finetune", text, model=PretrainedLM(path=str(base), adapter=adapter, dropout=dropout))
    data = TextData(path=str(text), tokenizer="model", context=16)
    return replace(run, **{"data": data, "ema": EMA(half_life=5.0), **changes})


# ---- the same as by hand ---------------------------------------------------------------------------------------


def plain(base: Path, text: Path) -> Run:
    """A run that a plain loop can repeat: without clipping, average and micro-batches."""
    run = tuned(base, text, clip=None, ema=EMA(), micro_batch=None, steps=12, eval_every=0)
    schedule = Schedule(shape="constant")
    return replace(run, schedule=schedule, optimizer=OptimizerConfig(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01))


def batches(run: Run, folder: Path) -> list[Tensor]:
    """The token windows of each step."""
    with open_session(run, folder) as opened:
        size = run.batch_size
        return [
            opened.corpus.train.batch(opened.order.ids(step * size, (step + 1) * size))["tokens"]
            for step in range(run.steps)
        ]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in journal.read(folder) if "loss" in entry]


def test_the_curve_of_a_loop_written_by_hand_bit_for_bit(base: Path, story: Path, tmp_path: Path) -> None:
    run = plain(base, story)
    train_in(tmp_path / "ours", run)
    model = tiny_models.transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.99),
        fused=True,
    )
    curve = []
    for windows in batches(run, tmp_path / "order"):
        x, y = windows[:, :-1], windows[:, 1:]
        nats = F.cross_entropy(model(x).logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y).sum(dim=1)
        (nats.sum() / y.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
        curve.append(float(nats.detach().double().sum()) / y.numel())
    assert curve == losses(tmp_path / "ours")
    ours = read_tensors(tmp_path / "ours/checkpoints/step-00000012")["model"]
    for name, tensor in network_tensors(model).items():
        assert torch.equal(ours[f"model.{name}"], tensor), name


@pytest.mark.slow
def test_the_curve_of_transformers_trainer(base: Path, story: Path, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    run = plain(base, story)
    train_in(tmp_path / "ours", run)
    # Its loss is a sum over the number of labels, and it counts the first, which nothing predicts: 16/17 of the mean.
    labels = [F.pad(row[1:], (1, 0), value=-100) for windows in batches(run, tmp_path / "order") for row in windows]
    inputs = [row for windows in batches(run, tmp_path / "order") for row in windows]
    rows = [{"input_ids": row, "labels": label} for row, label in zip(inputs, labels, strict=True)]
    curve = []

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

        def training_step(self, *arguments: Any, **options: Any) -> Tensor:
            loss: Tensor = super().training_step(*arguments, **options)
            curve.append(float(loss))  # its log rounds
            return loss

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "theirs"), max_steps=run.steps, per_device_train_batch_size=run.batch_size,
        learning_rate=1e-3, adam_beta1=0.9, adam_beta2=0.99, weight_decay=0.01, lr_scheduler_type="constant",
        max_grad_norm=0.0, report_to="none", disable_tqdm=True, save_strategy="no", use_cpu=True,
    )  # fmt: skip
    model = tiny_models.transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    InOrder(model=model, args=arguments, train_dataset=rows).train()
    assert curve == pytest.approx(losses(tmp_path / "ours"), abs=1e-5)


# ---- accumulation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", slow_but(["gpt2", "gemma3_text"], tiny_models.ARCHITECTURES))
def test_micro_batches_of_unequal_token_counts_add_up(kind: str, tmp_path: Path) -> None:
    """Also of architectures whose own loss is a mean, which is not used."""
    rows = [{"prompt": "the cat " * (1 + i % 3), "completion": "sees the dog " * (1 + i * 7 % 4)} for i in range(40)]
    text = tmp_path / "rows.jsonl"
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tiny_models.folder(tmp_path / kind, kind)
    gradients, means = {}, []
    for micro_batch in (None, 1, 5):
        data = TextData(path=str(text), tokenizer="model", context=64)
        run = replace(tuned(folder, text, batch_size=12, micro_batch=micro_batch), data=data)
        with open_session(run, tmp_path / f"{micro_batch}") as opened:
            opened.order.ids = lambda start, stop: [n % len(opened.corpus.train) for n in range(start, stop)]  # type: ignore[method-assign]
            tasks = step_tasks(opened, 0)
            weights = [float(w) for task in tasks for w in task.weight_B]
            assert len(set(weights)) > 1
            weight, _, _ = agree(opened, opened.summation.weight(tasks), None, False)
            loss = gradient(opened, 0, tasks, weight).first / weight
            gradients[micro_batch] = loss, [p.grad.clone() for p in opened.state.network.parameters()]
            if micro_batch == 5:
                totals = [float(task.weight_B.sum()) for task in tasks]
                means = [gradient(opened, 0, [task], w).first / w for task, w in zip(tasks, totals, strict=True)]
    loss, whole = gradients.pop(None)
    scale = sum(float(g.square().sum()) for g in whole) ** 0.5
    for split_loss, split in gradients.values():
        assert split_loss == pytest.approx(loss, rel=1e-6)
        error = sum(float((a - b).square().sum()) for a, b in zip(whole, split, strict=True)) ** 0.5
        assert error / scale < 1e-6
    assert abs(sum(means) / len(means) - loss) > 1e-5 * loss, "the twin, a mean of means, is seen"


# ---- adapters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora", "ia3"])
@torch.no_grad()
def test_a_new_adapter_changes_nothing_and_a_merged_one_neither(kind: Any, base: Path) -> None:
    def network(adapter: Adapter) -> Any:
        config = PretrainedLM(path=str(base), adapter=adapter).located()
        made = config.build(vocabulary=300, context=16, causal=True)
        config.initialise(made)
        return made.eval()

    ids = torch.arange(24).view(2, 12)
    plain, adapted = network(Adapter()), network(Adapter(kind=kind))
    exact = 0.0 if kind != "dora" else 1e-6  # dora multiplies by a norm over itself
    assert (plain(ids) - adapted(ids)).abs().max() <= exact
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            assert any(mark in name for mark in ("lora_", "ia3_")), name
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    moved = adapted(ids)
    assert (plain(ids) - moved).abs().max() > 1e-3
    merged = adapted.model.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, moved, rtol=1e-4, atol=1e-5)


def test_tied_embeddings_come_back_tied(base: Path, story: Path, tmp_path: Path) -> None:
    for name, adapter in (("full", Adapter()), ("lora", LORA)):
        run = tuned(base, story, adapter=adapter, steps=4)
        train_in(tmp_path / name, run)
        checkpoint = find(tmp_path / name, at="newest")
        stored = read_tensors(checkpoint.folder)
        assert not any("lm_head" in key for group in stored.values() for key in group), "tied weights are kept once"
        network = trained.load(run.located(), checkpoint, weights="raw").network
        assert network.plain.lm_head.weight is network.plain.transformer.wte.weight
        with open_session(run, tmp_path / name) as opened:
            ids = torch.arange(24).view(2, 12)
            opened.state.network.eval()
            assert torch.equal(opened.state.network(ids), network(ids))


# ---- what is frozen ------------------------------------------------------------------------------------------


def test_frozen_weights_are_kept_once_and_shared_with_the_average(base: Path, story: Path, tmp_path: Path) -> None:
    run = tuned(base, story, adapter=LORA, keep=9)
    train_in(tmp_path, run)
    (kept,) = (tmp_path / "checkpoints").glob("frozen-*.safetensors")
    sizes = [sum(f.stat().st_size for f in c.rglob("*.safetensors")) for c in (tmp_path / "checkpoints").glob("step-*")]
    assert len(sizes) > 3
    with open_session(run, tmp_path) as opened:
        average = opened.state.average
        assert average is not None
        raw, mean = dict(opened.state.network.named_parameters()), dict(average.network.named_parameters())
        for name, parameter in raw.items():
            assert (mean[name] is parameter) == (not parameter.requires_grad), name
        trained_names = {name for name, p in raw.items() if p.requires_grad}
        assert opened.state.tensors()["model"].keys() == opened.state.tensors()["ema"].keys() == trained_names
        assert {k.rpartition("/")[0] for k in opened.state.tensors()["optimizer"]} == trained_names
    stored = read_tensors(find(tmp_path, at="newest").folder)
    assert not stored["frozen"].keys() & trained_names
    for name, tensor in stored["frozen"].items():
        assert torch.equal(tensor, raw[name]), "a frozen weight moved"
    assert kept.stat().st_size > 10_000


@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_changed_base_is_refused_in_a_sentence(
    harm: str, base: Path, story: Path, tmp_path: Path, capsys: Any
) -> None:
    run = tuned(base, story, adapter=LORA, steps=4)
    train_in(tmp_path, run)
    (kept,) = (tmp_path / "checkpoints").glob("frozen-*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    match harm:
        case "changed":
            kept.write_bytes(content)
        case "cut":
            kept.write_bytes(content[:-8])
        case "gone":
            kept.unlink()
    with pytest.raises(UserError, match=r"None of the .* checkpoints in .* is intact"):
        train_in(tmp_path, replace(run, steps=6))
    assert kept.name in capsys.readouterr().err


@pytest.mark.parametrize("adapter", slow_but([LORA], [Adapter(), LORA]), ids=["full", "lora"])
def test_a_started_run_does_not_need_its_base_model(
    adapter: Adapter, base: Path, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seedfast import recipes

    shutil.copytree(base, tmp_path / "base")
    run = tuned(tmp_path / "base", story, adapter=adapter, dropout=0.1)
    train_in(tmp_path / "whole", run)
    with open_session(run, tmp_path / "run") as opened:
        train_until(opened, 7)
    shutil.rmtree(tmp_path / "base")
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "cache"))
    train_in(tmp_path / "run", recipes.stored(tmp_path / "run"))
    assert compare(tmp_path / "whole", tmp_path / "run")[0] is None
    checkpoint = find(tmp_path / "run", at="newest")
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    model.sample(model.family.generator.Request(prompt=("the cat",), tokens=4), seed=1)
    with pytest.raises(UserError, match="cannot be loaded"):
        trained.load(recipes.stored(checkpoint.folder), checkpoint, weights="base")


def test_the_base_can_be_asked_beside_the_tuned_model(base: Path, story: Path, tmp_path: Path) -> None:
    run = tuned(base, story, adapter=LORA, steps=4)
    train_in(tmp_path, run)
    network = trained.load(run.located(), find(tmp_path, at="newest"), weights="base").network
    theirs = tiny_models.transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = torch.arange(24).view(2, 12)
    torch.testing.assert_close(network(ids), theirs(ids).logits)


# ---- exactness -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kills_under_dropout_and_an_adapter_leave_no_trace(base: Path, story: Path, tmp_path: Path) -> None:
    """Real processes, really killed: in a step, an evaluation, a save, a write, a rename, between the pointers."""
    words = [
        "finetune", "--model", str(base), "--data", str(story), "--data.context", "16", "--model.dropout", "0.1",
        "--model.adapter.kind", "lora", "--model.adapter.dropout", "0.1", "--ema.half-life", "3", "--steps", "12",
        "--batch-size", "6", "--micro-batch", "4", "--eval-every", "5", "--eval-examples", "8", "--save-every", "4",
    ]  # fmt: skip
    certificate = prove_resume(words, kills=2, folder=tmp_path, seed=2, say=lambda _: None, execute=run_killed_or_whole)
    assert certificate.difference is None
    assert len(certificate.kills) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "lora", "dora"])
def test_every_kind_of_kill(kind: str, base: Path, story: Path, tmp_path: Path) -> None:
    words = [
        "finetune", "--model", str(base), "--data", str(story), "--data.context", "16", "--model.dropout", "0.1",
        "--model.adapter.kind", kind, "--ema.half-life", "3", "--steps", "30", "--keep", "1",
        "--batch-size", "6", "--micro-batch", "4", "--eval-every", "5", "--eval-examples", "8", "--save-every", "2",
    ]  # fmt: skip
    assert prove_resume(words, kills=14, folder=tmp_path, say=lambda _: None).difference is None


def test_the_masked_family_continues_the_same_model(base: Path, story: Path, tmp_path: Path) -> None:
    """One option: another recipe, the same model. It learns, resumes, and fills a gap from both sides."""
    run = replace(
        small_run("finetune-masked", story, model=PretrainedLM(path=str(base)), steps=30, eval_every=10),
        data=TextData(path=str(story), tokenizer="model", context=16),
    )
    train_in(tmp_path / "whole", run)
    with open_session(run, tmp_path / "split") as opened:
        train_until(opened, 13)
    train_in(tmp_path / "split", run)
    assert compare(tmp_path / "whole", tmp_path / "split")[0] is None
    validations = [e["validation"]["raw"]["loss"] for e in journal.read(tmp_path / "whole") if "validation" in e]
    assert validations[-1] < validations[0] - 0.1
    model = trained.load(run.located(), find(tmp_path / "whole", at="newest"))
    samples = model.sample(model.family.generator.Request(infill="the cat <gap:3> the dog"), seed=1)
    assert samples.texts[0].startswith("the cat ")
    assert samples.texts[0].endswith(" the dog")


# ---- early stopping ------------------------------------------------------------------------------------------


def test_a_run_without_progress_stops_early_and_stays_stopped(story: Path, tmp_path: Path) -> None:
    hopeless = replace(
        small_run("text-autoregressive", story, steps=40, eval_every=2, patience=3),
        optimizer=OptimizerConfig(lr=1e-30),  # no weight moves: no luck can make it better
        schedule=Schedule(shape="constant"),
    )
    stopped = train_in(tmp_path, hopeless).step
    assert stopped < 40
    best = json.loads((tmp_path / "best.json").read_text())["ema"]["step"]
    assert stopped == best + 3 * 2, "three validations after the best"
    before = digest(read_tensors(find(tmp_path, at="newest").folder))
    assert train_in(tmp_path, hopeless).step == stopped, "the same command again trains no further"
    assert digest(read_tensors(find(tmp_path, at="newest").folder)) == before
    assert train_in(tmp_path, replace(hopeless, patience=4)).step > stopped, "more patience goes on"
    with pytest.raises(UserError, match="eval_every"):
        train_in(tmp_path, replace(hopeless, eval_every=1))
    with pytest.raises(UserError, match=r"patience \(3\) has no effect without eval_every"):
        replace(hopeless, eval_every=0)


def test_a_run_that_gets_better_is_not_stopped(story: Path, tmp_path: Path) -> None:
    run = small_run(FINETUNE, story, patience=1, eval_every=4)
    assert train_in(tmp_path, run).step == run.steps
