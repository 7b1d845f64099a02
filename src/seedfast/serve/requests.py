"""The wire format of requests: JSON bodies as OpenAI's clients send them, into values that are checked.

A parameter that would have no effect is refused by name, except where it has the value that means nothing.
"""

import json
from base64 import b64decode
from binascii import Error as NoBase64Error
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from seedfast.errors import UserError

T = TypeVar("T")

MOST_CHOICES, MOST_STOPS, MOST_LOGPROBS = 128, 16, 20
"""The largest `n` times prompts, number of stops, and number of alternatives of a token."""
MOST_TRIES = 128
"""The largest number of candidates of a gap, or of beams of a caption."""
_LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier")
"""Parameters for the accounts of a provider."""
_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Parameters that are not supported, with the values under which they have no effect."""


class WireError(UserError):
    """A body that no model could answer. param: the parameter that is wrong."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What both endpoints have in common.

    count: tokens to write; None: the default of the endpoint. options: of the model's sampler, by name. frames: whether
    a stream reports each step of denoising in comments.
    """

    model: str
    stream: bool
    include_usage: bool
    n: int
    seed: int | None
    stops: tuple[str, ...]
    count: int | None
    logprobs: int | None
    frames: bool
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Completion(Asked):
    """A body of /v1/completions. prompts: each a text or token ids."""

    prompts: tuple[str | tuple[int, ...], ...]
    suffix: str | None
    echo: bool


@dataclass(frozen=True, kw_only=True)
class Chat(Asked):
    """A body of /v1/chat/completions. messages: role and text of each. images: the files in the messages' contents."""

    messages: tuple[Mapping[str, str], ...]
    images: tuple[bytes, ...]


