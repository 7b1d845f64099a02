"""Task previews: one training example as text, for people to look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

Spans = list[tuple[str, str]]
"""Text in pieces, each with its kind: "word", "nothing" (no loss here), or special: "mask", "changed", "wrong" …"""

PLACEHOLDERS = {"mask": "█", "wrong": "✗", "insert": "⊕", "delete": "⊖", "nothing": "∅"}
"""How a position without a word is shown: one character for each token, so that lines stay aligned."""
END_OF_TEXT = "¶"


@dataclass(frozen=True)
class TaskPreview:
    """One example of a task: the text, the network's input, and its target.

    Only the source, for an objective that does not show its task.
    """

    source: Spans
    inputs: Spans = field(default_factory=list)
    targets: Spans = field(default_factory=list)


def spans(
    tokens: Sequence[int], kinds: Sequence[str], *, end_of_text: int, decode: Callable[[list[int]], str]
) -> Spans:
    """Token ids as spans: neighbours of the same kind together, line breaks and tabs as visible characters."""
    found = []
    pairs = zip(tokens, kinds, strict=True)
    for (kind, is_end), group in groupby(pairs, key=lambda pair: (pair[1], pair[0] == end_of_text)):
        ids = [token for token, _ in group]
        placeholder = PLACEHOLDERS.get(kind, END_OF_TEXT if is_end else None)
        text = placeholder * len(ids) if placeholder else decode(ids).replace("\n", "⏎").replace("\t", "→")
        found.append((text, kind))
    return found
