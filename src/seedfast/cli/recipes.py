"""`seedfast recipes`."""

import json
from dataclasses import dataclass

from seedfast.cli.arguments import parse


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the ready runs. `seedfast train RECIPE --help` lists what can be changed about one."""

    json: bool = False
    """Print a JSON list of objects: the name, the subject and what the recipe trains."""


def recipes(words: list[str]) -> int:
    """List the recipes."""
    asked: Recipes = parse(Recipes, words, prog="seedfast recipes")
    from seedfast.recipes import RECIPES

    if asked.json:
        print(json.dumps([{"name": n, "subject": s, "description": what} for n, (s, what) in RECIPES.items()]))
        return 0
    for name, (_, what) in RECIPES.items():
        print(f"{name:<22} {what}")
    return 0
