"""The command line: each command parses its arguments, calls one library function, and prints.

Nothing heavy is imported before a command is chosen, so `seedfast --help` answers at once.
"""

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module

from seedfast.errors import TrainingStopped, UserError

COMMANDS = {
    "recipes": "list the ready runs",
    "preview": "show what a recipe asks of its network, before any training",
    "train": "train a recipe, or continue the run in a folder",
    "evaluate": "exact loss over the whole validation split, in nats and bits per byte",
    "sample": "write text or make images with a trained model",
    "captions": "a captioner's metrics on held-out images, and a gallery",
    "prepare": "make a folder to train on of an archive at hand (Flickr30k)",
    "fidelity": "how far a model's images are from real ones: Fréchet distance, precision, recall",
    "import": "make a run out of a nanoGPT checkpoint or a GPT-2 folder",
    "export": "write a model as a folder for transformers, peft or diffusers",
    "push": "upload a model to the Hugging Face hub",
    "report": "a static page and plots of a run",
    "digest": "one SHA-256 over every tensor of the latest checkpoint",
    "verify": "prove it: resume after kills, mathematical identities, checkpoints",
    "completion": "print a completion script for bash, zsh or tcsh",
}
"""Name → what it does. A command is the function of its name in the module of its name (`import_run` for import)."""

_EXITS = """\
Exit status: 0 done · 1 a proof failed · 2 bad input · 3 training could not go on ·
130 or 143 interrupted after saving (run the same command again to continue)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exits with a status; a user's mistake is one sentence on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(_run(words))
    except UserError as error:
        _complain(str(error))
        sys.exit(2)
    except TrainingStopped as error:
        _complain(str(error))
        sys.exit(3)
    except KeyboardInterrupt:
        _complain("interrupted.")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone (head, less): nothing is left to say
        sys.exit(141)
    except OSError as error:
        _complain(f"{error.filename or 'a file'} cannot be used: {error.strerror or error}.")
        sys.exit(2)


def _complain(message: str) -> None:
    print(f"seedfast: {message}", file=sys.stderr)


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
    function = "import_run" if name == "import" else name  # import is a word of the language
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
        "Begin with:  seedfast train text-masked      then:  seedfast sample runs/text-masked",
        "More about a command:  seedfast COMMAND --help",
        "",
        _EXITS,
    ]
    return "\n".join(lines)
