"""A trained model as a service: what is asked of it, as rows of its engine. It knows nothing of HTTP."""

import secrets
import time
from dataclasses import dataclass
from typing import Any

from seedfast.errors import UserError
from seedfast.evaluate.sampling_options import settable
from seedfast.evaluate.trained import Trained
from seedfast.families.caption.generator import CaptionGenerator
from seedfast.families.text.base import TextGenerator
from seedfast.loop.sample import has_diverged
from seedfast.serve.caption_model import CaptionJob, CaptionModel
from seedfast.serve.engine import Engine
from seedfast.serve.events import Plan, UnableError
from seedfast.serve.requests import Asked, Chat, Completion
from seedfast.serve.text_model import TextJob, TextModel

DEFAULT_TOKENS = 16
"""Tokens of a completion that names no number, as in OpenAI's API."""
_OTHERWISE = {"prompt", "infill", "num", "tokens", "trace", "explain", "chat", "image", "attention", "batch"}
"""Options of sampling that the wire format has other names for, or none."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest requests. tokens: written for one choice, and the largest value of a whole-number option.
    body: bytes."""

    tokens: int
    body: int


class Service:
    """A model that writes texts or captions. name: by which requests call it.

    Raises UserError for a model that writes neither, or whose training has diverged.
    """

    def __init__(self, model: Trained, *, name: str, slots: int, queue: int, limits: Limits, on_batch: Any) -> None:
        self.name, self.limits, self.created = name, limits, int(time.time())
        if has_diverged(model.network):
            reason = "The weights are not finite, because the training has diverged."
            raise UserError(reason, command="Name an earlier checkpoint with --at.")
        self.texts: TextModel | None = None
        self.captions: CaptionModel | None = None
        if isinstance(model.generator, TextGenerator):
            self.texts = TextModel(model, slots=slots)
        elif isinstance(model.generator, CaptionGenerator):
            self.captions = CaptionModel(model)
        else:
            raise UserError(f"A model of {model.run.recipe or 'this kind'} writes no text, so it cannot be served.")
        self.engine = Engine(slots=slots, queue=queue, on_batch=on_batch)
        self.options = [name for name in settable(model.generator.Request) if name not in _OTHERWISE]
        origin = model.came_from
        self.fingerprint = f"{name}-{origin.weights}-{origin.step}" if origin else name

    def completion(self, asked: Completion, seed: int) -> Plan:
        """The rows of a completion. Raises UserError for one that no model could do, UnableError for this one."""
        if self.texts is None:
            raise UnableError("This model captions images: send one to /v1/chat/completions.")
        prompts = [self.texts.encode(prompt) for prompt in asked.prompts]
        job = TextJob(
            prompts=prompts,
            count=self._limited(DEFAULT_TOKENS if asked.count is None else asked.count),
            suffix=self.texts.encode(asked.suffix) if asked.suffix else (),
            echo=asked.echo,
            **self._common(asked, seed),
        )
        return self.texts.plan(job)

    def chat(self, asked: Chat, seed: int) -> Plan:
        """The rows of a chat, or of the captions of its image. Raises as `completion`."""
        if self.captions is not None:
            return self._caption(self.captions, asked, seed)
        assert self.texts is not None
        if asked.images:
            raise UnableError("This model reads no images: leave image_url out of the messages.")
        prompt = self.texts.encode_chat(asked.messages)
        count = min(self.texts.room(prompt), self.limits.tokens) if asked.count is None else self._limited(asked.count)
        job = TextJob(prompts=[prompt], count=count, is_begun=True, **self._common(asked, seed))
        return self.texts.plan(job)

    def _caption(self, captions: CaptionModel, asked: Chat, seed: int) -> Plan:
        if len(asked.images) != 1:
            raise UnableError(
                f"This model captions one image, and the messages hold {len(asked.images)}: send a message with one "
                "content part of the type image_url."
            )
        if asked.logprobs is not None:
            raise UnableError("This model reports no log-probabilities of tokens: leave logprobs out.")
        if asked.frames:
            raise UnableError("This model does not denoise, so there are no frames: leave frames out.")
        return captions.plan(
            CaptionJob(
                image=asked.images[0],
                n=asked.n,
                seed=seed,
                stops=asked.stops,
                count=None if asked.count is None else self._limited(asked.count),
                options=self._bounded(asked),
            )
        )

    def _common(self, asked: Asked, seed: int) -> dict[str, Any]:
        """The fields of a job that both endpoints have."""
        return {
            "n": asked.n,
            "seed": seed,
            "stops": asked.stops,
            "logprobs": asked.logprobs,
            "options": {name: value for name, value in self._bounded(asked).items() if (name, value) != ("top_p", 1)},
            "frames": asked.frames,
        }

    def _limited(self, count: int) -> int:
        if count > self.limits.tokens:
            reason = f"max_tokens is {count}, and this server writes {self.limits.tokens} at most."
            raise UserError(reason, option="max_tokens")
        return count

    def _bounded(self, asked: Asked) -> dict[str, Any]:
        """The sampling options, none of which asks for absurdly many evaluations."""
        for name, value in asked.options.items():
            if type(value) is int and value > self.limits.tokens and name != "top_k":
                reason = f"{name} is {value}, and this server takes {self.limits.tokens} at most."
                raise UserError(reason, option=name)
        return dict(asked.options)


def drawn_seed() -> int:
    """A seed for a request that names none. The answer holds it, so that the request can be repeated."""
    return secrets.randbelow(1 << 31)
