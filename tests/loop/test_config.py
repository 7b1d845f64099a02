"""The run as a value: YAML and back, refusals that name the key, and no key that does nothing."""

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.runs import FAMILIES, FINETUNE, small_run

from seedfast import recipes
from seedfast.errors import UserError
from seedfast.families.image.noise_process import NoiseProcess
from seedfast.families.text.proofreading.corruption import Corruption
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.proofreading.loss_weights import Weights
from seedfast.families.text.proofreading.mask_bias import Bias
from seedfast.loop.config import Run, changes, from_mapping, read_yaml, to_yaml
from seedfast.optim.ema import EMA
from seedfast.optim.lr_schedule import Schedule
from seedfast.optim.optimizer import OptimizerConfig


@pytest.mark.parametrize("recipe", FAMILIES)
def test_a_run_comes_back_from_its_yaml_unchanged(recipe: str) -> None:
    run = replace(recipes.make(recipe), clip=None, optimizer=OptimizerConfig(lr=1e-5, betas=(0.8, 0.99)))
    assert from_mapping(recipes.make(recipe), yaml.safe_load(to_yaml(run)), where="x") == run


@pytest.mark.parametrize("recipe", FAMILIES)
def test_a_recipe_is_what_its_yaml_says_to_the_type(recipe: str) -> None:
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
        ({"model": 7}, "model must be a mapping"),
        ({"schedule": {"shape": "spiral"}}, r"schedule\.shape must be of type"),
        ({"optimizer": {"betas": [0.9]}}, r"optimizer\.betas must be"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"clip": -1}, "clip must be a positive"),
        ({"schedule": {"decay": 0.3}}, r"schedule\.decay has no meaning"),
        ({"ema": {"ramp": 2}}, r"ema\.ramp"),
        ({"optimizer": {"kind": "adamw", "momentum": 0.9}}, "belong to Muon"),
    ],
    ids=str,
)
def test_bad_values_are_refused_in_a_sentence_with_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_mapping(recipes.make("text-masked"), values, where="x.yaml")


