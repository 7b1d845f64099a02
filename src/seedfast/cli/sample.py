"""`seedfast sample`."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from seedfast.cli.arguments import parse, step_of, trusts
from seedfast.cli.chosen import ChosenFlags
from seedfast.errors import UserError

if TYPE_CHECKING:
    from seedfast.families.text.written import Choice
    from seedfast.report.surprise import Span

R = TypeVar("R")

_USAGE = """\
usage: seedfast sample RUN [flags]
       seedfast sample RUN --help lists the flags of that run's kind of model

Complete, infill or draw samples with the best checkpoint of the run in the
folder RUN, or with the model in a folder of transformers, peft or seedfast
export."""


@dataclass(frozen=True, kw_only=True)
class Sample(Generic[R]):
    """Sample from a run."""

    run: tyro.conf.Positional[Path]
    """The run folder, a checkpoint in it, or a model's own folder, of transformers, peft or seedfast export."""
    request: Annotated[R, tyro.conf.arg(name="")]
    seed: int = 1
    """Sample i of a seed is always the same."""
    out: Path | None = None
    """Write the samples as files into this folder (default for what cannot be printed: RUN/samples/seed-SEED)."""
    beside: Literal["ema", "raw", "base"] | None = None
    """Sample with these weights too, by the same request and random numbers, and compare the texts' statistics."""
    stream: bool = False
    """Show the text while it is generated (autoregressive models, one sample)."""
    animate: Path | None = None
    """Write an animation of how the samples come about, as one HTML file that needs no network."""
    chosen: ChosenFlags


@dataclass(frozen=True, kw_only=True)
class TextSample(Sample[R], Generic[R]):
    """Sample from a run."""

    gif: Path | None = None
    """Write the animation as a GIF too, or instead."""


def sample_class(kind: type[Any]) -> Any:
    """The flags of `seedfast sample` for a class of requests: those of images write a GIF themselves."""
    shape: Any = Sample if "gif" in {f.name for f in fields(kind)} else TextSample
    return shape[kind]


def sample(words: list[str]) -> int:
    """Sample from a run; the flags are `Sample`'s and those of the request that the run's family takes."""
    if not words or words[0].startswith("-"):
        if words and words[0] not in ("-h", "--help"):
            raise UserError("Name the run first: seedfast sample RUN, then the flags.")
        print(_USAGE)
        return 0 if words else 2
    from seedfast import api
    from seedfast.cli.animation import filmed, without_frames, write
    from seedfast.console import say
    from seedfast.evaluate.bare import is_bare
    from seedfast.run_folder.choice import run_folder_of
    from seedfast.run_folder.links import refuse_links

    kind = api.request_class(Path(words[0]), step=step_of(words), trust=trusts(words))
    asked: Any = parse(sample_class(kind), words, prog="seedfast sample")
    files = {name: path for name in ("animate", "gif") if isinstance(path := getattr(asked, name, None), Path)}
    request = filmed(asked.request, files, beside=asked.beside) if files else asked.request
    if asked.beside and is_bare(asked.run):
        raise UserError(f"{asked.run} is a bare model, whose only weights are its own; leave --beside out.")
    console = Console()
    models = [asked.chosen.load(asked.run)]
    if asked.beside:  # of the same step, so that only the weights differ
        step = models[0].committed.step
        models.insert(0, asked.chosen.load(asked.run, step=step, weights=asked.beside))
    request = _streamed(request, console) if asked.stream else request
    run_folder = run_folder_of(asked.run)
    folder = asked.out or run_folder / "samples" / f"seed-{asked.seed}"
    if not asked.out:
        refuse_links(run_folder, f"samples/{folder.name}")
    if asked.beside:
        return _compare(models, request, asked.seed, console, folder, save=bool(asked.out))
    is_traced = getattr(asked.request, "trace", False)
    samples = _sampled(models[0], request, asked.seed, console, draws=is_traced)
    say(models[0].origin)
    _say_decoding(models[0], request)
    if asked.stream:
        console.file.write("\n")
        console.file.writelines(f"{line}\n" for line in samples.explanation(0))
    else:
        (samples if is_traced else without_frames(samples)).show(console)
    if asked.out or not samples.printable:
        _save(samples, folder, replace=not asked.out, more=_explained(samples, models[0]))
    write(files, samples, models[0], request, asked.seed)
    return 0


