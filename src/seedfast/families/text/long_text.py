"""Text that is longer than a model's context: window by window, each conditioned on the end of the text before it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch

from seedfast.families.text.decoding import Decoding, TextRequestT, Trace
from seedfast.families.text.request import Canvas
from seedfast.families.text.written import Record


class Windowed(Protocol[TextRequestT]):
    """What of a generator is used."""

    end_of_text: int
    context: int

    def window(self, text: int) -> tuple[int, int]:
        """Of a text of `text` tokens: how many at its end are read in a window, and how many it has room for."""
        ...

    def fill(self, decoding: Decoding[TextRequestT], canvases: list[Canvas]) -> list[list[int]]:
        """The token ids of each canvas with its open positions filled."""
        ...


def fill_windows(
    generator: Windowed[TextRequestT], decoding: Decoding[TextRequestT], canvases: list[Canvas]
) -> list[list[int]]:
    """`fill` for continuations of any length. A text that fits into the context is one window.

    The first window of each text has the random numbers of a text that fits, every later one its own. A text ends
    with its first end-of-text.
    """
    if all(len(canvas.tokens_L) <= generator.context for canvas in canvases):
        return generator.fill(decoding, canvases)
    texts = [canvas.tokens_L[canvas.fixed_L].tolist() for canvas in canvases]
    missing = [int((~canvas.fixed_L).sum()) for canvas in canvases]
    number, rows = 0, list(range(len(canvases)))
    while rows:
        parts = [generator.window(len(texts[row])) for row in rows]
        before = [texts[row][: len(texts[row]) - read] for row, (read, _) in zip(rows, parts, strict=True)]
        pages = [
            Canvas.of([(texts[row][len(gone) :], True), ([generator.end_of_text] * min(room, missing[row]), False)])
            for row, gone, (_, room) in zip(rows, before, parts, strict=True)
        ]
        after = [missing[row] - int((~page.fixed_L).sum()) for row, page in zip(rows, pages, strict=True)]
        trace = decoding.trace and _in_whole_text(decoding.trace, rows, before, after, generator.end_of_text)
        record = decoding.record and _recorded(decoding.record, rows, before, decoding.device)
        filled = generator.fill(replace(_of_window(decoding, number, rows), trace=trace, record=record), pages)
        for row, gone, rest, page, tokens in zip(rows, before, after, pages, filled, strict=True):
            texts[row] = gone + tokens
            missing[row] = rest if len(tokens) == len(page.tokens_L) else 0
        rows = [row for row in rows if missing[row]]
        number += 1
    return texts


def _of_window(decoding: Decoding[TextRequestT], number: int, rows: list[int]) -> Decoding[TextRequestT]:
    """The decoding of some rows' windows of this number, with random numbers of their own after the first."""
    draws = decoding.draws
    scope = f"{draws.scope}/window-{number}" if number else draws.scope
    return replace(decoding, draws=replace(draws, scope=scope, positions_B=draws.positions_B[rows]))


def _recorded(record: Record, rows: list[int], before: list[list[int]], device: torch.device) -> Record:
    """A record of windows as that of whole texts."""
    rows_B = torch.tensor(rows, device=device)
    places_B = torch.tensor([len(gone) for gone in before], device=device)
    return lambda tokens: record(tokens.moved(places_B, rows_B))


def _in_whole_text(trace: Trace, rows: list[int], before: list[list[int]], after: list[int], end_of_text: int) -> Trace:
    """A trace of windows as a trace of whole texts: the tokens before a window, and open positions after it."""

    def show(index: int, tokens: Sequence[int], is_open: Sequence[bool]) -> None:
        gone, rest = before[index], after[index]
        trace(
            rows[index],
            [*gone, *tokens, *[end_of_text] * rest],
            [*[False] * len(gone), *is_open, *[True] * rest],
        )

    return show