@pytest.mark.parametrize("text", ["{", "- 1\n- 2\n", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml"):
        read_yaml(tmp_path / "x.yaml")


def test_scientific_notation_without_a_point_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("optimizer: {lr: 1e-3}\n")
    run = from_mapping(recipes.make("text-masked"), read_yaml(tmp_path / "x.yaml"), where="x")
    assert run.optimizer.lr == 0.001


def test_changes_are_found_at_any_depth() -> None:
    run = recipes.make("text-masked")
    other = replace(run, steps=7, ema=EMA(half_life=3))
    assert changes(run, other) == {"steps": (run.steps, 7), "ema.half_life": (run.ema.half_life, 3)}


# ---- no dead keys ---------------------------------------------------------------------------------------------

ELSEWHERE = {
    "recipe": "names the run",
    "device": "only another machine shows it; test_session and test_cli use it",
    "data.include": "tests/data", "data.exclude": "tests/data", "data.mode": "tests/data", "data.field": "tests/data",
    "objective.evaluation_draws": "changes the validation, below",
    "data.one_document_per_window": "tests/data, tests/families",
    "data.glyph_class": "of glyphs (tests/data)", "data.split_by": "of glyphs (tests/data)",
    "data.image_field": "of data sets (tests/data)", "data.label_field": "of data sets (tests/data)",
    "data.caption_field": "of data sets (tests/data)", "data.validation_split": "of Karpathy splits (tests/data)",
    "data.images": "where images are (tests/data)", "data.processor": "of pretrained encoders (tests/families)",
    "model.frozen": "of pretrained encoders (tests/families)", "model.cache_features": "changes no bit of the features",
    "model.language_model": "of pretrained decoders (tests/families)",
    "best_metric": "changes which checkpoint is the best (tests/families)",
    "workers": "changes no bit by promise (test_exactness), and the threads, below",
    "log_every": "changes the progress line (test_cli)",
    "sample_every": "writes samples (test_snapshot)", "tensorboard": "writes a copy of the journal (test_snapshot)",
    "wandb": "sends a copy of the journal (test_listeners)", "hub": "uploads the best checkpoint (test_listeners)",
    "keep": "changes what is retained (test_checkpoint)",
    "save_every": "changes what is saved (test_checkpoint)",
    "model.path": "tests/loop/test_finetune and tests/families",
    "model.gradient_checkpointing": "changes no bit by promise (tests/models/test_causal_lm), but memory",
}  # fmt: skip
ALTERNATIVES: dict[str, Any] = {
    "precision": "bf16", "on_nonfinite": "skip", "skip_budget": 3, "micro_batch": 2, "clip": 1e-3, "steps": 5,
    "eval_examples": 3, "optimizer.kind": "muon", "optimizer.matrix_lr": 0.05, "optimizer.momentum": 0.5,
    "optimizer.betas": (0.5, 0.6), "optimizer.eps": 0.1, "schedule.shape": "constant", "schedule.min_lr_factor": 0.5,
    "schedule.decay": 0.5, "schedule.patience": 1, "schedule.gamma": 0.3, "ema.unit": "samples", "ema.ramp": 0.9,
    "model.mlp": "gelu", "model.norm": "layer", "model.positions": "learned", "model.init": "gpt2", "model.hidden": 24,
    "model.heads": 1, "model.dropout": 0.2, "data.tokenizer": "bytes", "data.vocabulary": 265, "data.validation": 0.3,
    "patience": 1, "model.adapter.kind": "rslora", "model.adapter.targets": ("c_attn",), "model.adapter.alpha": 1.0,
    "model.adapter.dropout": 0.2,
    "model.attention": "eager",
    "model.architecture": '{"model_type": "gpt2", "vocab_size": 40, "n_embd": 8, "n_head": 1}',
    "objective.estimator": "continuous", "objective.schedule": "cosine", "objective.prediction": "v",
    "objective.loss": "weighted", "objective.rounding": 0.9, "objective.prompt_conditioning": "cross", "data.prompt": 8,
    "objective.version": "edit", "objective.diagnostics_every": 1, "objective.corruption.rates": "independent",
    "objective.corruption.guaranteed_correct": 0.5, "objective.corruption.replaced.end": 0.6,
    "objective.corruption.mixture": (0.0, 0.5, 0.5), "objective.corruption.keep_multiplier": 100.0,
    "objective.corruption.edits": (0.2, 0.4, 0.4), "objective.weights.judged_by": "argmax",
    "objective.weights.label_smoothing.end": 0.3, "objective.weights.label_smoothing.start": 0.9,
    "objective.bias.kind": "fixed", "objective.block": 8,
}  # fmt: skip
OF_IMAGES: dict[str, Any] = {
    "data.channels": 3, "data.balance": None, "data.balance_beta": 0.5, "data.class_weights": (1.0, 9.0),
    "objective.process.schedule": "sigmoid", "objective.process.prediction": "x0", "objective.process.timesteps": 50,
    "objective.process.beta_start": 1e-3, "objective.process.beta_end": 0.1, "objective.process.sigma_data": 0.9,
    "objective.min_snr": 5.0, "objective.conditional": False, "objective.class_dropout_prob": 0.9,
    "objective.class_balance": "inverse-frequency", "objective.class_balance_beta": 0.5,
    "objective.class_weights": (1.0, 9.0),
    "model.decoder.mlp": "gelu", "model.decoder.norm": "layer", "model.decoder.positions": "learned",
    "model.decoder.init": "gpt2", "model.decoder.hidden": 24, "model.decoder.heads": 1, "model.decoder.dropout": 0.2,
    "model.vit.patch": 2, "model.vit.heads": 1, "model.vit.dropout": 0.2, "data.size": 16,
    "objective.captions_per_image": None, "objective.label_smoothing": 0.2, "objective.self_critical": 1,
    "objective.self_critical_samples": 3, "objective.metrics_every_n_images": 1,
    "model.multipliers": (1, 3), "model.attention": (True, False), "model.groups": 2,
}  # fmt: skip


def proofreading_bases(base: Run) -> dict[str, Run]:
    """Runs in which an option of proofreading has something to act on within a few steps."""

    def of(**options: Any) -> Run:
        return replace(base, objective=replace(base.objective, **options))

    wrong_from_the_start = Corruption(replaced=Ramp(start=0.5, end=1.0, steps=4))
    ramps = Weights(
        remask=Ramp(start=0.5, end=1.0, steps=4),
        penalty_keep_mask=Ramp(start=0.5, end=1.5, steps=4),
        label_smoothing=Ramp(start=0.5, end=0.1, steps=4),
    )
    moving = of(corruption=wrong_from_the_start, weights=ramps)
    single = of(version="mask", bias=Bias(kind="mask-probability"))
    named = {f"objective.weights.{f.name}": moving for f in fields(Weights)}
    named |= {f"objective.corruption.{f.name}": moving for f in fields(Corruption)}
    found = {f"{name}{end}": run for name, run in named.items() for end in ("", ".start", ".end", ".steps")}
    found["objective.corruption.edits"] = of(version="edit", corruption=wrong_from_the_start)
    found["objective.bias.kind"] = of(version="mask")
    return found | dict.fromkeys([f"objective.bias.{key}" for key in ("initial", "target", "strength")], single)


def keys(value: Any, prefix: str = "") -> list[str]:
    """The dotted names of all fields of a run."""
    found = []
    for f in fields(value):
        inner = getattr(value, f.name)
        found += keys(inner, f"{prefix}{f.name}.") if is_dataclass(inner) else [f"{prefix}{f.name}"]
    return found


def changed(run: Run, key: str) -> Run:
    """The run with one key given another value."""
    value: Any = run
    for part in key.split("."):
        value = getattr(value, part)
    known = ALTERNATIVES | (OF_IMAGES if run.recipe.startswith("image") else {})
    if key in known:
        new = known[key]
    elif isinstance(value, bool):
        new = not value
    else:
        new = value * 2 if isinstance(value, int | float) and value else 1
    nested: Any = new
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return from_mapping(run, nested, where=key)


def _image_bases(base: Run) -> dict[str, Run]:
    """Runs in which the options of other options' values have something to act on."""

    def with_process(**options: Any) -> Run:
        return replace(base, objective=replace(base.objective, process=NoiseProcess(**options)))

    manual = {"class_weights": (1.0, 2.0)}
    return {
        "data.balance_beta": replace(base, data=replace(base.data, balance="effective-number")),
        "data.class_weights": replace(base, data=replace(base.data, balance="manual", **manual)),
        "objective.class_weights": replace(base, objective=replace(base.objective, class_balance="manual", **manual)),
        "objective.process.beta_start": with_process(schedule="linear"),
        "objective.process.beta_end": with_process(schedule="linear"),
        "objective.process.sigma_data": with_process(prediction="edm"),
    }


@pytest.mark.parametrize("recipe", [*FAMILIES, FINETUNE])
def test_every_key_changes_something_or_is_refused(recipe: str, story: Path, tmp_path: Path) -> None:
    from tests.helpers.runs import train_in

    from seedfast.loop.open import open_session
    from seedfast.run_folder import journal
    from seedfast.run_folder.checkpoint import Checkpoints

    def outcome(run: Run, name: str) -> str:
        """Everything that a run leaves behind, but for times and its own configuration."""
        train_in(tmp_path / name, run)
        entries = [{k: v for k, v in e.items() if k != "time"} for e in journal.read(tmp_path / name)]
        newest = Checkpoints(tmp_path / name).newest()
        assert newest is not None
        files = newest.manifest.files
        tensors = {k: v["sha256"] for k, v in files.items() if k.endswith(".safetensors")}
        return json.dumps([entries, tensors])

    text = tmp_path / "other.txt"
    text.write_text(story.read_text()[::-1])
    other_data = small_run(recipe, text).data
    base = small_run(recipe, story, steps=3, batch_size=6, eval_every=2, micro_batch=None)
    base = replace(base, schedule=Schedule(shape="cosine", warmup=1))
    stalling = replace(  # a rate at which validation gets worse, or the plateau would never act
        base,
        steps=9,
        eval_every=1,
        optimizer=OptimizerConfig(lr=0.5),
        schedule=Schedule(shape="plateau", patience=0),
    )
    bases = {
        "optimizer.matrix_lr": replace(base, optimizer=OptimizerConfig(kind="muon")),
        "optimizer.momentum": replace(base, optimizer=OptimizerConfig(kind="muon")),
        "schedule.decay": replace(base, schedule=Schedule(shape="wsd")),
        "schedule.patience": stalling,
        "schedule.gamma": stalling,
        "patience": stalling,
        "ema.ramp": replace(base, ema=EMA(half_life=1000)),
        "ema.half_life": replace(base, ema=EMA(half_life=1, ramp=1.0)),  # not held down by the warm-up
        "ema.unit": replace(base, ema=EMA(half_life=1, ramp=1.0)),
    }
    if recipe == "image-diffusion":
        bases |= _image_bases(base)
    else:
        bases["data.vocabulary"] = replace(base, data=replace(base.data, tokenizer="bpe", vocabulary=270))
    if recipe == "text-masked":
        bases["objective.schedule"] = replace(base, objective=replace(base.objective, estimator="continuous"))
    if recipe == "image-caption":
        learned = replace(base, data=replace(base.data, tokenizer="bpe", vocabulary=262))
        bases |= {"data.vocabulary": learned, "data.tokenizer": learned}
        bases["objective.self_critical_samples"] = replace(
            base, objective=replace(base.objective, self_critical=0, self_critical_samples=2)
        )
    if recipe == "text-embedding":
        weighted = replace(base, objective=replace(base.objective, schedule="linear", loss="weighted"))
        bases["objective.rounding"] = weighted
        bases["objective.loss"] = replace(base, objective=replace(base.objective, schedule="linear"))
        bases["objective.prompt_conditioning"] = replace(base, data=replace(base.data, prompt=8))
    names = keys(base)
    if recipe == "text-proofreading":  # all other keys are as in the others
        bases |= proofreading_bases(base)
        names = [key for key in names if key.startswith("objective.") and key != "objective.schedule"]  # the sampler's
    elif recipe in ("text-embedding", "image-caption"):
        names = [key for key in names if key.startswith(("objective.", "data.", "model."))]
        names = [key for key in names if key != "model.architecture" or recipe != "image-caption"]  # tests/families
    elif recipe == FINETUNE:
        names = [key for key in names if key.startswith("model.")]
    elif recipe == "text-block":
        names = ["objective.block"]
    outcomes: dict[int, str] = {}
    for key in names:
        if key in ELSEWHERE or key in (
            "on_nonfinite",
            "skip_budget",
            "micro_batch",
        ):  # test_session, test_exactness
            continue
        start = bases.get(key, base)
        if id(start) not in outcomes:
            outcomes[id(start)] = outcome(start, f"base-{len(outcomes)}")
        try:
            other = replace(base, data=other_data) if key == "data.path" else changed(start, key)
            result = outcome(other, key)
        except UserError:
            continue
        if key == "objective.document_mask":
            continue  # this text is one document: tests/families
        assert result != outcomes[id(start)], f"{key} changes nothing"
    with open_session(replace(base, workers=2), tmp_path / "threads") as opened:
        assert opened.run.workers == 2