def _sampled(model: Any, request: Any, seed: int, console: Console, *, draws: bool) -> Any:
    """The samples. draws: on a terminal their frames are drawn in place, of the first one while it is generated."""
    from seedfast.console import animates, silenced

    streams = getattr(request, "on_token", None) is not None
    if streams or not draws or not animates(console):
        with silenced(streams):  # a bar would be drawn into the text
            return model.sample(request, seed=seed)
    from seedfast.report.animation.terminal import Player

    with silenced(), Player(console) as player:
        samples = model.sample(replace(request, on_frame=player.show), seed=seed)
        for film in samples.films[1:]:
            player.play(film)
    return samples


def _explained(samples: Any, model: Any) -> dict[str, bytes]:
    """The page of explained texts, with their tokens coloured by surprise; nothing without explanations."""
    if not (choices := getattr(samples, "choices", [])):
        return {}
    from seedfast.report.surprise import Passage, page

    passages = []
    for number, tokens in enumerate(samples.tokens):
        spans = list(_spans(tokens, choices[number], model.tokenizer.decode))
        facts = f"log-probability of all that was written: {samples.log_probs[number]:,.4f} nats"
        passages.append(Passage(f"Sample {number + 1}", facts, spans))
    return {"explanation.html": page("Samples, token by token", [model.origin], passages).encode()}


def _spans(tokens: list[int], choices: "list[Choice]", decode: Callable[[list[int]], str]) -> "Iterator[Span]":
    """A text in whole characters: tokens that share a character are one span, with the sum of their surprises."""
    from seedfast.families.film import pieces
    from seedfast.report.surprise import Span

    prefixes = (decode(tokens[: place + 1]) for place in range(len(tokens)))
    written = {each.place: each for each in choices}
    pending: list[Choice] = []
    for place, text in enumerate(pieces([decode([token]) for token in tokens], decode(tokens), prefixes)):
        pending += [written[place]] if place in written else []
        if text:
            hints = [
                f"step {each.step}, {each.bits:.2f} bits, rank {each.rank}, drawn with {each.draw:.6f} ({each.key})"
                for each in pending
            ]
            yield Span(text, sum(each.bits for each in pending) if pending else None, "\n".join(hints))
            pending = []


def _say_decoding(model: Any, request: Any) -> None:
    """Print on stderr how the samples are decoded, with the defaults of the family."""
    from seedfast.console import say

    if decoding := model.decoding(request):
        say(f"decoding: {decoding}")


def _save(samples: Any, folder: Path, *, replace: bool, more: dict[str, bytes] | None = None) -> None:
    """Write samples into a folder. replace: whether it is the run's own, so that nothing in it is the user's."""
    from seedfast.console import put

    folder.mkdir(parents=True, exist_ok=True)
    for file in samples.save(folder, replace=replace, more=more):
        put(str(file))


def _streamed(request: Any, console: Console) -> Any:
    """The request with a callback that prints the text as it is generated."""
    if "on_token" not in {f.name for f in fields(request)}:
        raise UserError("Only autoregressive models write from left to right, so only they take --stream.")

    from seedfast.console import shown

    def show(text: str) -> None:
        console.file.write(shown(text, console))
        console.file.flush()

    return replace(request, on_token=show)


def _compare(models: list[Any], request: Any, seed: int, console: Console, folder: Path, *, save: bool) -> int:
    """The samples of several kinds of weights, one after the other, and the statistics of their texts.

    Samples that cannot be printed, or that are to be saved, go to a folder of each kind's own.
    """
    from seedfast.console import say
    from seedfast.evaluate.text_statistics import statistics
    from seedfast.families.text.request import TextSamples

    columns = {}
    _say_decoding(models[0], request)
    for model in models:
        samples = _sampled(model, request, seed, console, draws=getattr(request, "trace", False))
        say(model.origin)
        console.rule(f"{model.weights} weights", style="bold")
        samples.show(console)
        if save or not samples.printable:
            _save(samples, folder / model.weights, replace=not save, more=_explained(samples, model))
        columns[model.weights] = statistics(samples.written) if isinstance(samples, TextSamples) else {}
    table = Table("", *columns)
    for name in next(iter(columns.values())):
        table.add_row(name.replace("_", " "), *(f"{column.get(name, math.nan):.4f}" for column in columns.values()))
    if table.row_count:
        console.print(table)
    return 0
