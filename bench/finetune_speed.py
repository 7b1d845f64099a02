"""Tokens per second of fine-tuning: seedfast against `transformers.Trainer` with the same model, windows and optimizer.

Both run in this process, in turns, so that a noisy machine affects both. A small GPT-2 with random weights; AdamW,
constant learning rate, clipping at 1, no evaluation, no checkpoints. seedfast keeps its journal, its keyed randomness
and its checks. Prints the ratio of each round: above 1, seedfast is faster.

    python bench/finetune_speed.py [--data FILE] [--threads 2] [--rounds 5] [--steps 40] [--adapter lora]
"""

import json
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from common import parse, parser, tokens_per_second
from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm import PretrainedLM
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig


def trainer_tokens_per_second(run: Run, folder: Path, warm: int) -> float:
    """Tokens per second of Trainer with the same windows."""
    from torch.utils.data import Dataset

    with open_session(run, folder / "windows") as session:
        ids = session.order.ids(0, run.steps * run.batch_size)
        windows = session.corpus.train.batch(ids)["tokens"]

    class Windows(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(windows)

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"input_ids": windows[index], "labels": windows[index]}

    times: list[float] = []

    class StepTimes(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    shape = transformers.AutoConfig.for_model(**json.loads(run.model.architecture))
    model = run.model.adapter.wrap(transformers.AutoModelForCausalLM.from_config(shape))
    torch.use_deterministic_algorithms(False)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=run.steps, per_device_train_batch_size=run.batch_size,
        learning_rate=run.optimizer.lr, lr_scheduler_type="constant", weight_decay=run.optimizer.weight_decay,
        max_grad_norm=1.0, report_to="none", disable_tqdm=True, save_strategy="no", logging_steps=10, use_cpu=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Windows(), callbacks=[StepTimes()])
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.train()
    # Trainer's windows have one more token than it predicts; only predicted tokens are counted.
    return (run.steps - warm) * run.batch_size * run.data.context / (times[-1] - times[warm - 1])


def main() -> None:
    """Measure and print."""
    made = parser(__doc__, threads=2)
    made.add_argument("--data", default="python", help="text to train on (default: the standard library)")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--steps", type=int, default=40)
    made.add_argument("--adapter", default="none")
    options = parse(made)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    gpt2 = '{"model_type": "gpt2", "vocab_size": 512, "n_positions": 128, "n_embd": 128, "n_layer": 4, "n_head": 4}'
    run = replace(
        recipes.make("finetune"),
        objective=replace(recipes.make("finetune").objective, document_mask=False),
        data=TextData(path=options.data, tokenizer="bpe", vocabulary=512, context=64),
        model=PretrainedLM(architecture=gpt2, adapter=Adapter(kind=options.adapter)),
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.01),
        schedule=Schedule(shape="constant"),
        batch_size=12,
        micro_batch=None,
        steps=options.steps,
        eval_every=0,
        sample_every=0,
        eval_examples=1,
    )
    warm, ratios, rates = max(1, options.steps // 5), [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            slow = trainer_tokens_per_second(run, Path(folder), warm)
            fast = tokens_per_second(run, Path(folder) / "ours", warm)
        rates.append((slow, fast))
        ratios.append(fast / slow)
    trainer, seedfast = (statistics.median(column) for column in zip(*rates, strict=True))
    print(f"tokens/s: Trainer {trainer:,.0f}, seedfast {seedfast:,.0f}, ratio {statistics.median(ratios):.3f}")
    print(f"each round's ratio: {' '.join(f'{ratio:.2f}' for ratio in sorted(ratios))}")


if __name__ == "__main__":
    main()
