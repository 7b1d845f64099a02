"""The wire format of answers: events as OpenAI's clients read them, whole or as a stream, and errors."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seedfast.serve.events import Delta, Ended, Event, Frame
from seedfast.serve.unfolding import Token

DONE = b"data: [DONE]\n\n"
_IMPOSSIBLE = -9999.0
"""Stands for a log-probability of minus infinity, which JSON lacks."""


def error(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> Any:
    """The body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def event_of(value: Any) -> bytes:
    """A value as an event of a stream."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def comment_of(value: Any) -> bytes:
    """A value as a comment of a stream, which clients skip."""
    return b": " + json.dumps(value).encode() + b"\n\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to one request.

    fingerprint: names the weights. seed: of the request, or the one that was drawn for it. prompt_tokens: of all
    prompts.
    """

    id: str
    created: int
    model: str
    fingerprint: str
    seed: int
    prompt_tokens: int
    choices: int
    include_usage: bool
    ends: dict[int, Ended] = field(default_factory=dict)

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    @property
    def is_over(self) -> bool:
        """Whether every choice has ended."""
        return len(self.ends) == self.choices

    @property
    def usage(self) -> dict[str, int]:
        """The tokens that were read and written."""
        written = sum(end.tokens for end in self.ends.values())
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }

    def whole(self, events: Sequence[Event]) -> dict[str, Any]:
        """All events as one body."""
        texts, tokens = [""] * self.choices, [list[Token]() for _ in range(self.choices)]
        for each in events:
            if isinstance(each, Delta):
                texts[each.choice] += each.piece.text
                tokens[each.choice] += each.piece.tokens
        choices = [
            self._whole(text, tokens[number]) | {"index": number, "finish_reason": self.ends[number].reason}
            for number, text in enumerate(texts)
        ]
        return self._envelope(self.whole_object, choices) | {"usage": self.usage}

    def stream(self, event: Event) -> bytes:
        """One event of a stream."""
        if isinstance(event, Frame):
            return comment_of({"choice": event.choice, "frame": event.text})
        text, tokens, reason = ("", (), event.reason) if isinstance(event, Ended) else (*_parts(event), None)
        choice = self._part(text, tokens, ended=reason is not None)
        return self._chunk([choice | {"index": event.choice, "finish_reason": reason}])

    def last(self) -> bytes:
        """The end of a stream: the usage in a chunk without choices, if it was requested."""
        return (self._chunk([], self.usage) if self.include_usage else b"") + DONE

    def first(self) -> bytes:
        """The beginning of a stream."""
        return b""

    def _chunk(self, choices: Sequence[Mapping[str, Any]], usage: Any = None) -> bytes:
        with_usage = {"usage": usage} if self.include_usage else {}
        return event_of(self._envelope(self.chunk_object, choices) | with_usage)

    def _envelope(self, kind: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "seed": self.seed,
            "choices": list(choices),
        }

    def _whole(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        return self._part(text, tokens, ended=False)

    def _part(self, text: str, tokens: Sequence[Token], *, ended: bool) -> dict[str, Any]:
        """A part of a choice."""
        return {"text": text, "logprobs": _of_completion(tokens)}


class ChatAnswer(Answer):
    """The answer to a chat."""

    prefix = "chatcmpl"
    whole_object, chunk_object = "chat.completion", "chat.completion.chunk"

    def first(self) -> bytes:
        """The role of each choice."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(
            self._chunk([{"index": number, "delta": delta, "logprobs": None, "finish_reason": None}])
            for number in range(self.choices)
        )

    def _whole(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "logprobs": _of_chat(tokens)}

    def _part(self, text: str, tokens: Sequence[Token], *, ended: bool) -> dict[str, Any]:
        return {"delta": {} if ended else {"content": text}, "logprobs": _of_chat(tokens)}


def _parts(event: Delta) -> tuple[str, tuple[Token, ...]]:
    return event.piece.text, event.piece.tokens


def _number(log_prob: float | None) -> float | None:
    return log_prob if log_prob is None or math.isfinite(log_prob) else _IMPOSSIBLE


def _of_completion(tokens: Sequence[Token]) -> dict[str, Any] | None:
    if not tokens:
        return None
    has_top = any(token.top for token in tokens)
    tops = [{text: _number(p) for text, p in ((token.text, token.log_prob), *token.top)} for token in tokens]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_number(token.log_prob) for token in tokens],
        "top_logprobs": tops if has_top else None,
        "text_offset": [token.offset for token in tokens],
    }


def _of_chat(tokens: Sequence[Token]) -> dict[str, Any] | None:
    if not tokens:
        return None
    content = [
        _entry(token.text, token.log_prob) | {"top_logprobs": [_entry(text, p) for text, p in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(text: str, log_prob: float | None) -> dict[str, Any]:
    """A token of a chat; the bytes of a part of a character are not known."""
    known = None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())
    return {"token": text, "logprob": _number(log_prob), "bytes": known}