def parsed(body: bytes) -> Mapping[str, Any]:
    """The JSON object of a body. Raises WireError for anything else."""
    try:
        values = json.loads(body.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise WireError("The body is not UTF-8.") from None
    except RecursionError:
        raise WireError("The body is nested too deeply.") from None
    except ValueError as error:
        raise WireError(f"The body is not JSON: {error}.") from None
    if not isinstance(values, dict):
        raise WireError('The body must be a JSON object, such as {"model": …}.')
    return values


def _refuse_constant(name: str) -> None:
    raise WireError(f"The body is not JSON: it holds {name}.")


def completion(values: Mapping[str, Any], options: Sequence[str]) -> Completion:
    """A body of /v1/completions. options: the names of the model's sampling options. Raises WireError."""
    body = _Body(values)
    prompts = _prompts(values.get("prompt"))
    body.take("prompt", lambda name, value: value, None)
    common = _common(body, options, len(prompts))
    found = Completion(
        **common,
        count=body.take("max_tokens", _whole(0), None),
        logprobs=body.take("logprobs", _whole(0, MOST_LOGPROBS), None),
        prompts=prompts,
        suffix=body.take("suffix", _text, None),
        echo=body.take("echo", _flag, False),
    )
    best_of = body.take("best_of", _whole(1), None)
    if best_of not in (None, found.n):
        raise WireError(f"best_of ({best_of}) is not supported: leave it out, and choose among n texts.", "best_of")
    if found.count == 0 and (found.suffix or not found.echo):
        raise WireError("max_tokens must be at least 1, unless the prompt is only scored with echo.", "max_tokens")
    body.refuse_rest(_names(Completion), options)
    return found


def chat(values: Mapping[str, Any], options: Sequence[str]) -> Chat:
    """A body of /v1/chat/completions, as `completion`."""
    body = _Body(values)
    messages, images = _messages(body.take("messages", _list, []))
    common = _common(body, options, 1)
    new, old = (body.take(name, _whole(1), None) for name in ("max_completion_tokens", "max_tokens"))
    wants, top = body.take("logprobs", _flag, False), body.take("top_logprobs", _whole(0, MOST_LOGPROBS), None)
    if top is not None and not wants:
        raise WireError("top_logprobs has no effect without logprobs: set logprobs to true.", "top_logprobs")
    body.refuse_rest([*_names(Chat), "max_completion_tokens", "top_logprobs"], options)
    return Chat(
        **common,
        count=old if new is None else new,
        logprobs=(top or 0) if wants else None,
        messages=messages,
        images=images,
    )


def _names(kind: type[Asked]) -> list[str]:
    """The parameters of an endpoint, for hints."""
    own = {"count": "max_tokens", "prompts": "prompt", "stops": "stop", "include_usage": "stream_options"}
    return [own.get(f.name, f.name) for f in fields(kind) if f.name not in ("options", "images")]


class _Body:
    """The parameters that have not been read yet."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.rest = dict(values)

    def take(self, name: str, read: Callable[[str, Any], T], default: T) -> T:
        """The value of a parameter; null is the default."""
        value = self.rest.pop(name, None)
        return default if value is None else read(name, value)

    def refuse_rest(self, known: Sequence[str], options: Sequence[str]) -> None:
        """Raise WireError for a parameter that is left, unless it means nothing."""
        for name, value in self.rest.items():
            if value is None or name in _LABELS or value in _NOTHING.get(name, ()):
                continue
            if name in _NOTHING:
                raise WireError(f"{name} ({_short(value)}) is not supported: leave it out.", name)
            near = get_close_matches(name, [*known, *options], n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*known, *options])}."
            raise WireError(f"There is no parameter called {_short(name)}; {hint}", name)


def _common(body: _Body, options: Sequence[str], prompts: int) -> dict[str, Any]:
    """The fields of `Asked`, except those that the endpoints call by different names."""
    model = body.take("model", _text, "")
    if not model:
        raise WireError("model is missing: name the model, as /v1/models lists it.", "model")
    n = body.take("n", _whole(1, MOST_CHOICES), 1)
    if n * prompts > MOST_CHOICES:
        raise WireError(f"n times the prompts are {n * prompts} texts; {MOST_CHOICES} at most.", "n")
    stream = body.take("stream", _flag, False)
    nothing: dict[str, Any] = {}
    stream_options = body.take("stream_options", _object, nothing)
    if stream_options and not stream:
        raise WireError("stream_options have no effect without stream: set stream to true.", "stream_options")
    usage = _Body(stream_options)
    include_usage = usage.take("include_usage", _flag, False)
    usage.take("include_obfuscation", _flag, False)
    usage.refuse_rest(["include_usage"], [])
    frames = body.take("frames", _flag, False)
    if frames and not stream:
        raise WireError("frames are comments of a stream: set stream to true.", "frames")
    no_stops: tuple[str, ...] = ()
    return {
        "model": model,
        "stream": stream,
        "include_usage": include_usage,
        "n": n,
        "seed": body.take("seed", _whole(-(1 << 63), 1 << 63), None),
        "stops": body.take("stop", _stops, no_stops),
        "frames": frames,
        "options": {name: body.take(name, _option, None) for name in options if body.rest.get(name) is not None},
    }


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}…"


def _wrong(name: str, what: str, value: Any) -> WireError:
    return WireError(f"{name} must be {what}, not {_short(json.dumps(value))}.", name)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "a text", value)
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false", value)
    return value


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(name, "a list", value)
    return value


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(name, "an object", value)
    return value


def _whole(low: int, high: int | None = None) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        if type(value) is not int or value < low or (high is not None and value > high):
            limits = f"of at least {low}" if high is None else f"in {low} … {high}"
            raise _wrong(name, f"a whole number {limits}", value)
        return value

    return read


def _option(name: str, value: Any) -> Any:
    """The value of a sampling option, of which the model checks the rest."""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | bool | int | float) for part in parts):
        raise _wrong(name, "a number, a text or a list of these", value)
    if any(isinstance(part, int | float) and abs(part) > 1 << 53 for part in parts):
        raise _wrong(name, "a number below 2^53", value)
    if name in ("candidates", "beams"):
        return _whole(1, MOST_TRIES)(name, value)
    return value


def _stops(name: str, value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise _wrong(name, "a text or a list of texts, none of them empty", value)
    if len(stops) > MOST_STOPS:
        raise WireError(f"stop holds {len(stops)} texts; {MOST_STOPS} at most.", name)
    return tuple(stops)


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """The prompts: one or several, each a text or token ids."""
    if value is None:
        return ("",)
    one = [value] if isinstance(value, str) or _are_ids(value) else value
    if not isinstance(one, list) or not one or not all(isinstance(each, str) or _are_ids(each) for each in one):
        raise _wrong("prompt", "a text, a list of texts, or token ids", value)
    return tuple(each if isinstance(each, str) else tuple(each) for each in one)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int and abs(each) < 1 << 53 for each in value)


def _messages(values: list[Any]) -> tuple[tuple[Mapping[str, str], ...], tuple[bytes, ...]]:
    """The messages of a chat with their texts, and the images in them."""
    if not values:
        raise WireError('messages is missing: give a list such as [{"role": "user", "content": "Hello"}].', "messages")
    messages, images = [], []
    for number, value in enumerate(values):
        where = f"messages[{number}]"
        body = _Body(_object(where, value))
        role = body.take("role", _text, "")
        if not role:
            raise WireError(f"{where} has no role, such as user, assistant or system.", "messages")
        content = body.take("content", lambda _name, found: found, "")
        body.take("name", _text, "")
        body.refuse_rest(["role", "content"], [])
        texts = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else _list(where, content):
            kind = _object(f"{where}.content", part).get("type")
            if kind == "text":
                texts.append(_text(f"{where}.content", part.get("text")))
            elif kind == "image_url":
                images.append(_image(where, part.get("image_url")))
            else:
                raise WireError(f"{where} has a part of the type {_short(kind)}; there are text and image_url.", where)
        messages.append({"role": role, "content": "".join(texts)})
    return tuple(messages), tuple(images)


def _image(where: str, value: Any) -> bytes:
    """The file of an image content part."""
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str) or not url.startswith("data:"):
        raise WireError(
            f"{where} names an image that is no data: URL. This server fetches nothing: send the file itself, as "
            "data:image/png;base64,….",
            "messages",
        )
    head, _, data = url.partition(",")
    if not head.endswith(";base64"):
        raise WireError(f"{where} has an image that is not in base64: send data:image/png;base64,….", "messages")
    try:
        return b64decode(data, validate=True)
    except (NoBase64Error, ValueError):
        raise WireError(f"{where} has an image that is not valid base64.", "messages") from None
