"""`seedfast push`."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import tyro

from seedfast.cli.arguments import Trust, parse


@dataclass(frozen=True, kw_only=True)
class Push:
    """Upload an exported model, or a model of a run, to the Hugging Face hub, with the login of `hf auth login`.

    A run whose network is seedfast's own is uploaded as a run folder without what only training needs.
    """

    folder: tyro.conf.Positional[Path]
    """The folder that `seedfast export` made, or a run folder, or a checkpoint in it."""
    name: tyro.conf.Positional[str]
    """The name on the hub, USER/MODEL."""
    private: bool = False
    """Keep it to yourself, if it is not there yet."""
    weights: Literal["ema", "raw"] | None = None
    """Of a run: which weights to upload (default: the averaged ones where there are some)."""
    at: int | Literal["best", "newest"] = "best"
    """Of a run: which checkpoint: the best (the newest where nothing is validated), the newest, or a step's."""
    trust: Trust = False


def push(words: list[str]) -> int:
    """Upload a model; see `Push` for the flags."""
    asked = parse(Push, words, prog="seedfast push")
    from seedfast import huggingface
    from seedfast.errors import UserError

    exported = any(
        (asked.folder / name).is_file() for name in ("config.json", "adapter_config.json", "model_index.json")
    )
    if not exported and not (asked.folder / "run.yaml").is_file():
        raise UserError(f"{asked.folder} is neither a run folder nor one that seedfast export made.")
    huggingface.check_repository(asked.name)
    huggingface.check_reachable(asked.name)  # before the seconds in which PyTorch is imported
    import seedfast
    from seedfast.console import say
    from seedfast.export import push

    if exported:
        print(push.push(asked.folder, asked.name, private=asked.private))
        return 0
    with TemporaryDirectory(prefix="seedfast-push-") as temporary:
        model = seedfast.load(asked.folder, step=asked.at, weights=asked.weights, device="cpu", trust=asked.trust)
        push.write(model, Path(temporary))
        message = f"Step {model.step}"
        say(model.origin)
        print(push.push(Path(temporary), asked.name, private=asked.private, message=message))
    return 0
