"""A conversation with a trained model, turn by turn.

Answer k of a seed has a key of its own, `derive(seed, "chat", k)`, so a conversation is a function of the seed and of
what the user writes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any

from seedfast import keys
from seedfast.console import say, silenced
from seedfast.errors import UserError
from seedfast.evaluate.trained import Trained
from seedfast.families.film import TextFrame
from seedfast.families.text.base import TextGenerator
from seedfast.families.text.chat import chat_prompt, template_of
from seedfast.families.text.request import Canvas

Message = dict[str, str]

_TOKENS = 256
"""The longest answer, unless half of the context is less."""


@dataclass(frozen=True)
class Answer:
    """What the model wrote. stopped: whether the user interrupted it; then it may be a part, or nothing."""

    text: str
    stopped: bool = False


@dataclass
class Conversation:
    """A chat with a model whose tokenizer has a chat template.

    request: how answers are decoded. system: the system prompt. messages: those after it that the model still reads.
    answers: the number of answers so far, also of those that were tried again.
    """

    model: Trained
    request: Any
    system: str | None = None
    seed: int = 1
    messages: list[Message] = field(default_factory=list)
    answers: int = 0

    @property
    def streams(self) -> bool:
        """Whether the model writes from left to right, so that an answer can be shown while it grows."""
        return "on_token" in {f.name for f in fields(self.request)}

    @property
    def tokens(self) -> int:
        """The most tokens of an answer."""
        given: int | None = self.request.tokens
        return given if given is not None else min(_TOKENS, max(1, self._generator.context // 2))

    def answer(
        self,
        text: str,
        *,
        on_text: Callable[[str], None] | None = None,
        on_frame: Callable[[TextFrame], None] | None = None,
        interrupts: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Answer:
        """The model's answer to a message.

        on_text: called with each piece of it, in whole characters. on_frame: with each frame of a diffusion model.
        A KeyboardInterrupt ends the answer, of which the conversation keeps what there is.
        interrupts: the context in which there may be one (default: it may come at any time).
        Raises UserError for a message that cannot be sent, without which the conversation goes on.
        """
        before, pieces = list(self.messages), list[str]()

        def show(piece: str) -> None:
            pieces.append(piece)
            if on_text:
                on_text(piece)

        self.messages.append({"role": "user", "content": text})
        stopped = False
        try:
            with interrupts():
                self._generate(self._fitting(), show, on_frame)
        except UserError:
            self.messages = before
            raise
        except KeyboardInterrupt:
            stopped = True
        self.answers += 1
        found = Answer("".join(pieces), stopped)
        if found.stopped and not found.text:
            self.messages.pop()
        else:
            self.messages.append({"role": "assistant", "content": found.text})
        return found

    def take_back(self) -> str:
        """Remove the last message and its answer; returns the message. Raises UserError if there is none."""
        if not self.messages:
            raise UserError("There is no answer to try again.")
        message = self.messages[-2]["content"]
        del self.messages[-2:]
        return message

    def reset(self) -> None:
        """Forget all messages but the system prompt."""
        self.messages.clear()

    @property
    def _generator(self) -> TextGenerator[Any]:
        generator = self.model.generator
        if not isinstance(generator, TextGenerator) or template_of(self.model.tokenizer) is None:
            raise UserError("The model has no chat template.")
        return generator

    def _fitting(self) -> list[int]:
        """The tokens of the chat, without its first messages where an answer would not fit into the context.

        They are left out for good, a message with its answer at a time. Raises UserError for a message that is too long
        by itself.
        """
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        left_out = 0
        while True:
            ids = chat_prompt(self.model.tokenizer, [*system, *self.messages])
            read, room = self._generator.window(len(ids))
            if read == len(ids) and room >= self.tokens:
                break
            if len(self.messages) == 1:
                raise UserError(
                    f"The message has {len(ids)} tokens with the system prompt and the template, and the model's "
                    f"context of {self._generator.context} has to hold an answer of {self.tokens} too: shorten it, or "
                    "choose fewer --tokens."
                )
            del self.messages[:2]
            left_out += 2
        if left_out:
            say(f"(The context is full: the first {left_out} messages are left out from now on.)")
        return ids

    def _generate(
        self, ids: list[int], show: Callable[[str], None], on_frame: Callable[[TextFrame], None] | None
    ) -> None:
        """Show the continuation of a rendered chat, piece by piece."""
        canvas = replace(Canvas.of([(ids, True), ([self._generator.end_of_text] * self.tokens, False)]), is_begun=True)
        count, length = 0, 0  # of pieces, the first of which is the chat itself, and of characters that are shown

        def on_token(piece: str) -> None:
            nonlocal count, length
            count += 1
            if count > 1:
                length += len(piece)
                show(piece)

        shown: dict[str, Any] = {"on_token": on_token} if self.streams else {"on_frame": on_frame}
        request = replace(self.request, canvas=canvas, tokens=None, **shown)
        with silenced():
            samples: Any = self.model.sample(request, seed=keys.derive(self.seed, "chat", self.answers))
        text = self.model.tokenizer.decode(samples.tokens[0][len(ids) :])
        show(text[length:])  # an unfinished character, or all of it
