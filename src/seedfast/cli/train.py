"""`seedfast train`."""

import argparse
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from seedfast import recipes
from seedfast.cli.arguments import Trust, parse, trusts
from seedfast.cli.help import help_page, listing
from seedfast.cli.other_tools import refuse_foreign_keys
from seedfast.console import silenced, terminal
from seedfast.errors import UserError
from seedfast.loop import advice
from seedfast.loop.config import LENGTHS, Run, refuse_two_lengths
from seedfast.loop.open import open_session
from seedfast.loop.plain_config import from_mapping, read_yaml, to_yaml
from seedfast.loop.progress import LOG, Line, Silent
from seedfast.loop.sample import save_showcase
from seedfast.loop.session import Session, stored_run
from seedfast.loop.train import run_training
from seedfast.models.config import Size
from seedfast.user_code import named_by, named_by_user


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a recipe, or continue the run that a folder holds.

    Every field of the run is a flag; a recipe sets them all, --config overrides it, and flags override both.
    On a folder with a committed checkpoint the stored run is continued bit for bit: flags then name what changes.
    """

    out: Path
    """The run folder (default: runs/RECIPE)."""
    data: tuple[str, ...] = ()
    """Where the data is, in one place or several, the same as --data.path (and --data.also); or mixture.yaml, several
    sources with weights."""
    model: str | None = None
    """The pretrained model to start from, a folder or a name on the Hugging Face hub; the same as --model.path."""
    size: Size | None = None
    """A named size of the network (seedfast recipes --sizes); flags of --model and --config go before it."""
    config: Path | None = None
    """A YAML file with fields of the run, nested like `run.yaml`."""
    allow_change: tuple[str, ...] = ()
    """Fields that may differ from the stored run although that changes its meaning (and `data` for changed data,
    `journal` for an edited journal)."""
    at: int | None = None
    """Continue from the checkpoint of this step; later ones are moved away and the journal is cut there."""
    dry_run: bool = False
    """Print how much memory, time and disk the run will need, measured by a few steps, instead of training. The run
    folder is not touched; the data is prepared in the cache."""
    print_config: bool = False
    """Print the whole run as YAML, which --config takes back, instead of training."""
    quiet: bool = False
    """Print nothing but warnings and errors; `train.log` in the run folder has every line all the same."""
    report: bool = True
    """Write `report.html` and its plots at the end; `seedfast report` writes them at any time."""
    trust: Trust = False
    run: Annotated[Run, tyro.conf.arg(name="")]


def train(words: list[str]) -> int:
    """Train a recipe or continue a run; see `Train` for the flags."""
    if not words or words in (["-h"], ["--help"], ["--help-all"]):
        print("usage: seedfast train RECIPE [flags]")
        print("       seedfast train RECIPE --help lists the flags\n")
        print("\n".join(listing({name: what for name, (_, what) in recipes.RECIPES.items()})))
        print("\nseedfast train --config run.yaml trains the recipe that the file names.")
        return 0 if words else 2
    named_by_user(*words)
    recipe, flags = _recipe(words)
    if {"-h", "--help"} & set(flags):
        print(help_page(recipe, recipes.make(recipe)))
        return 0
    asked = parse_run(recipe, ["--help" if word == "--help-all" else word for word in flags])
    if asked.print_config:
        print(to_yaml(asked.run), end="")
        return 0
    with silenced(asked.quiet):
        return _estimate(asked) if asked.dry_run else _train(asked)


def _recipe(words: list[str]) -> tuple[str, list[str]]:
    """The recipe and the flags: the first word, or else the recipe that --config or the run in --out names.

    Raises UserError if none is named, or for code of a file of somebody else's run without --trust.
    """
    if not words[0].startswith("-"):
        return words[0], words[1:]
    known = _first(words)
    file = known.config or (known.out / "run.yaml" if known.out else None)
    if file is None or not (known.config or file.is_file()):
        raise UserError("Name the recipe first: seedfast train RECIPE, then the flags; or --config with a run's YAML.")
    name = read_yaml(file).get("recipe")
    if not isinstance(name, str):
        raise UserError(f"{file} names no recipe: add the line recipe: NAME, or name it first (seedfast train RECIPE).")
    if ":" in name:  # the words of the user do not name this code, so it needs consent
        with named_by(file.parent, trust=trusts(words)):
            recipes.make(name)
    return name, words


def _train(asked: Train) -> int:
    """Train as the arguments say; returns the exit status."""
    own = named_by(asked.out, trust=asked.trust)
    with own, open_session(asked.run, asked.out, allow_change=asked.allow_change, at=asked.at) as opened:
        line = Line(terminal(), opened.folder / LOG)
        if opened.distributed.is_main:
            _introduce(opened, line)
            with line:
                outcome = run_training(opened, line)
        else:
            outcome = run_training(opened, Silent())
        if outcome.interrupted_by is None and opened.family.generator and opened.placement.samples_here:
            save_showcase(opened)
    if opened.distributed.is_main and outcome.interrupted_by is None:
        _conclude(opened, line, quiet=asked.quiet, report=asked.report)
    elif opened.distributed.is_main:
        command = "run the same command again" + (" without --at" if asked.at is not None else "")
        line.say(f"Interrupted and saved at step {outcome.step}; {command} to continue.")
    return 0 if outcome.interrupted_by is None else 128 + outcome.interrupted_by


def _estimate(asked: Train) -> int:
    """Print what the run needs."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("--dry-run measures one process: run it without torchrun.")
    if asked.at is not None:
        raise UserError("--dry-run estimates what is left from the newest checkpoint on: leave --at out.")
    from seedfast.loop.estimate import estimate

    with named_by(asked.out, trust=asked.trust):
        print("\n".join(estimate(asked.run, asked.out).lines()))
    return 0


