"""What a study is asked for, and the runs that this makes: those of the recipes, in the sizes of a study."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.families.text.mask_counts import MEASURED
from seedfast.families.text.masked import Masked
from seedfast.loop.config import Run
from seedfast.models.transformer import Transformer
from seedfast.optim.ema import EMA

FAMILIES = ("autoregressive", "masked", "block", "proofreading", "embedding")
BATCH = 4
"""Windows of a step: few, since at equal FLOPs models of these sizes learn more from more steps."""
LEARNING_RATE = 0.02
"""Twice that of the recipes, which are larger than most runs of a study."""
WEIGHT_DECAY = 0.0
"""None, unlike in the recipes: how well the laws predict has been measured without (docs/study.md)."""
EXAMPLES = 8
"""Of the validation that ends a training."""
DRAWS = 2
"""Random tasks for each window, by which bounds are measured: the same for all runs, since these share a seed."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a study is asked for. flops: of all runs together. minutes: the time of all instead."""

    data: tuple[str, ...]
    families: tuple[str, ...] = FAMILIES
    minutes: float | None = None
    flops: float | None = None
    check: bool = False
    tokenizer: str = "bytes"
    context: int = 128
    seed: int = 1

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """The request of JSON values. Raises KeyError or TypeError for those of something else."""
        return cls(**{**stored, **{key: tuple(stored[key]) for key in ("data", "families")}})

    def run(self, family: str, size: int, steps: int, validation: float) -> Run:
        """The run of a family in a size. Raises UserError for options that do not fit the data."""
        made = recipes.make(f"text-{family}")
        assert isinstance(made.data, TextData)
        assert isinstance(made.model, Transformer)
        data = replace(
            made.data.with_path(*self.data), tokenizer=self.tokenizer, context=self.context, validation=validation
        )
        objective = (
            replace(made.objective, estimator=MEASURED) if isinstance(made.objective, Masked) else made.objective
        )
        return replace(
            made,
            data=data,
            objective=objective,
            model=replace(made.model, layers=size, heads=size, width=16 * size, ngrams=()),
            optimizer=replace(made.optimizer, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
            schedule=replace(made.schedule, warmup=warmup(steps)),
            ema=EMA(),
            steps=steps,
            batch_size=BATCH,
            seed=self.seed,
            eval_every=0,
            eval_examples=EXAMPLES,
            sample_every=0,
            keep=1,
        ).located()


def warmup(steps: int) -> int:
    """Steps of warm-up: a tenth of a short run."""
    return min(100, steps // 10)


def shape_flags(size: int) -> str:
    """The flags of a size, for people."""
    return f"--model.layers {size} --model.heads {size} --model.width {16 * size} --model.ngrams"
