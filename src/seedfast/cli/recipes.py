"""`seedfast recipes`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seedfast.cli.arguments import parse

if TYPE_CHECKING:
    from seedfast.models.config import Size


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the ready runs. `seedfast train RECIPE --help` lists what can be changed about one."""

    sizes: bool = False
    """List the sizes of each recipe's network (`seedfast train RECIPE --size NAME`), with its parameters."""
    json: bool = False
    """Print a JSON list of objects: the name, the subject, what the recipe trains, and with --sizes those."""


def recipes(words: list[str]) -> int:
    """List the recipes."""
    asked: Recipes = parse(Recipes, words, prog="seedfast recipes")
    from seedfast.cli.help import listing
    from seedfast.console import is_on_screen
    from seedfast.recipes import RECIPES

    found = {}
    if asked.sizes:
        from seedfast.recipes.sizes import DATA, sizes

        found = {name: dict(sizes(name)) for name in RECIPES}
    if asked.json:
        entries = [{"name": n, "subject": s, "description": what} for n, (s, what) in RECIPES.items()]
        print(json.dumps([entry | ({"sizes": found[entry["name"]]} if asked.sizes else {}) for entry in entries]))
        return 0
    shown = {name: _line(found[name]) if asked.sizes else what for name, (_, what) in RECIPES.items()}
    print("\n".join(listing(shown) if is_on_screen() else (f"{name:<22} {what}" for name, what in shown.items())))
    if asked.sizes:
        print(f"Parameters for {DATA}.")
    return 0


def _line(sizes: "Mapping[Size, int | None]") -> str:
    """Such as "tiny 13.9 M, small 162.3 M"; a size without a number if it cannot be built here."""
    named = (name if n is None else f"{name} {n / 1e6:.1f} M" for name, n in sizes.items())
    return ", ".join(named) or "the size of the pretrained model (--model)"
