"""`seedfast evaluate`."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import tyro

from seedfast.cli.arguments import check_output, parse, step_of, trusts, without
from seedfast.cli.chosen import ChosenFlags
from seedfast.errors import UserError

if TYPE_CHECKING:
    from seedfast.evaluate.evaluator import Result
    from seedfast.evaluate.trained import Trained

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class OfModel:
    """What is measured: a model, its weights, its data."""

    run: tyro.conf.Positional[Path]
    """The run folder, a checkpoint in it, or a model's own folder (of transformers, peft, diffusers or seedfast export)
    with --data."""
    json: bool = False
    """Print one JSON object instead of a table."""
    data: str | None = None
    """Where the data is now, if it has moved; it has to be the same data. For a model's own folder, what to
    evaluate it on: all of a text, the validation split of images and captions."""
    chosen: ChosenFlags


@dataclass(frozen=True, kw_only=True)
class Evaluate(OfModel):
    """All numbers of a run: the loss over the whole validation split, and every other metric that fits the run.

    The loss: nats_per_token and bits_per_byte with their standard error, each scored token once (for every draw of a
    bound); is_bound says whether the number is the likelihood itself or bounds it from above (a NELBO), which is never
    called a perplexity. Masked, block and proofreading models have a bound on either side (lower ≤ bits per byte ≤
    upper), and deployed, the exact likelihood of `seedfast sample --order confidence` (docs/likelihood.md). Image runs
    add bits per dimension and fidelity, and captioners the caption metrics (`seedfast fidelity` and `seedfast captions`
    have their options). With --judge RUN, samples of the run are scored by another run instead (seedfast evaluate RUN
    --judge RUN --help). Interrupted by Ctrl-C, the same command continues with the metric that was interrupted.
    """

    only: tuple[str, ...] = ()
    """The metrics to run: loss, bracket, deployed, bits_per_dimension, fidelity, captions, or path/to/file.py:function
    of your own (default: all that fit)."""
    draws: int | None = None
    """Random tasks for each example where the loss is an estimated bound (default: the run's)."""
    windows: int | None = None
    """Windows that the lower bound and deployed are measured on, a fixed random choice (default: by their length)."""
    orders: int | None = None
    """Random orders of each window for the lower bound (default 8)."""
    steps: int | None = None
    """For deployed: unmasking steps of a window, or of a block (default: one for each token)."""
    temperature: float | None = None
    """For deployed: the temperature of sampling (default 1)."""
    top_k: int | None = None
    """For deployed: draw from the k likeliest tokens only."""
    top_p: float | None = None
    """For deployed: draw from the smallest set of likeliest tokens whose probability reaches p."""


@dataclass(frozen=True, kw_only=True)
class JudgeSamples(OfModel, Generic[R]):
    """The frontier of a run's samples: scored by an autoregressive run of the same data, beside held-out text.

    Samples at several temperatures (and numbers of steps, where the model has them), each with the judge's
    nats_per_token and with how varied the texts are: the likeliest text repeats itself, and the most varied one is
    noise. area: between these points and held-out text; 0 is as good as held-out text, smaller is better
    (docs/compare.md). A model's own score of its own text is no measure of it.
    """

    judge: Path
    """The run folder of the judge."""
    samples: int | None = None
    """Samples of each point, for each prompt where there are some (default: 32, and fewer of long texts)."""
    temperatures: tuple[float, ...] = ()
    """Temperatures of sampling (default: 0.5, 0.7, 0.85, 1 and 1.15; or the one of --sampling.temperature)."""
    steps: tuple[int, ...] = ()
    """Numbers of steps of a diffusion model (default: an eighth of a window's or block's tokens, and the decoding of
    `seedfast sample`; or that of --sampling.steps)."""
    plot: Path | None = None
    """Draw the frontier into this file, .png or .svg."""
    seed: int = 1
    """Sample i of a seed is always the same."""
    sampling: R
    """The flags of `seedfast sample RUN`."""


_OPTIONS = ("draws", "windows", "orders", "steps", "temperature", "top_k", "top_p")
"""Flags that are options of metrics."""
_NOT_FOR_SAMPLES = {
    "--only": "it chooses metrics of the run itself",
    **dict.fromkeys(("--windows", "--orders"), "it belongs to the bounds of the run itself"),
    **{f"--{name}": f"that of the samples is --sampling.{name}" for name in ("top-k", "top-p")},
    "--temperature": "those of the samples are --temperatures",
    "--draws": "it belongs to the loss of the run itself; samples are drawn by --seed",
    "--sampling.num": "--samples is the number of samples",
    "--sampling.explain": "only scores are printed; seedfast sample shows the tokens",
    "--sampling.trace": "only scores are printed; seedfast sample shows the steps",
}
"""Flags that have no effect on the scores of samples, and the reason."""


def evaluate(words: list[str]) -> int:
    """Evaluate a run; see `Evaluate` for the flags, and `JudgeSamples` for those of its samples."""
    if any(word.split("=")[0] in ("--samples", "--judge") for word in words):
        return _judge(words)
    asked: Evaluate = parse(Evaluate, words, prog="seedfast evaluate")
    from seedfast.evaluate.noted import evaluated

    options = {name: value for name in _OPTIONS if (value := getattr(asked, name)) is not None}
    model = asked.chosen.load(asked.run, data=asked.data)
    return show(evaluated(model, asked.only, options), model, as_json=asked.json)


def _judge(words: list[str]) -> int:
    """Score the samples of a run."""
    from seedfast import api
    from seedfast.evaluate import noted
    from seedfast.evaluate.frontier import TEMPERATURES, Frontier
    from seedfast.files import commit

    if words[0].startswith("-"):
        raise UserError("Name the run first: seedfast evaluate RUN --judge RUN, then further flags.")
    for word in words:
        if reason := _NOT_FOR_SAMPLES.get(word.partition("=")[0]):
            raise UserError(f"{word.partition('=')[0]} has no effect with --judge ({reason}): leave it out.")
    kind = api.request_class(Path(words[0]), step=step_of(words), trust=trusts(words))
    kind = without(kind, ("num", "trace", "explain"))
    asked: Any = parse(
        JudgeSamples[kind],  # type: ignore[valid-type]
        words,
        prog="seedfast evaluate",
    )
    if asked.plot:
        check_output("plot", asked.plot, ".png", ".svg")
    judge = asked.chosen.load(asked.judge, weights=None, step="best")
    evaluator = Frontier(
        by=judge,
        request=asked.sampling,
        temperatures=_swept(asked, "temperature", asked.temperatures) or TEMPERATURES,
        steps=_swept(asked, "steps", asked.steps),
        samples=asked.samples,
        seed=asked.seed,
    )
    model = asked.chosen.load(asked.run, data=asked.data)
    result = noted.frontier(model, evaluator)
    if asked.plot:
        from seedfast.report.frontier import draw

        commit(asked.plot, draw(result.plotted(), kind=asked.plot.suffix[1:].lower()))
    return show(result, model, as_json=asked.json)


def _swept(asked: Any, name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of an option of sampling that are tried: those of its list, or the one of `--sampling`."""
    given = {f.name: f.default for f in fields(asked.sampling)}
    if name not in given or (own := getattr(asked.sampling, name)) == given[name]:
        return values
    if values:
        flag = "temperatures" if name == "temperature" else name
        raise UserError(f"--{flag} and --sampling.{name} both set the {name}: give one of them.")
    return (own,)


def show(result: "Result", model: "Trained", *, as_json: bool) -> int:
    """Print a result, with the step and the weights that it is of."""
    from seedfast.console import put

    if as_json:
        print(json.dumps({"weights": model.weights, "step": model.step} | result.record()))
    else:
        put("\n".join([model.origin, *result.table()]))
    return 0
