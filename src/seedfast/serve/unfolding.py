"""A text while it is written: its whole characters in their order, held back where they may be the start of a stop.

What has been passed on is never changed: a stream can only append.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What bytes decode to that are no whole character, or not yet."""


Known = tuple[float | None, tuple[tuple[str, float], ...]]
"""The log-probability of a token, and the likeliest tokens in its place."""


@dataclass(frozen=True)
class Token:
    """A written token. offset: of its first character in the text. log_prob: in nats, None where it is not wanted.

    top: the likeliest tokens there, as texts with their log-probabilities.
    """

    text: str
    offset: int
    log_prob: float | None = None
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """The next part of a text, and the tokens that it completes."""

    text: str
    tokens: tuple[Token, ...] = ()


class Unfolding:
    """A text from its tokens.

    lead: the tokens before it, with which its first token is decoded. stops: texts of which the first that is complete
    ends the text and is no part of it. describe: what is known of token number i; None: nothing is wanted.
    """

    def __init__(
        self,
        lead: Sequence[int],
        decode: Callable[[list[int]], str],
        stops: Sequence[str] = (),
        describe: Callable[[int], Known] | None = None,
    ) -> None:
        self._decode, self._stops, self._describe = decode, stops, describe
        self._lead = [*lead]
        self._before = decode(self._lead) if lead else ""
        self._pending: list[tuple[Token, int]] = []  # tokens that are not passed on, with the end of each in the text
        self._passed = 0
        self._decoded = ""
        self.tokens: list[int] = []
        self.text = ""
        """All that is decoded so far; after a stop, the text before it."""
        self.is_stopped = False

    def extend(self, tokens: Sequence[int]) -> Piece:
        """The next piece, given all tokens of the text so far. Nothing after a stop."""
        for token in tokens[len(self.tokens) :]:
            if self.is_stopped:
                break
            self.tokens.append(token)
            before, self._decoded = self._decoded, self._decode_all()
            start, self.text = len(self.text), self._decoded.rstrip(REPLACEMENT)
            if self._describe:
                log_prob, top = self._describe(len(self.tokens) - 1)
                place = _place(before, self._decoded)
                self._pending.append((Token(self._decode([token]), place, log_prob, top), len(self.text)))
            self._stop_from(start)
        return self._passed_on(len(self.text) - (0 if self.is_stopped else self._held()))

    def finish(self) -> Piece:
        """The rest of the text, with what no further token can complete."""
        if not self.is_stopped:
            start, self.text = len(self.text), self._decode_all()
            self._stop_from(start)
        return self._passed_on(len(self.text), is_last=True)

    def _decode_all(self) -> str:
        whole = self._decode([*self._lead, *self.tokens])
        return whole[len(self._before) :] if whole.startswith(self._before) else self._decode(self.tokens)

    def _stop_from(self, start: int) -> None:
        """Cut the text before the stop that is complete first, of which the last character comes after `start`."""
        found = []
        for stop in self._stops:
            place = self.text.find(stop, max(0, start - len(stop) + 1))
            if place >= 0:
                found.append((place + len(stop), place))
        if found:
            self.text, self.is_stopped = self.text[: min(found)[1]], True

    def _held(self) -> int:
        """How many characters at the end may be the start of a stop."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(self.text) - self._passed), 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self._stops):
                return size
        return 0

    def _passed_on(self, end: int, *, is_last: bool = False) -> Piece:
        """The text up to a place, and the tokens that it completes; the last piece has all that begin in the text."""
        end = max(end, self._passed)
        text, self._passed = self.text[self._passed : end], end
        is_last = is_last or self.is_stopped
        done = [token for token, stop in self._pending if stop <= end or (is_last and token.offset < end)]
        self._pending = [] if is_last else self._pending[len(done) :]
        return Piece(text, tuple(done))


def _place(before: str, after: str) -> int:
    """Where a token begins that changes what is decoded from `before` to `after`.

    At its end, or in its last character if that was a part of one, which the token continues.
    """
    continues = before.endswith(REPLACEMENT) and (after == before or not after.startswith(before))
    return len(before) - continues
