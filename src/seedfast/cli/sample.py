"""`seedfast sample`."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from seedfast.errors import UserError

R = TypeVar("R")

_USAGE = """\
usage: seedfast sample RUN [flags]      (seedfast sample RUN --help lists the flags of that run's kind of model)

Complete, infill or draw samples with the newest checkpoint of the run in the folder RUN, or with the causal language
model that a folder of transformers holds."""


@dataclass(frozen=True, kw_only=True)
class Sample(Generic[R]):
    """Sample from the newest checkpoint of a run."""

    run: tyro.conf.Positional[Path]
    """The run folder, or the folder of a causal language model of transformers."""
    request: Annotated[R, tyro.conf.arg(name="")]
    seed: int = 1
    """Sample i of a seed is always the same."""
    out: Path | None = None
    """Write the samples as files into this folder (default for what cannot be printed: RUN/samples/seed-SEED)."""
    weights: Literal["ema", "raw", "base"] | None = None
    """Which weights to use (default: the averaged ones where there are some); base: the pretrained ones that a
    fine-tuned model began with."""
    beside: Literal["ema", "raw", "base"] | None = None
    """Show what these weights do with the same request too, and compare the texts' statistics."""
    stream: bool = False
    """Show the text while it is written (autoregressive models, one sample)."""
    at: int | None = None
    """Use the checkpoint of this step instead of the newest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def sample(words: list[str]) -> int:
    """Sample from a run; the flags are `Sample`'s and those of the request that the run's family takes."""
    if not words or words[0].startswith("-"):
        if words and words[0] not in ("-h", "--help"):
            raise UserError("Name the run first: seedfast sample RUN, then the flags.")
        print(_USAGE)
        return 0 if words else 2
    from seedfast import recipes
    from seedfast.evaluate import trained

    place = Path(words[0])
    is_bare = trained.is_bare(place)
    newest = None if is_bare else trained.find(place)
    kind = (
        trained.bare_request(place)
        if newest is None
        else trained.family_of(recipes.stored(newest.folder), newest).request
    )
    asked = tyro.cli(
        Sample[kind],  # type: ignore[valid-type]
        args=words,
        prog="seedfast sample",
        config=(tyro.conf.UseAppendAction,),
    )
    if is_bare and (asked.weights, asked.beside, asked.at) != (None, None, None):
        raise UserError(
            f"{place} is a bare model, whose only weights are its own; leave --weights, --beside, --at out."
        )
    console = Console()

    def model(weights: Any) -> Any:
        if is_bare:
            return trained.bare(place, device=asked.device)
        checkpoint = trained.find(asked.run, at=asked.at)
        return trained.load(recipes.stored(checkpoint.folder), checkpoint, weights=weights, device=asked.device)

    request = _streamed(asked.request, console) if asked.stream else asked.request
    one = model(asked.weights)
    folder = asked.out or asked.run / "samples" / f"seed-{asked.seed}"
    if asked.beside:
        return _compare(one, model(asked.beside), request, asked.seed, console, folder, is_wanted=bool(asked.out))
    samples = one.sample(request, seed=asked.seed)
    if asked.stream:
        console.file.write("\n")
    else:
        samples.show(console)
    if asked.out or not samples.readable:
        _save(samples, folder)
    return 0


def _save(samples: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in samples.save(folder):
        print(file)


def _streamed(request: Any, console: Console) -> Any:
    """The request, to be shown while it is fulfilled."""
    if not hasattr(request, "watch"):
        raise UserError("Only autoregressive models write from left to right, so only they take --stream.")

    def watch(text: str) -> None:
        console.file.write(text)
        console.file.flush()

    return replace(request, watch=watch)


def _compare(one: Any, other: Any, request: Any, seed: int, console: Console, folder: Path, *, is_wanted: bool) -> int:
    """Two kinds of weights side by side: the same request, the same random numbers, and the texts' statistics.

    What cannot be printed, or where files are wanted, goes to a folder of each kind's own.
    """
    from seedfast.evaluate.text_statistics import statistics

    columns = {}
    for model in (other, one):
        samples = model.sample(request, seed=seed)
        console.rule(f"{model.weights} weights", style="bold")
        samples.show(console)
        if is_wanted or not samples.readable:
            _save(samples, folder / model.weights)
        columns[model.weights] = statistics(getattr(samples, "written", []))
    table = Table("", *columns)
    for name in next(iter(columns.values())):
        table.add_row(name.replace("_", " "), *(f"{column.get(name, math.nan):.4f}" for column in columns.values()))
    if table.row_count:
        console.print(table)
    return 0
