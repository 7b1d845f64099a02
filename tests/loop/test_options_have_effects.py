"""No option without an effect: every option of every recipe, changed in a short run, changes what its rules name.

An option changes the journal or the tensors of a run unless its field names another place (`options.Affects`). The
other value and the options that it needs are read from the field as well (`options.Example`, `options.OnlyWith`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import pytest
from tests.helpers.effects import Laboratory
from tests.helpers.options import Option, changed, options_of
from tests.helpers.quick import slow_but
from tests.helpers.runs import small_run

from seedfast import recipes
from seedfast.data.image import glyphs
from seedfast.errors import UserError
from seedfast.families.family import Family
from seedfast.families.text.masked import Masked
from seedfast.options import AtLeast, Example

OPTIONS = list(options_of({name: recipes.make(name) for name in recipes.RECIPES}))
FIRST = list({(option.kind, option.field): option for option in reversed(OPTIONS)}.values())
"""The first place of each option: the transformer of a captioner has the options of a language model too."""
REFUSED = {
    "image-transformer-model.body.tied": "the class embedding with the pixels",
    "image-transformer-model.body.ngrams": "an image has none",
    "image-transformer-model.body.ngrams_in": "an image has none",
}
"""Options of a shared configuration that one place of it never allows, and the reason in the refusal."""


@pytest.fixture(scope="module")
def laboratory(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """Trains each run once and keeps what it left. Its glyphs are those of three small fonts."""
    few = {name: glyphs.FACES[name] for name in ("STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")}
    with mock.patch.object(glyphs, "FACES", few):
        yield Laboratory(story, tmp_path_factory.mktemp("effects"))


def check(option: Option, laboratory: Laboratory) -> None:
    """Assert that the option has an effect where its rules say, and is refused by its own rule where it has none."""
    conditions = option.conditions
    base = laboratory.base(option, recipe=conditions.pop("recipe", option.recipe))
    if reason := REFUSED.get(option.id):
        with pytest.raises(UserError, match=reason):
            changed(base, conditions | {option.name: laboratory.value(option, base)})
        return
    before = changed(base, conditions)
    value = {option.name: laboratory.value(option, before)}
    if not all(rule.holds(option.owner(base)) for rule in option.dependencies):
        with pytest.raises(UserError, match=rf"{re.escape(option.field)} .* has no effect without"):
            changed(base, value)
    after = changed(before, conditions | value)
    place = option.place or "results"
    differs = laboratory.outcome(after, place, before) != laboratory.outcome(before, place)
    assert differs, f"{option.id} changes nothing ({place})"


@pytest.mark.parametrize("option", slow_but(FIRST, OPTIONS), ids=lambda option: option.id)
def test_an_option_has_an_effect(option: Option, laboratory: Laboratory) -> None:
    if option.field == "trackio":
        pytest.importorskip("trackio", reason="trackio is not installed (pip install 'seedfast[trackio]')")
    check(option, laboratory)


def test_every_option_of_every_recipe_is_among_them() -> None:
    from seedfast.options import walk

    known = {(option.kind, option.field) for option in OPTIONS}
    for name in recipes.RECIPES:
        for _, owner, field, _ in walk(recipes.make(name)):
            if not hasattr(getattr(owner, field.name), "__dataclass_fields__"):
                assert (type(owner), field.name) in known


@dataclass(frozen=True, kw_only=True)
class WithDeadOptions(Masked):
    """Options that nothing reads."""

    dead: Annotated[int, AtLeast(1)] = 3
    dead_text: Annotated[str, Example("x")] = ""
    without_example: str = ""

    def build(self, assets: Any) -> Family:
        return Masked.build(self, assets)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dead", r"objective\.dead changes nothing"),
        ("dead_text", r"objective\.dead_text changes nothing"),
        ("without_example", r"objective\.without_example is '' .* needs an Example"),
    ],
)
def test_twin_dead_options_are_found(name: str, message: str, laboratory: Laboratory, story: Path) -> None:
    run = replace(small_run("text-masked", story), objective=WithDeadOptions())
    laboratory.add("dead", run)
    (option,) = (each for each in options_of({"dead": run}) if each.field == name)
    with pytest.raises(AssertionError, match=message):
        check(option, laboratory)
