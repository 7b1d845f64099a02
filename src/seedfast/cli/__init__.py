"""The command line: each command parses its arguments, calls one library function, and prints.

Nothing heavy is imported before a command is chosen, so `seedfast --help` answers at once.
"""

import io
import sys
import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

from seedfast import launcher
from seedfast.errors import TrainingStopped, UserError

COMMANDS = {
    "recipes": "list the ready runs",
    "preview": "show the training task of a recipe, without training",
    "train": "train a recipe, or continue the run in a folder",
    "evaluate": "all numbers of a run: loss, bits per byte, metrics that fit",
    "compare": "one table over runs on the same bytes, with paired differences",
    "study": "which kind of model suits a text and a budget",
    "sample": "generate text, images or captions with a trained model",
    "chat": "talk with a model that has a chat template",
    "serve": "answer requests over HTTP, as OpenAI's API does",
    "studio": "a local page: live runs, curves, a playground for every model",
    "score": "how likely each document of a file is, token by token",
    "compress": "a file through a model and an entropy coder: its size is the score",
    "decompress": "the same bytes again, or a refusal",
    "captions": "caption metrics on held-out images, and a gallery",
    "prepare": "convert a data set's archive into a folder to train on (Flickr30k)",
    "fidelity": "generated against real images: Fréchet distance, precision, recall",
    "import": "convert a nanoGPT checkpoint or a GPT-2 folder into a run",
    "export": "write a model as a folder for transformers, peft or diffusers",
    "push": "upload a model to the Hugging Face hub",
    "report": "a static page and plots of a run",
    "replay": "compute a step of a run again; the examples of a loss spike",
    "diff": "where two runs part, and why",
    "runs": "list the runs in a folder: step, loss, state, size",
    "journal": "the numbers of a run as CSV",
    "clean": "list what runs do not need, or remove it",
    "digest": "one SHA-256 over every tensor of the latest checkpoint",
    "cache": "list the prepared data in the cache, or remove it",
    "verify": "prove it: resume after kills, identities, checkpoints, whole runs",
    "completion": "print a completion script for bash, zsh, fish or tcsh",
}
"""Name → summary. A command is the function of its name in the module of its name (`import_run` for import)."""

_EXITS = """\
Exit status: 0 done · 1 a proof or a part failed · 2 bad input · 3 training stopped ·
130, 138 or 143 interrupted after saving (the same command continues)."""
_PATIENCE = 2.0  # seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exits with a status; a user's mistake is one sentence on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal lacks must not end the command
            stream.reconfigure(errors="replace")
    launcher.adopt()
    launcher.quiet_engine()
    try:
        sys.exit(_run(words))
    except UserError as error:
        _print_once(error)
        sys.exit(2)
    except TrainingStopped as error:
        if launcher.rank() == error.speaker:  # all processes of a run stop for the same reason
            _print_error(str(error))
        sys.exit(3)
    except KeyboardInterrupt:
        _print_error("interrupted.")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of the output has exited (head, less)
        sys.exit(141)
    except OSError as error:
        _print_error(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}.")
        sys.exit(2)


def _print_once(error: UserError) -> None:
    """Print a mistake that all processes of a run have made on rank 0 only, and one of another process there."""
    if not launcher.is_first():
        if error.is_told:
            return
        time.sleep(_PATIENCE)  # torchrun ends this process meanwhile if rank 0 has made the same mistake
    _print_error(str(error))


def _print_error(message: str) -> None:
    from seedfast.console import tell

    tell(message)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        from seedfast import __version__

        print(f"seedfast {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}."
        raise UserError(f"There is no command called {name}; {hint}")
    function = "import_run" if name == "import" else name  # import is a keyword
    command: Callable[[list[str]], int] = getattr(import_module(f"seedfast.cli.{function}"), function)
    return command(rest)


def overview() -> str:
    """The help of the program as a whole."""
    lines = [
        "usage: seedfast COMMAND …",
        "",
        "Train generative models that you can trust to the last bit.",
        "",
        *(f"  {name:<11} {what}" for name, what in COMMANDS.items()),
        "",
        "Begin with:  seedfast train text-masked",
        "then:        seedfast sample runs/text-masked",
        "Help for a command:  seedfast COMMAND --help",
        "",
        _EXITS,
    ]
    return "\n".join(lines)
