"""`seedfast study`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from seedfast.cli.arguments import parse
from seedfast.console import say
from seedfast.errors import UserError
from seedfast.options import AtLeast, MoreThan, NotEmpty, check

if TYPE_CHECKING:
    from seedfast.scaling.outcome import Study

FamilyName = Literal["autoregressive", "masked", "block", "proofreading", "embedding"]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Which kind of model suits a text and a budget: runs of several families, a law for each, a recommendation.

    Each family trains three sizes, each for three lengths, and all families get the same training FLOPs in each of
    these nine cells. A law L(N, D) = E + A / N^α + B / D^β is fitted to the bits per byte of each family, and tells
    what a run with more FLOPs would have, with a band (docs/study.md).

    Every run is an ordinary run folder below --out. After Ctrl-C or a kill, the same command continues.
    """

    data: tyro.conf.Positional[Annotated[tuple[str, ...], NotEmpty()]]
    """Where the text is, as in `seedfast train --data`."""
    out: Path
    """The folder of the study: a new one, or one to continue."""
    minutes: Annotated[float | None, MoreThan(0)] = None
    """Time of the whole study on this machine (default: 15, and more where its smallest runs need more). It is turned
    into FLOPs once, when the study begins."""
    flops: Annotated[float | None, MoreThan(0)] = None
    """Instead of --minutes: training FLOPs of all runs together, in equal parts for the families."""
    families: tuple[FamilyName, ...] = ()
    """Which families are compared (default: all); the first gives the cells their FLOPs."""
    check: bool = False
    """Train one more run of each family, with four times the FLOPs of any other, and compare it with the prediction of
    the others. Without it, the largest run is predicted from those with at most a quarter of its FLOPs."""
    for_flops: Annotated[float | None, MoreThan(0)] = None
    """Training FLOPs of the run that the recommendation is for."""
    scale: Annotated[float | None, MoreThan(0)] = None
    """Instead of --for-flops: as many times the FLOPs of the largest run (default: 4)."""
    tokenizer: Annotated[str, NotEmpty()] = "bytes"
    """The tokenizer of all runs, as in `seedfast train --data.tokenizer`."""
    context: Annotated[int, AtLeast(16)] = 128
    """Tokens of a window."""
    seed: int = 1
    """Seed of all runs and draws."""
    jobs: Annotated[int | None, AtLeast(1)] = None
    """Runs that are trained at a time, each by one thread (default: as many as PyTorch has threads, at most 8, and one
    on a GPU). Their number changes no bit."""
    json: bool = False
    """Print one JSON object instead of tables."""
    markdown: bool = False
    """Print tables of Markdown."""

    def __post_init__(self) -> None:
        check(self)


def study(words: list[str]) -> int:
    """Study data; see `StudyOptions` for the flags."""
    asked: StudyOptions = parse(StudyOptions, words, prog="seedfast study")
    if asked.json and asked.markdown:
        raise UserError("--json and --markdown are two forms of one thing: give one of them.")
    import seedfast
    from seedfast.console import put
    from seedfast.files import commit
    from seedfast.scaling import table

    given = {key: value for key, value in vars(asked).items() if key not in ("json", "markdown")}
    try:
        found = seedfast.study(**given)
    except KeyboardInterrupt:
        say(f"seedfast: interrupted; the same command continues the study in {asked.out}.")
        return 130
    commit(asked.out / "study.html", _page(found))
    say(f"page     {asked.out / 'study.html'}")
    if asked.json:
        print(json.dumps(found.record(), ensure_ascii=False))
    else:
        put("\n".join(table.markdown(found) if asked.markdown else table.text(found)))
    return 0


def _page(found: "Study") -> str:
    """The study as one page that loads nothing from elsewhere."""
    from seedfast.report.comparison import page
    from seedfast.scaling import table

    first, *others = [*table.tables(found), table.runs(found)]
    return page(
        f"Study of {', '.join(Path(each).name for each in found.plan.request.data)}",
        table.verdict(found),
        first[1],
        first[2],
        [table.command(found), *table.notes(found)],
        table.pictures(found),
        others,
    )
