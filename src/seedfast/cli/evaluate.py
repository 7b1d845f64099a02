"""`seedfast evaluate`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import tyro

from seedfast.cli.arguments import parse
from seedfast.errors import UserError

if TYPE_CHECKING:
    from seedfast.evaluate.evaluator import Result
    from seedfast.evaluate.trained import Trained

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """All numbers of a run: the loss over the whole validation split, and every other metric that fits the run.

    The loss: nats_per_token and bits_per_byte with their standard error, each scored token once (for every draw of a
    bound); is_bound says whether the number is the likelihood itself or bounds it from above (a NELBO), which is never
    called a perplexity. Image runs add fidelity and captioners the caption metrics (`seedfast fidelity` and `seedfast
    captions` have their options). With --samples N --judge RUN, samples of the run are scored by another run instead
    (seedfast evaluate RUN --samples 1 --judge RUN --help).
    """

    run: tyro.conf.Positional[Path]
    """The run folder, or a model's own folder (of transformers, peft, diffusers or seedfast export) with --data."""
    only: tuple[str, ...] = ()
    """The metrics to run: loss, fidelity, captions, or path/to/file.py:function of your own (default: all that fit)."""
    json: bool = False
    """Print one JSON object instead of a table."""
    weights: Literal["ema", "raw", "base"] | None = None
    """Which weights to use (default: the averaged ones where there are some); base: the pretrained ones that a
    fine-tuned model began with."""
    draws: int | None = None
    """Random tasks for each example where the loss is an estimated bound (default: the run's)."""
    data: str | None = None
    """Where the data is now, if it has moved; it has to be the same data. For a model's own folder, what to
    evaluate it on: all of a text, the validation split of images and captions."""
    at: int | None = None
    """Use the checkpoint of this step instead of the newest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


@dataclass(frozen=True, kw_only=True)
class JudgeSamples(Evaluate, Generic[R]):
    """Samples of a run scored by an autoregressive run of the same data, and as much held-out text.

    nats_per_token by the judge, each text's first token left out; beside it how varied the texts are, since the
    likeliest text repeats itself. A model's own score of its own text is no measure of it.
    """

    samples: int
    """Number of samples to score."""
    judge: Path
    """The run folder of the judge."""
    seed: int = 1
    """Sample i of a seed is always the same."""
    sampling: R
    """The flags of `seedfast sample RUN`."""


def evaluate(words: list[str]) -> int:
    """Evaluate a run; see `Evaluate` for the flags, and `JudgeSamples` for those of its samples."""
    if any(word.split("=")[0] in ("--samples", "--judge") for word in words):
        return _judge(words)
    asked: Evaluate = parse(Evaluate, words, prog="seedfast evaluate")
    from seedfast.evaluate.evaluator import evaluate as measure

    options = {} if asked.draws is None else {"draws": asked.draws}
    return show(measure(opened(asked), asked.only, options), as_json=asked.json)


def _judge(words: list[str]) -> int:
    """Score the samples of a run."""
    import seedfast
    from seedfast import api
    from seedfast.evaluate.judge import Judge

    if words[0].startswith("-"):
        raise UserError("Name the run first: seedfast evaluate RUN --samples N --judge RUN, then further flags.")
    kind = api.request_class(Path(words[0]))
    asked: Any = parse(
        JudgeSamples[kind],  # type: ignore[valid-type]
        words,
        prog="seedfast evaluate",
        config=(tyro.conf.UseAppendAction,),
    )
    if asked.draws is not None or asked.only:
        raise UserError("--draws and --only belong to the loss of the run itself; samples are drawn by --seed.")
    judge = seedfast.load(asked.judge, device=asked.device)
    request = replace(asked.sampling, num=asked.samples)
    return show(Judge(by=judge, request=request, seed=asked.seed)(opened(asked)), as_json=asked.json)


def opened(asked: Any) -> "Trained":
    """The model that the flags `run`, `at`, `weights`, `data` and `device` name."""
    import seedfast

    return seedfast.load(asked.run, step=asked.at, weights=asked.weights, device=asked.device, data=asked.data)


def show(result: "Result", *, as_json: bool) -> int:
    """Print a result."""
    print(json.dumps(result.record()) if as_json else "\n".join(result.table()))
    return 0
