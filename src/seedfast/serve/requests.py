"""The wire format of requests: what the bodies of both endpoints ask for, as values that are checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from seedfast.serve.body import Body, WireError, flag, items, object_, text, whole, wrong
from seedfast.serve.messages import read_messages

MOST_CHOICES, MOST_STOPS, MOST_LOGPROBS = 128, 16, 20
"""The largest `n` times prompts, number of stops, and number of alternatives of a token."""
MOST_TRIES = 128
"""The largest number of candidates of a gap, or of beams of a caption."""


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


def completion(values: Mapping[str, Any], options: Sequence[str]) -> Completion:
    """A body of /v1/completions. options: the names of the model's sampling options. Raises WireError."""
    body = Body(values)
    prompts = _prompts(values.get("prompt"))
    body.take("prompt", lambda name, value: value, None)
    common = _common(body, options, len(prompts))
    found = Completion(
        **common,
        count=body.take("max_tokens", whole(0), None),
        logprobs=body.take("logprobs", whole(0, MOST_LOGPROBS), None),
        prompts=prompts,
        suffix=body.take("suffix", text, None),
        echo=body.take("echo", flag, False),
    )
    best_of = body.take("best_of", whole(1), None)
    if best_of not in (None, found.n):
        raise WireError(f"best_of ({best_of}) is not supported: leave it out, and choose among n texts.", "best_of")
    if found.count == 0 and (found.suffix or not found.echo):
        raise WireError("max_tokens must be at least 1, unless the prompt is only scored with echo.", "max_tokens")
    body.refuse_rest(_names(Completion), options)
    return found


def chat(values: Mapping[str, Any], options: Sequence[str]) -> Chat:
    """A body of /v1/chat/completions, as `completion`."""
    body = Body(values)
    messages, images = read_messages(body.take("messages", items, []))
    common = _common(body, options, 1)
    new, old = (body.take(name, whole(1), None) for name in ("max_completion_tokens", "max_tokens"))
    wants, top = body.take("logprobs", flag, False), body.take("top_logprobs", whole(0, MOST_LOGPROBS), None)
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


def param_of_many(n: int) -> str:
    """The parameter by which a request asks for too many texts."""
    return "n" if n > 1 else "prompt"


def _common(body: Body, options: Sequence[str], prompts: int) -> dict[str, Any]:
    """The fields of `Asked`, except those that the endpoints call by different names."""
    model = body.take("model", text, "")
    if not model:
        raise WireError("model is missing: name the model, as /v1/models lists it.", "model")
    n = body.take("n", whole(1, MOST_CHOICES), 1)
    if n * prompts > MOST_CHOICES:
        raise WireError(f"n times the prompts are {n * prompts} texts; {MOST_CHOICES} at most.", param_of_many(n))
    stream = body.take("stream", flag, False)
    nothing: dict[str, Any] = {}
    stream_options = body.take("stream_options", object_, nothing)
    if stream_options and not stream:
        raise WireError("stream_options have no effect without stream: set stream to true.", "stream_options")
    usage = Body(stream_options)
    include_usage = usage.take("include_usage", flag, False)
    usage.take("include_obfuscation", flag, False)
    usage.refuse_rest(["include_usage"], [])
    frames = body.take("frames", flag, False)
    if frames and not stream:
        raise WireError("frames are comments of a stream: set stream to true.", "frames")
    no_stops: tuple[str, ...] = ()
    return {
        "model": model,
        "stream": stream,
        "include_usage": include_usage,
        "n": n,
        "seed": body.take("seed", whole(-(1 << 63), 1 << 63), None),
        "stops": body.take("stop", _stops, no_stops),
        "frames": frames,
        "options": {name: body.take(name, _option, None) for name in options if body.rest.get(name) is not None},
    }


def _option(name: str, value: Any) -> Any:
    """The value of a sampling option, of which the model checks the rest."""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | bool | int | float) for part in parts):
        raise wrong(name, "a number, a text or a list of these", value)
    if any(isinstance(part, int | float) and abs(part) > 1 << 53 for part in parts):
        raise wrong(name, "a number below 2^53", value)
    if name in ("candidates", "beams"):
        return whole(1, MOST_TRIES)(name, value)
    return value


def _stops(name: str, value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise wrong(name, "a text or a list of texts, none of them empty", value)
    if len(stops) > MOST_STOPS:
        raise WireError(f"stop holds {len(stops)} texts; {MOST_STOPS} at most.", name)
    return tuple(stops)


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """The prompts: one or several, each a text or token ids."""
    if value is None:
        return ("",)
    one = [value] if isinstance(value, str) or _are_ids(value) else value
    if not isinstance(one, list) or not one or not all(isinstance(each, str) or _are_ids(each) for each in one):
        raise wrong("prompt", "a text, a list of texts, or token ids", value)
    return tuple(each if isinstance(each, str) else tuple(each) for each in one)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(each) is int and abs(each) < 1 << 53 for each in value)
