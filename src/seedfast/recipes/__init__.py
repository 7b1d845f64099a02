"""Ready runs. A recipe is a plain function that returns a complete `Run`; one file for each subject.

The modules are imported when a recipe is used, so that listing the recipes is fast.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from seedfast.errors import UserError
from seedfast.user_code import named_by, named_by_user, own_function

if TYPE_CHECKING:
    from seedfast.loop.config import Run

RECIPES = {
    "text-autoregressive": ("text", "next-token language model: exact likelihood, cached generation"),
    "text-masked": (
        "text",
        "masked diffusion language model: likelihood bound, infilling, parallel decoding",
    ),
    "text-embedding": (
        "text",
        "diffusion over token embeddings: likelihood bound, guidance, few steps by any Gaussian sampler",
    ),
    "text-block": (
        "text",
        "block diffusion language model: cached, left to right in blocks that are filled in parallel",
    ),
    "text-proofreading": ("text", "masked diffusion that finds its own mistakes and goes back over them"),
    "finetune": ("finetune", "pretrained causal language model (--model), continued in full or through LoRA"),
    "finetune-masked": ("finetune", "pretrained causal language model (--model), continued as masked diffusion"),
    "dpo": ("finetune", "pretrained causal language model (--model), taught which of two answers is preferred"),
    "image-diffusion": ("image", "diffusion of pixels with a U-Net: images from noise, by class, from other images"),
    "image-transformer": ("image", "the same with a transformer of patches"),
    "image-diffusers": ("image", "the same with diffusers' U-Net, to be exported as a pipeline of diffusers"),
    "image-caption": ("caption", "captions of images: a vision encoder, ours or pretrained (--model), and a decoder"),
}
"""Name → (module in this package, what it trains). The function has the name's words, joined by underscores."""


def make(name: str) -> "Run":
    """The run of a recipe: a name in `RECIPES`, or `path/to/file.py:function` for one of your own.

    Raises UserError if there is none, naming the nearest.
    """
    if ":" in name:
        return _own(name)
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RECIPES)}."
        raise UserError(f"There is no recipe called {name}; {hint}")
    module = importlib.import_module(f"seedfast.recipes.{RECIPES[name][0]}")
    return _normalised(cast("Callable[[], Run]", getattr(module, name.replace("-", "_")))())


def _own(name: str) -> "Run":
    function = own_function(name)
    from seedfast.loop.config import Run

    run = function.call()
    if not isinstance(run, Run):
        raise UserError(f"{name} returns {run!r}, which is not a Run.")
    named_by_user(run.data.path)
    return replace(_normalised(run), recipe=function.location)


def _normalised(run: "Run") -> "Run":
    """The run as its YAML gives it back: a half-life of 100 and one of 100.0 must not be two runs."""
    from seedfast.loop.plain_config import from_mapping, plain

    return from_mapping(run, plain(run), where="the recipe")


def stored_name(folder: Path) -> str:
    """The name of the recipe of the run in a folder. Raises UserError if the folder holds no run."""
    from seedfast.loop.plain_config import read_yaml

    if not (folder / "run.yaml").is_file():
        raise UserError(f"{folder} is not a run folder: it has no run.yaml.")
    name = read_yaml(folder / "run.yaml").get("recipe")
    if not isinstance(name, str):
        raise UserError(f"{folder / 'run.yaml'} does not say which recipe the run started from.")
    return name


def stored(folder: Path, *, trust: bool = False) -> "Run":
    """The run that a run folder (or a checkpoint in it) holds.

    An own recipe's file is executed only if a class of the run is defined in it, and with consent (see `user_code`).
    Raises UserError without it, or if the folder holds no run.
    """
    from seedfast.loop.session import stored_run

    name = stored_name(folder)
    template = _of_built_in_classes(name, folder) if ":" in name else make(name)
    if template is None:
        with named_by(folder.parents[1] if folder.parent.name == "checkpoints" else folder, trust=trust):
            template = make(name)
    return stored_run(template, folder)


def _of_built_in_classes(name: str, checkpoint: Path) -> "Run | None":
    """A run of an own recipe with the defaults of its classes; None if one of them is not seedfast's, or not known."""
    from seedfast.options import classes
    from seedfast.run_folder.records import CheckpointManifest

    try:
        stored = CheckpointManifest.read(checkpoint).classes
    except (OSError, ValueError):
        return None
    stored = {"sampling": "seedfast.loop.sampling:Sampling", **stored}  # which runs of earlier versions do not have
    runs = [make(each) for each in RECIPES]
    parts = {(key, kind): getattr(run, key) for run in runs for key, kind in classes(run).items() if "." not in key}
    wanted: dict[str, Any] = {key: parts.get((key, kind)) for key, kind in stored.items() if "." not in key}
    if wanted.keys() != {key for key, _ in parts} or None in wanted.values():
        return None
    run = replace(runs[0], recipe=name, **wanted)
    return run if classes(run) == stored else None
