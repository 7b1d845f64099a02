"""`seedfast compare`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from seedfast.cli.arguments import Trust, check_output, parse
from seedfast.errors import UserError
from seedfast.options import AtLeast, check

if TYPE_CHECKING:
    from seedfast.evaluate.comparison import ComparedRuns


@dataclass(frozen=True, kw_only=True)
class Compare:
    """One table over runs of any families on the same validation bytes.

    Each run's bits per byte with its standard error (≤: a bound), the bound from below and the exact likelihood of its
    sampler; the difference to the best run with an error of its own, from the differences on the same windows;
    parameters, tokens, epochs, FLOPs and time of its training; tokens per second at stated numbers of network
    evaluations; with --judge the area of its frontier (docs/compare.md). Images have bits per dimension and their
    Fréchet distance, captions their metrics.

    Tokenizers and contexts may differ. Runs with other validation bytes are refused, with how they differ. What was
    measured before is taken from the cache; after Ctrl-C, the same command continues.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """The run folders, or checkpoints in them."""
    judge: Path | None = None
    """An autoregressive run that scores samples, for the area of each frontier. It should be none of the runs: a model
    is no judge of itself."""
    only: tuple[str, ...] = ()
    """What is measured: loss, bracket, deployed, bits_per_dimension, speed, frontier, fidelity, captions (default: all
    that fit)."""
    draws: Annotated[int | None, AtLeast(1)] = None
    """Random tasks for each example of a bound (default: the run's)."""
    windows: Annotated[int | None, AtLeast(2)] = None
    """Windows that the lower bound and deployed are measured on (default: by their length)."""
    samples: Annotated[int | None, AtLeast(1)] = None
    """With --judge: samples of each point of a frontier (default: 32, and fewer of long texts). Of images: how many are
    generated for the Fréchet distance (default: 2048)."""
    temperatures: Annotated[tuple[float, ...], AtLeast(0)] = ()
    """With --judge: temperatures of sampling (default: 0.5, 0.7, 0.85, 1 and 1.15)."""
    json: bool = False
    """Print one JSON object instead of a table."""
    markdown: bool = False
    """Print one table of Markdown."""
    html: Path | None = None
    """Write a page with the table, and the picture of the frontiers, into this file."""
    weights: Literal["ema", "raw"] | None = None
    """Which weights to use (default: the averaged ones of each run where there are some)."""
    at: Literal["best", "newest"] = "best"
    """Which checkpoint of each run: the best (by its validations), or the newest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    trust: Trust = False

    def __post_init__(self) -> None:
        check(self)


def compare(words: list[str]) -> int:
    """Compare runs; see `Compare` for the flags."""
    asked: Compare = parse(Compare, words, prog="seedfast compare")
    if asked.json and asked.markdown:
        raise UserError("--json and --markdown are two forms of one table: give one of them.")
    if asked.judge is None and asked.temperatures:
        raise UserError("--temperatures has no effect without --judge RUN: name a judge, or leave it out.")
    if asked.html:
        check_output("html", asked.html)
    from seedfast import api
    from seedfast.console import put
    from seedfast.evaluate import comparison_table
    from seedfast.files import commit

    found = api.compare(
        *asked.runs,
        judge=asked.judge,
        only=asked.only,
        draws=asked.draws,
        windows=asked.windows,
        samples=asked.samples,
        temperatures=asked.temperatures,
        step=asked.at,
        weights=asked.weights,
        device=asked.device,
        trust=asked.trust,
    )
    if asked.html:
        commit(asked.html, _page(found))
    if asked.json:
        print(json.dumps(found.record(), ensure_ascii=False))
    else:
        put("\n".join(comparison_table.markdown(found) if asked.markdown else comparison_table.text(found)))
    return 0


def _page(found: "ComparedRuns") -> str:
    """The comparison as a page."""
    from seedfast.evaluate import comparison_table
    from seedfast.report.comparison import page

    made = comparison_table.columns(found)
    rows: list[Sequence[str]] = [
        [row.name, *(each.cells[number] for each in made)] for number, row in enumerate(found.rows)
    ]
    pictures = comparison_table.pictures(found)
    names = ", ".join(row.name for row in found.rows)
    header = ["run", *(each.title for each in made)]
    return page(
        f"Comparison of {names}",
        comparison_table.data(found),
        header,
        rows,
        list(comparison_table.notes(found)),
        pictures,
    )
