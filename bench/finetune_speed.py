"""Tokens per second of fine-tuning: seedfast against `transformers.Trainer`, on the same model, windows and optimizer.

Both run in this one process, in turns, so that a noisy machine is noisy for both. A random GPT-2 of the asked size on
tokens of the text; AdamW, constant rate, clipping at 1, no evaluation, no saving, a loss that is looked at each step.
seedfast keeps its journal, its keys and its checks. Prints the ratio of each round: above 1, seedfast is faster.

    python bench/finetune_speed.py [--data FILE] [--threads 2] [--rounds 5] [--steps 40] [--adapter lora]
"""

import argparse
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.loop.progress import Silent
from seedfast.loop.session import Session
from seedfast.loop.train import run_training
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm import PretrainedLM
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig


class Clock(Silent):
    """Notes when the first steps are over (caches are warm) and when the last one is."""

    def __init__(self, warm: int) -> None:
        self.warm, self.start, self.end = warm, 0.0, 0.0

    def step(self, session: Session, entry: dict[str, Any], seconds: float) -> None:
        """Look at the clock."""
        self.end = time.perf_counter()
        if entry["step"] == self.warm:
            self.start = self.end


def ours(run: Run, folder: Path, warm: int) -> float:
    """Tokens per second of seedfast's loop."""
    clock = Clock(warm)
    with open_session(run, folder) as opened:
        opened.save = lambda: None  # type: ignore[method-assign]
        run_training(opened, clock)
    return (run.steps - warm) * run.batch_size * run.data.context / (clock.end - clock.start)


def theirs(run: Run, folder: Path, warm: int) -> float:
    """Tokens per second of Trainer, given the same windows."""
    from torch.utils.data import Dataset

    with open_session(run, folder / "windows") as opened:
        ids = opened.order.ids(0, run.steps * run.batch_size)
        windows = opened.corpus.train.batch(ids)["tokens"]

    class Windows(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(windows)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"input_ids": windows[index], "labels": windows[index]}

    times: list[float] = []

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    shape = transformers.AutoConfig.for_model(**_values(run))
    model = run.model.adapter.wrap(transformers.AutoModelForCausalLM.from_config(shape))
    torch.use_deterministic_algorithms(False)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=run.steps, per_device_train_batch_size=run.batch_size,
        learning_rate=run.optimizer.lr, lr_scheduler_type="constant", weight_decay=run.optimizer.weight_decay,
        max_grad_norm=1.0, report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=10, use_cpu=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Windows(), callbacks=[Watch()])
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    # One token more goes in there than is predicted: its windows are counted as what they teach.
    return (run.steps - warm) * run.batch_size * run.data.context / (times[-1] - times[warm - 1])


def _values(run: Run) -> dict[str, Any]:
    import json

    values: dict[str, Any] = json.loads(run.model.architecture)
    return values


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default="python", help="text to train on (default: the standard library)")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=40)
    arguments.add_argument("--adapter", default="none")
    asked = arguments.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    gpt2 = '{"model_type": "gpt2", "vocab_size": 512, "n_positions": 128, "n_embd": 128, "n_layer": 4, "n_head": 4}'
    run = replace(
        recipes.make("finetune"),
        objective=replace(recipes.make("finetune").objective, document_mask=False),
        data=TextData(path=asked.data, tokenizer="bpe", vocabulary=512, context=64),
        model=PretrainedLM(architecture=gpt2, adapter=Adapter(kind=asked.adapter)),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.01),
        schedule=Schedule(shape="constant"),
        batch_size=12,
        micro_batch=None,
        steps=asked.steps,
        eval_every=0,
        eval_examples=1,
    )
    warm, ratios, rates = asked.steps // 5, [], []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as folder:
            slow, fast = theirs(run, Path(folder), warm), ours(run, Path(folder) / "ours", warm)
        rates.append((slow, fast))
        ratios.append(fast / slow)
    trainer, seedfast = (statistics.median(column) for column in zip(*rates, strict=True))
    print(f"tokens/s: Trainer {trainer:,.0f}, seedfast {seedfast:,.0f}, ratio {statistics.median(ratios):.3f}")
    print(f"each round's ratio: {' '.join(f'{ratio:.2f}' for ratio in sorted(ratios))}")


if __name__ == "__main__":
    main()
