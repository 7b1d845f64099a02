"""`seedfast recipes`."""

from dataclasses import dataclass

from seedfast.cli.arguments import parse


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the ready runs. `seedfast train RECIPE --help` lists everything about one that can be changed."""


def recipes(words: list[str]) -> int:
    """List the recipes."""
    parse(Recipes, words, prog="seedfast recipes")
    from seedfast.recipes import RECIPES

    for name, (_, what) in RECIPES.items():
        print(f"{name:<22} {what}")
    return 0