def parse_run(recipe: str, words: list[str], *, fresh: Run | None = None) -> Train:
    """The arguments of a recipe's training: recipe (`fresh` if given) or stored run, then --size, --config, flags."""
    lengths = [key for key in LENGTHS if any(word.partition("=")[0] == f"--{key}" for word in words)]
    refuse_two_lengths(lengths, prefix="--")
    known = _first(words)
    out = known.out or Path("runs") / Path(recipe).name.replace(":", "-")
    run = fresh = fresh or recipes.make(recipe)
    if (out / "run.yaml").is_file():
        run = stored_run(fresh, out)
    if known.size:
        run = replace(run, model=run.model.sized(known.size))
    if known.config:
        values = read_yaml(known.config)
        refuse_foreign_keys(known.config, values)
        run = from_mapping(run, values, where=str(known.config))
        if run.recipe != fresh.recipe:
            raise UserError(f"{known.config} is of the recipe {run.recipe}, not of {fresh.recipe}.")
    if lengths:  # another way to give the length replaces the one that the run has
        run = replace(run, epochs=None, minutes=None)
    asked: Train = parse(
        Train,
        words,
        prog=f"seedfast train {recipe}",
        default=Train(out=out, size=known.size, config=known.config, run=run),
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


def _first(words: list[str]) -> argparse.Namespace:
    """The flags that the others depend on: `out`, `size` and `config`, None where they are not given."""
    parser = argparse.ArgumentParser(prog="seedfast train", add_help=False, allow_abbrev=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size")
    parser.add_argument("--config", type=Path)
    return parser.parse_known_args(words)[0]


def _introduce(opened: Session, line: Line) -> None:
    """Print the model, the data, the device and the step."""
    sizes = [(p.numel(), p.requires_grad) for p in opened.state.network.parameters()]
    size, trained = sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)
    share = f" ({trained / size:.2%} trained)" if trained < size else ""
    run, place = opened.run, opened.distributed
    where = f"{place.world_size} × {place.device.type}, {run.precision}"
    where += "" if opened.compiled == "off" else f", compiled {opened.compiled}"
    line.say(
        f"{run.recipe}  {size / 1e6:.2f} M parameters{share}, {len(opened.corpus.train):,} training and "
        f"{len(opened.corpus.validation):,} validation examples, {where}",
    )
    for text in opened.corpus.introduction(opened.plan.epoch(opened.plan.steps)):
        line.say(text)
    for text in opened.order.introduction(opened.plan.steps * opened.plan.batch_size):
        line.say(text)
    verb = "continues" if opened.state.step else "starts"
    where = f"{verb} at step {opened.state.step} of {opened.plan.steps} in {opened.folder}"
    line.say(where)
    if opened.compiled != "off":
        line.say("The first steps compile the network: that takes a minute, and less when it has been done before.")
    for name, (old, new) in opened.changed.items():
        line.say(f"  changed: {name} {old} → {new}")


def _conclude(opened: Session, line: Line, *, quiet: bool, report: bool) -> None:
    """Write samples of the trained model, the report and the best model, and print them, where they are, and which step
    is the best."""
    from seedfast.export.best_model import keep_best_model
    from seedfast.report import page

    folder = opened.folder
    shown = save_showcase(opened) if opened.family.generator else None
    files = shown.files if shown else ()
    written = page.write(folder) if report else None  # first: the samples may go to a pipe whose reader has exited
    if shown and shown.decoding:
        line.say(f"samples by {shown.decoding}")
    if shown and not quiet:
        shown.samples.show(Console())
    model = keep_best_model(folder)
    for sentence in advice.conclusion(opened):
        line.say(sentence)
    for what, where in {
        "run": folder,
        **({"report": written, "plot": folder / "report" / "loss.png"} if written else {}),
        **({"model": model} if model else {}),
        **({"samples": files[0].parent if len(files) > 1 else files[0]} if files else {}),
    }.items():
        line.say(f"{what:<8} {where}")
    sys.stdout.flush()
