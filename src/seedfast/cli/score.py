"""`seedfast score`."""

import json
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from seedfast.cli.arguments import check_output, parse
from seedfast.cli.chosen import ChosenFlags
from seedfast.errors import UserError

if TYPE_CHECKING:
    from seedfast.evaluate.score import Scores
    from seedfast.evaluate.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Score:
    """How likely each document of a file is under a model, token by token.

    Autoregressive models: the log-likelihood itself. Masked, block and proofreading models: the exact likelihood under
    the policy by which they write, with `seedfast sample --order confidence` (docs/likelihood.md). A document is cut
    into windows of the model's context; its end is not scored. Interrupted by Ctrl-C, the same command continues.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, a checkpoint in it, or a model's own folder, of transformers, peft or seedfast export."""
    file: tyro.conf.Positional[Path]
    """The documents: a text, or a file of rows (JSONL, JSON, CSV or Parquet), each of which is one."""
    field: str = "text"
    """The field of a row that holds the text."""
    json: bool = False
    """Print one JSON object with every token."""
    tokens: bool = False
    """Print every token, not only the documents."""
    html: Path | None = None
    """Write a page with the tokens coloured by surprise into this file."""
    order: Literal["confidence", "random", "ancestral"] | None = None
    """The order in which a masked model writes (default: confidence)."""
    steps: int | None = None
    """Its unmasking steps (default: one for each token)."""
    temperature: float | None = None
    """The temperature of sampling (default 1)."""
    top_k: int | None = None
    """Sampling from the k likeliest tokens only."""
    top_p: float | None = None
    """Sampling from the smallest set of likeliest tokens whose probability reaches p."""
    seed: int = 1
    """Of a random order."""
    chosen: ChosenFlags


_POLICY = ("order", "steps", "temperature", "top_k", "top_p")


def score(words: list[str]) -> int:
    """Score the documents of a file; see `Score` for the flags."""
    asked: Score = parse(Score, words, prog="seedfast score")
    if asked.json and asked.tokens:
        raise UserError("--json has every token, so --tokens has no effect: leave it out.")
    if asked.html:
        check_output("html", asked.html)
    from seedfast.console import put, say
    from seedfast.data.text.sources import file_source
    from seedfast.evaluate.score import score as measure
    from seedfast.files import commit

    if not asked.file.is_file():
        raise UserError(f"{asked.file} is no file: name one that holds the documents.")
    try:
        documents = [(each.name, "".join(each.texts)) for each in file_source(asked.file, asked.field).documents()]
    except UnicodeDecodeError:
        raise UserError(f"{asked.file} is not UTF-8: name a file of text in UTF-8.") from None
    if not documents:
        raise UserError(f"{asked.file} holds no documents, so there is nothing to score.")
    model = asked.chosen.load(asked.run)
    policy = {name: value for name in _POLICY if (value := getattr(asked, name)) is not None}
    names, texts = zip(*documents, strict=True)
    try:
        scores = measure(model, texts, names, seed=asked.seed, keep=True, **policy)
    except KeyboardInterrupt:
        say("What is scored is kept, and the same command continues.")
        raise
    if asked.html:
        commit(asked.html, page(model, scores, asked.file.name).encode())
    if asked.json:
        print(json.dumps({"weights": model.weights, "step": model.step} | scores.record(), ensure_ascii=False))
    else:
        decoding = textwrap.wrap(f"decoding: {scores.decoding}", 80, subsequent_indent=" " * 10)
        put("\n".join([model.origin, *decoding, *table(scores, tokens=asked.tokens)]))
    return 0


def table(scores: "Scores", *, tokens: bool) -> list[str]:
    """The documents as lines, each followed by its tokens where these are wanted; in the end the sum."""
    width = max(10, *(len(each.name) for each in scores.texts))
    lines = [f"{'document':<{width}} {'tokens':>8} {'bytes':>8} {'log-prob':>14} {'bits per byte':>14}"]
    for each in scores.texts:
        lines.append(_line(each.name, width, len(each.tokens), each.size, each.log_prob))
        if tokens:
            lines += [
                f"  {token.text!r:<16} {token.log_prob:>10.5f} nats  rank {token.rank:>5}  entropy {token.entropy:.4f}"
                for token in each.tokens
            ]
    if len(scores.texts) > 1:
        sums = (sum(len(each.tokens) for each in scores.texts), sum(each.size for each in scores.texts))
        lines.append(_line("all", width, *sums, math.fsum(each.log_prob for each in scores.texts)))
    return lines


def _line(name: str, width: int, tokens: int, size: int, log_prob: float) -> str:
    return f"{name:<{width}} {tokens:>8,} {size:>8,} {log_prob:>14,.4f} {-log_prob / math.log(2) / size:>14.5f}"


def page(model: "Trained", scores: "Scores", title: str) -> str:
    """The documents as a page, coloured by surprise."""
    from seedfast.report import surprise

    passages = []
    for text in scores.texts:
        spans = []
        for piece in scores.pieces(text):
            ranks = ", ".join(str(token.rank) for token in piece.tokens)
            spans.append(surprise.Span(piece.text, piece.surprise, f"{piece.surprise:.2f} bits, rank {ranks}"))
        facts = f"{len(text.tokens):,} tokens, {text.log_prob:,.2f} nats, {text.bits_per_byte:.4f} bits per byte"
        passages.append(surprise.Passage(text.name, facts, spans))
    return surprise.page(f"Surprise in {title}", [model.origin, f"decoding: {scores.decoding}"], passages)
