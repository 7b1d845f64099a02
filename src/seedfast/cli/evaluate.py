"""`seedfast evaluate`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import tyro

from seedfast.errors import UserError

if TYPE_CHECKING:
    from seedfast.evaluate.trained import Trained

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The exact loss over the whole validation split: every scored token once (for every draw of a bound).

    nats_per_token and bits_per_byte with their standard error; is_bound says whether the number is the likelihood
    itself or bounds it from above (a NELBO), which is then never called a perplexity. With --samples N --judge RUN,
    the run's samples are measured instead (seedfast evaluate RUN --samples 1 --judge RUN --help).
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    json: bool = False
    """Print one JSON object instead of a table."""
    weights: Literal["ema", "raw", "base"] | None = None
    """Which weights to use (default: the averaged ones where there are some); base: the pretrained ones that a
    fine-tuned model began with."""
    draws: int | None = None
    """Random tasks for each example where the loss is an estimated bound (default: the run's)."""
    data: str | None = None
    """Where the data is now, if it has moved; it has to be the same data."""
    at: int | None = None
    """Use the checkpoint of this step instead of the newest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


@dataclass(frozen=True, kw_only=True)
class Judge(Evaluate, Generic[R]):
    """What an autoregressive run of the same data thinks of a run's samples, and of as much held-out text.

    nats_per_token by the judge, each text's first token left out; beside it how varied the texts are, for the likeliest
    text repeats itself. A model's own score of its own text is no measure of it.
    """

    samples: int
    """How many samples to judge."""
    judge: Path
    """The run folder of the judge."""
    seed: int = 1
    """Sample i of a seed is always the same."""
    sampling: R
    """What is asked of the sampler: the flags of `seedfast sample RUN`."""


def evaluate(words: list[str]) -> int:
    """Evaluate a run; see `Evaluate` for the flags, and `Judge` for those of its samples."""
    if any(word.split("=")[0] in ("--samples", "--judge") for word in words):
        return _judge(words)
    asked = tyro.cli(Evaluate, args=words, prog="seedfast evaluate")
    from seedfast.evaluate import loss

    model = _load(asked)
    return _print(loss.likelihood(model, draws=asked.draws).record(), as_json=asked.json)


def _judge(words: list[str]) -> int:
    """Judge the samples of a run."""
    from seedfast import recipes
    from seedfast.evaluate import judge, trained

    if words[0].startswith("-"):
        raise UserError("Name the run first: seedfast evaluate RUN --samples N --judge RUN, then further flags.")
    newest = trained.find(Path(words[0]))
    family = trained.family_of(recipes.stored(newest.folder), newest)
    asked = tyro.cli(
        Judge[family.request],  # type: ignore[name-defined]
        args=words,
        prog="seedfast evaluate",
        config=(tyro.conf.UseAppendAction,),
    )
    if asked.draws is not None:
        raise UserError("--draws are those of the loss; samples are drawn by --seed.")
    newest = trained.find(asked.judge)
    by = trained.load(recipes.stored(newest.folder), newest, device=asked.device)
    request = replace(asked.sampling, num=asked.samples)
    return _print(judge.judge_samples(_load(asked), by, request, seed=asked.seed), as_json=asked.json)


def _load(asked: Evaluate) -> "Trained":
    from seedfast import recipes
    from seedfast.evaluate import trained

    checkpoint = trained.find(asked.run, at=asked.at)
    run = recipes.stored(checkpoint.folder)
    if asked.data is not None:
        run = replace(run, data=replace(run.data, path=asked.data))
    return trained.load(run, checkpoint, weights=asked.weights, device=asked.device)


def _print(record: dict[str, Any], *, as_json: bool) -> int:
    from seedfast.loop.config import flatten

    if as_json:
        print(json.dumps(record))
        return 0
    for name, value in flatten(record).items():
        shown = f"{value:,.5f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
        print(f"{name.replace('_', ' '):<30} {shown}")
    return 0
