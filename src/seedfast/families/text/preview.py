"""What a text model is asked, for people to look at."""

from dataclasses import dataclass, field

Signs = list[tuple[str, str]]
"""Text in pieces, each with its role: "word", or what is special about it ("mask", "changed", "nothing" …)."""

GLYPHS = {"mask": "█", "wrong": "✗", "insert": "⊕", "delete": "⊖", "nothing": "∅"}
"""How a position is shown that holds no word: one sign for each token, so that lines stay side by side."""
END = "¶"
"""How end-of-text is shown."""


@dataclass(frozen=True)
class Exercise:
    """One example as the network meets it: the text, what it sees of it, and what it is to answer.

    Of a family that says nothing about its task, only the text.
    """

    source: Signs
    inputs: Signs = field(default_factory=list)
    targets: Signs = field(default_factory=list)
