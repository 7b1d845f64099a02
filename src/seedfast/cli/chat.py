"""`seedfast chat`."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import tyro
from rich.console import Console

from seedfast.cli.arguments import parse, step_of, trusts, without
from seedfast.cli.chosen import ChosenFlags
from seedfast.cli.ctrl_c import CtrlC
from seedfast.errors import UserError

if TYPE_CHECKING:
    from seedfast.evaluate.conversation import Conversation

R = TypeVar("R")

_USAGE = """\
usage: seedfast chat RUN [flags]
       seedfast chat RUN --help lists the flags of that run's kind of model

Talk with the best checkpoint of the run in the folder RUN, or with the model in
a folder of transformers, peft or seedfast export. It needs a chat template."""

_HELP = """\
/reset   forget the conversation, and keep the system prompt
/retry   answer the last message again, with other random numbers
/help    this list
/quit    end, as Ctrl-D does
Ctrl-C stops an answer. A backslash at the end of a line continues the message
on the next one. // at the beginning sends a message that begins with /."""

_NOT_FOR_CHATS = ("prompt", "infill", "canvas", "num", "trace", "explain", "chat", "candidates")


@dataclass(frozen=True, kw_only=True)
class Chat(Generic[R]):
    """Talk with a model, in its own chat template. Each line of the input is a message; /help lists the commands.

    The same messages and the same seed give the same answers.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, a checkpoint in it, or a model's own folder, of transformers, peft or seedfast export."""
    request: Annotated[R, tyro.conf.arg(name="")]
    system: str | None = None
    """The system prompt."""
    seed: int = 1
    """Answer k of a seed is drawn by the same numbers."""
    chosen: ChosenFlags


def chat(words: list[str]) -> int:
    """Talk with a model; the flags are `Chat`'s and those of the request that the run's family takes."""
    if not words or words[0].startswith("-"):
        if words and words[0] not in ("-h", "--help"):
            raise UserError("Name the run first: seedfast chat RUN, then the flags.")
        print(_USAGE)
        return 0 if words else 2
    from seedfast import api
    from seedfast.console import say
    from seedfast.data.text.corpus import TextAssets
    from seedfast.evaluate.conversation import Conversation
    from seedfast.families.text.chat import template_of
    from seedfast.families.text.request import TextRequest

    kind = api.request_class(Path(words[0]), step=step_of(words), trust=trusts(words))
    if not issubclass(kind, TextRequest):
        raise UserError(f"{words[0]} writes no text, so it cannot be talked with: use seedfast sample {words[0]}.")
    asked: Any = parse(
        Chat[without(kind, _NOT_FOR_CHATS)],  # type: ignore[misc]
        words,
        prog="seedfast chat",
    )
    model = asked.chosen.load(asked.run)
    if not isinstance(model.assets, TextAssets) or template_of(model.tokenizer) is None:
        raise UserError(
            f"{asked.run} has no chat template, so it cannot be talked with: continue a text with seedfast sample "
            f"{asked.run} --prompt TEXT."
        )
    conversation = Conversation(model, asked.request, asked.system, asked.seed)
    say(model.origin)
    if not sys.stdin.isatty():  # Ctrl-C ends the command
        for message in _messages():
            if not _respond(conversation, message):
                break
        return 0
    with CtrlC() as ctrl_c:
        say("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.")
        for message in _messages(ctrl_c):
            try:
                if not _respond(conversation, message, ctrl_c):
                    break
            except UserError as mistake:
                say(f"seedfast: {mistake}")
    return 0


def _respond(conversation: "Conversation", message: str, ctrl_c: CtrlC | None = None) -> bool:
    """Obey a command or answer a message; returns whether the conversation goes on."""
    from seedfast.console import say

    match message:
        case "/quit":
            return False
        case "/help":
            say(_HELP)
        case "/reset":
            conversation.reset()
            say("(The conversation is empty again.)")
        case "/retry":
            _answer(conversation, conversation.take_back(), ctrl_c)
        case _ if message.startswith("/") and not message.startswith("//"):
            raise UserError(f"There is no command {message.split()[0]}; /help lists them.")
        case _:
            _answer(conversation, message[1:] if message.startswith("//") else message, ctrl_c)
    return True


def _answer(conversation: "Conversation", message: str, ctrl_c: CtrlC | None) -> None:
    """Print the answer to a message: piece by piece, or animated where it is denoised on a terminal.

    ctrl_c: what stops it; None if that ends the command.
    """
    from seedfast.console import animates, say, shown

    console = Console()
    interrupts = ctrl_c.interrupts if ctrl_c else nullcontext

    def show(piece: str) -> None:
        console.file.write(shown(piece, console))
        console.file.flush()

    if animates(console) and not conversation.streams:
        from seedfast.report.animation.terminal import Player

        with Player(console, hides_given=True) as player:
            found = conversation.answer(message, on_frame=player.show, interrupts=interrupts)
        show(found.text)
    else:
        found = conversation.answer(message, on_text=show, interrupts=interrupts)
    console.file.write("\n")
    console.file.flush()
    if found.stopped and not ctrl_c:
        raise KeyboardInterrupt
    if found.stopped:
        say("(stopped)" if found.text else "(stopped before the first word: the message is left out)")


def _messages(ctrl_c: CtrlC | None = None) -> Iterator[str]:
    """The user's messages: lines of the input, without empty ones, up to its end. ctrl_c: that of a terminal."""
    if ctrl_c:
        with suppress(ImportError):  # history and editing where Python has them
            import readline  # noqa: F401
    parts: list[str] = []
    while True:
        try:
            line = _line(ctrl_c, "… " if parts else "> ")
        except EOFError:
            if ctrl_c:
                print()
            break
        except KeyboardInterrupt:
            if not ctrl_c:
                raise
            parts = []
            print("\n(Ctrl-D ends)")
            continue
        except UnicodeDecodeError as error:
            raise UserError(f"The input is not UTF-8 ({error.reason}): convert it.") from None
        parts.append(line.removesuffix("\\"))
        if line.endswith("\\"):
            continue
        message, parts = "\n".join(parts), []
        if message.strip():
            yield message
    if any(part.strip() for part in parts):
        yield "\n".join(parts)


def _line(ctrl_c: CtrlC | None, prompt: str) -> str:
    if not ctrl_c:
        return input()
    with ctrl_c.interrupts():
        return input(prompt)
