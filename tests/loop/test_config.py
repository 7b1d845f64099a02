"""The run as a value: to YAML and back, refusals that name the key, and the changes between two runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.runs import FAMILIES

from seedfast import recipes
from seedfast.errors import UserError
from seedfast.loop.config import changes
from seedfast.loop.plain_config import from_mapping, read_yaml, to_yaml
from seedfast.optim.ema import EMA
from seedfast.optim.optimizer import OptimizerConfig


@pytest.mark.parametrize("recipe", FAMILIES)
def test_a_run_comes_back_from_its_yaml_unchanged(recipe: str) -> None:
    run = replace(recipes.make(recipe), clip=None, optimizer=OptimizerConfig(lr=1e-5, betas=(0.8, 0.99)))
    assert from_mapping(recipes.make(recipe), yaml.safe_load(to_yaml(run)), where="x") == run


@pytest.mark.parametrize("recipe", FAMILIES)
def test_reading_the_yaml_of_a_recipe_gives_its_types(recipe: str) -> None:
    run = recipes.make(recipe)
    assert to_yaml(from_mapping(run, yaml.safe_load(to_yaml(run)), where="x")) == to_yaml(run)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 3}, "unknown key stepz"),
        ({"model": {"widht": 3}}, r"unknown key model\.widht"),
        ({"steps": "many"}, "steps must be of type int, not 'many'"),
        ({"steps": True}, "steps must be of type int"),
        ({"steps": 1.5}, "steps must be of type int"),
        ({"optimizer": {"lr": 10**400}}, "optimizer.lr must be of type float"),
        ({"model": 7}, "model must be a mapping"),
        ({"schedule": {"shape": "spiral"}}, r"schedule\.shape must be .*cosine.* or .*, not .spiral."),
        ({"optimizer": {"betas": [0.9]}}, r"optimizer\.betas must be"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"clip": -1}, "clip must be positive, not -1"),
        ({"schedule": {"decay": 0.3}}, r"schedule\.decay \(0\.3\) has no effect without schedule\.shape wsd"),
        ({"ema": {"ramp": 2}}, r"ema\.ramp"),
        (
            {"optimizer": {"kind": "adamw", "momentum": 0.9}},
            r"optimizer\.momentum \(0\.9\) has no effect without optimizer\.kind muon",
        ),
    ],
    ids=str,
)
def test_bad_values_are_refused_in_a_sentence_with_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_mapping(recipes.make("text-masked"), values, where="x.yaml")


@pytest.mark.parametrize("text", ["{", "- 1\n- 2\n", "\x00"])
def test_a_file_without_a_mapping_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml"):
        read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3\nsteps: 4\n", 'the key "steps" occurs twice .*line 2'),
        ("optimizer:\n  lr: 1\n  lr: 2\n", 'the key "lr" occurs twice'),
        ("a: " + "[" * 5000 + "]" * 5000, "nested"),
        ("a: 2001-99-99\n- b", "cannot be read as a YAML file"),
    ],
    ids=["twice", "twice inside", "deep", "malformed"],
)
def test_yaml_that_has_no_one_meaning_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "x.yaml")


def test_yaml_may_merge_mappings_and_dates_stay_texts(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("base: &b {lr: 1}\nother:\n  <<: *b\n  lr: 2\ndate: 2026-01-31\n", "utf-8-sig")
    assert read_yaml(tmp_path / "x.yaml") == {"base": {"lr": 1}, "other": {"lr": 2}, "date": "2026-01-31"}


def test_scientific_notation_without_a_point_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("optimizer: {lr: 1e-3}\n")
    run = from_mapping(recipes.make("text-masked"), read_yaml(tmp_path / "x.yaml"), where="x")
    assert run.optimizer.lr == 0.001


def test_changes_are_found_at_any_depth() -> None:
    run = recipes.make("text-masked")
    other = replace(run, steps=7, ema=EMA(half_life=3))
    assert changes(run, other) == {"steps": (run.steps, 7), "ema.half_life": (run.ema.half_life, 3)}
