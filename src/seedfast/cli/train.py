"""`seedfast train`."""

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from seedfast import recipes
from seedfast.cli.arguments import parse
from seedfast.errors import UserError
from seedfast.loop.config import Run, from_mapping, read_yaml
from seedfast.loop.open import open_session
from seedfast.loop.progress import Line, Silent
from seedfast.loop.sample import save_demo
from seedfast.loop.session import Session
from seedfast.loop.train import run_training


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a recipe, or continue the run that a folder holds.

    Every field of the run is a flag; a recipe sets them all, --config overrides it, and flags override both.
    On a folder with a committed checkpoint the stored run is continued bit for bit: flags then name what changes.
    """

    out: Path
    """The run folder (default: runs/RECIPE)."""
    data: tuple[str, ...] = ()
    """Where the data is, in one place or several; the same as --data.path (and --data.also)."""
    model: str | None = None
    """The pretrained model to start from, a folder or a name on the Hugging Face hub; the same as --model.path."""
    config: Path | None = None
    """A YAML file with fields of the run, nested like `run.yaml`."""
    allow_change: tuple[str, ...] = ()
    """Fields that may differ from the stored run although that changes its meaning (and `data` for changed data)."""
    at: int | None = None
    """Continue from the checkpoint of this step; later ones are moved away and the journal is cut there."""
    run: Annotated[Run, tyro.conf.arg(name="")]


def train(words: list[str]) -> int:
    """Train a recipe or continue a run; see `Train` for the flags."""
    if not words or words[0].startswith("-"):
        if words and words[0] not in ("-h", "--help"):
            raise UserError("Name the recipe first: seedfast train RECIPE, then the flags.")
        print("usage: seedfast train RECIPE [flags]      (seedfast train RECIPE --help lists the flags)\n")
        print("\n".join(f"  {name:<21} {what}" for name, (_, what) in recipes.RECIPES.items()))
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    asked = parse_run(words[0], words[1:])
    with open_session(asked.run, asked.out, allow_change=asked.allow_change, at=asked.at) as opened:
        console = _Console(stderr=True, markup=False, emoji=False, highlight=False)
        if opened.distributed.is_main:
            _introduce(opened, console)
            with Line(console) as line:
                outcome = run_training(opened, line)
        else:
            outcome = run_training(opened, Silent())
    if opened.distributed.is_main and outcome.interrupted_by is None:
        _conclude(opened, console)
    elif opened.distributed.is_main:
        command = "run the same command again" + (" without --at" if asked.at is not None else "")
        console.print(f"Interrupted and saved at step {outcome.step}; {command} to continue.", soft_wrap=True)
    return 0 if outcome.interrupted_by is None else 128 + outcome.interrupted_by


def parse_run(recipe: str, words: list[str]) -> Train:
    """The arguments of a recipe's training: recipe, then stored run or --config, then flags."""
    first = argparse.ArgumentParser(prog="seedfast train", add_help=False, allow_abbrev=False)
    first.add_argument("--out", type=Path, default=Path("runs") / Path(recipe).name.replace(":", "-"))
    first.add_argument("--config", type=Path)
    known, _ = first.parse_known_args(words)
    run = fresh = recipes.make(recipe)
    if (known.out / "run.yaml").is_file():
        stored = recipes.stored(known.out)
        if stored.recipe != fresh.recipe:
            raise UserError(
                f"{known.out} holds a run of the recipe {stored.recipe}, not of {recipe}; use another --out."
            )
        run = stored
    if known.config:
        run = from_mapping(run, read_yaml(known.config), where=str(known.config))
        if run.recipe != fresh.recipe:
            raise UserError(f"{known.config} is of the recipe {run.recipe}, not of {fresh.recipe}.")
    asked: Train = parse(
        Train,
        words,
        prog=f"seedfast train {recipe}",
        default=Train(out=known.out, config=known.config, run=run),
        config=(tyro.conf.FlagConversionOff,),
    )
    if asked.run.recipe != fresh.recipe:
        raise UserError(f"The recipe is named first ({fresh.recipe}); --recipe cannot make it {asked.run.recipe}.")
    if asked.data:
        asked = replace(asked, run=replace(asked.run, data=asked.run.data.with_path(*asked.data)))
    if asked.model is not None:
        if asked.run.model.path is None:
            raise UserError(
                f"The recipe {recipe} trains a new network, so it takes no --model; "
                "seedfast train finetune starts from a pretrained one."
            )
        asked = replace(asked, run=replace(asked.run, model=asked.run.model.with_path(asked.model)))
    return replace(asked, run=asked.run.located())


class _Console(Console):
    """The console of the progress: if its reader exits, training continues."""

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True


def _introduce(opened: Session, console: Console) -> None:
    """Print the model, the data, the device and the step."""
    sizes = [(p.numel(), p.requires_grad) for p in opened.state.network.parameters()]
    size, trained = sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)
    share = f" ({trained / size:.2%} trained)" if trained < size else ""
    run, place = opened.run, opened.distributed
    where = f"{place.world_size} × {place.device.type}, {run.precision}"
    console.print(
        f"{run.recipe}  {size / 1e6:.2f} M parameters{share}, {len(opened.corpus.train):,} training and "
        f"{len(opened.corpus.validation):,} validation examples, {where}",
        highlight=False,
        soft_wrap=True,
    )
    for text in opened.corpus.introduction(run.steps * run.batch_size):
        console.print(text, highlight=False, soft_wrap=True)
    verb = "continues" if opened.state.step else "starts"
    where = f"{verb} at step {opened.state.step} of {run.steps} in {opened.folder}"
    console.print(where, highlight=False, soft_wrap=True)
    for name, (old, new) in opened.changed.items():
        console.print(f"  changed: {name} {old} → {new}", highlight=False)


def _conclude(opened: Session, console: Console) -> None:
    """Print samples of the trained model, write the report, and print where everything is."""
    from seedfast.report import page

    folder = opened.folder
    samples, files = save_demo(opened)
    if samples is not None:
        samples.show(Console())
    written = page.write(folder)
    for what, where in {
        "run": folder,
        "report": written,
        "plot": folder / "report" / "loss.png",
        **({"samples": files[0].parent if len(files) > 1 else files[0]} if files else {}),
    }.items():
        console.print(f"{what:<8} {where}", highlight=False, soft_wrap=True)
    sys.stdout.flush()
