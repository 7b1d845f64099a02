"""Named sizes of networks: those of papers, overridden by flags, and kept by a run that continues."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.cli import seedfast

import seedfast as library
from seedfast import recipes
from seedfast.cli.train import parse_run
from seedfast.errors import UserError
from seedfast.loop.config import settings
from seedfast.loop.plain_config import to_yaml
from seedfast.models.captioner import Captioner
from seedfast.models.causal_lm import PretrainedLM
from seedfast.models.transformer import Transformer
from seedfast.models.unet import UNet
from seedfast.recipes import sizes


@pytest.mark.parametrize("recipe", [name for name in recipes.RECIPES if recipes.make(name).model.sizes()])
def test_the_sizes_of_a_recipe_begin_with_its_own(recipe: str) -> None:
    model = recipes.make(recipe).model
    assert list(model.sizes())[:2] == ["tiny", "small"]
    assert model.sized("tiny") == model


@pytest.mark.parametrize(
    ("recipe", "size", "millions"),
    [
        ("text-autoregressive", "small", 162),  # GPT-2's 124 M, and 38.6 M since the output layer is not tied
        ("image-transformer", "small", 33),  # Peebles & Xie 2023, table 1
        ("image-transformer", "base", 130),
        ("image-diffusion", "large", 120),  # Nichol & Dhariwal 2021, appendix A
    ],
)
def test_sizes_have_the_parameters_of_their_papers(recipe: str, size: Any, millions: int) -> None:
    model = recipes.make(recipe).model.sized(size)
    if isinstance(model, Transformer):
        model = replace(model, ngrams=())
    found = sizes._parameters(model)
    assert found is not None
    assert found / 1e6 == pytest.approx(millions, rel=0.02)


def run_of(words: str, out: Path) -> dict[str, Any]:
    return settings(parse_run("image-diffusion", [*words.split(), "--out", str(out)]).run)


def test_flags_and_files_override_the_size_in_any_order(tmp_path: Path) -> None:
    assert run_of("--size base", tmp_path)["model.width"] == 128
    for words in ("--size base --model.width 64", "--model.width 64 --size=base"):
        found = run_of(words, tmp_path)
        assert (found["model.width"], found["model.multipliers"]) == (64, [1, 2, 2, 2])
    (tmp_path / "own.yaml").write_text("recipe: image-diffusion\nmodel: {blocks: 7}\n")
    found = run_of(f"--size base --config {tmp_path / 'own.yaml'}", tmp_path)
    assert (found["model.blocks"], found["model.width"]) == (7, 128)


def test_a_stored_run_keeps_its_size(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(to_yaml(library.recipe("image-diffusion", size="small", **{"model.blocks": 1})))
    assert run_of("", tmp_path)["model.width"] == 64
    assert run_of("--size small --model.blocks 1", tmp_path) == run_of("", tmp_path)
    assert run_of("--size base", tmp_path)["model.width"] == 128, "which the run's folder then refuses"


def test_the_python_interface_has_them_too() -> None:
    run = library.recipe("image-diffusion", size="base", **{"model.heads": 2})
    assert isinstance(run.model, UNet)
    assert (run.model.width, run.model.heads) == (128, 2)
    with pytest.raises(UserError, match="This network has no size medium: there are tiny, small, base, large, xl"):
        library.recipe("image-diffusion", size="medium")


def test_a_pretrained_encoder_keeps_its_size() -> None:
    model = Captioner(architecture='{"model_type": "vit"}')
    assert model.sized("base").vit == model.vit
    assert model.sized("base").decoder.width == 768
    assert not PretrainedLM().sizes()


def test_a_size_that_does_not_exist_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("train", "text-masked", "--size", "huge") == 2
    assert capsys.readouterr().err == (
        "seedfast: This network has no size huge: there are tiny, small, medium, large, xl.\n"
    )
    assert seedfast("train", "finetune", "--model", "gpt2", "--size", "small") == 2
    assert "its size is that of the pretrained model (--model)" in capsys.readouterr().err


def test_the_list_of_recipes_has_the_sizes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: recipes.RECIPES[name] for name in ("finetune", "image-transformer")}
    monkeypatch.setattr(recipes, "RECIPES", few)
    assert seedfast("recipes", "--sizes", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["sizes"] == {}
    assert list(second["sizes"]) == ["tiny", "small", "base", "large", "xl"]
    assert list(second["sizes"].values()) == sorted(second["sizes"].values())
