"""The Python interface: recipe, train, load, journal."""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import seedfast
from seedfast import UserError
from seedfast.data.text.windows import Windows
from seedfast.keys import Draws
from seedfast.loop.validate import validate
from seedfast.run_folder.journal import Entry

SMALL: dict[str, Any] = {
    "data.tokenizer": "characters", "data.context": 16, "model.layers": 1, "model.heads": 2, "model.width": 16,
    "steps": 6, "batch_size": 4, "eval_every": 3, "eval_examples": 4, "save_every": 3,
}  # fmt: skip
TEXTS = [f"the {animal} sees the {n}.\n" * 9 for n in range(12) for animal in ("cat", "dog", "fox")]


@pytest.fixture(scope="module")
def model(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = seedfast.recipe("text-autoregressive", **SMALL, **{"data.path": story})
    return seedfast.train(run, tmp_path_factory.mktemp("api") / "run", progress=lambda entry: None)


def test_importing_seedfast_imports_nothing_heavy() -> None:
    code = "import sys, seedfast; print({'torch', 'tyro', 'transformers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert shown.stdout.strip() == "set()"


def test_everything_public_is_found_and_documented() -> None:
    for name in ("recipe", "train", "load", "journal", "study"):
        assert getattr(seedfast, name).__doc__, name
        assert name in dir(seedfast)
    with pytest.raises(AttributeError):
        _ = seedfast.lode  # type: ignore[attr-defined]


def test_a_recipe_takes_dotted_names_and_groups() -> None:
    run: Any = seedfast.recipe("text-masked", steps=7, model={"width": 64}, **{"optimizer.lr": 0.5})
    assert (run.steps, run.model.width, run.optimizer.lr) == (7, 64, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"stepz": 3}, "unknown key stepz"), ({"model.widht": 3}, r"unknown key model\.widht"),
     ({"steps": "many"}, "steps must be of type int"), ({"steps": 0}, "steps must be at least 1"),
     ({"model": 3, "model.width": 4}, "model")],
)  # fmt: skip
def test_a_wrong_change_is_refused_by_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        seedfast.recipe("text-masked", **changes)


def test_an_unknown_recipe_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean text-masked"):
        seedfast.recipe("text-maskd")


def test_training_calls_back_with_each_journal_entry_and_continues(story: Path, tmp_path: Path) -> None:
    run = seedfast.recipe("text-autoregressive", **SMALL, **{"data.path": story})
    seen: list[Entry] = []
    seedfast.train(run, tmp_path / "run", progress=seen.append)
    assert [entry["step"] for entry in seen if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in seen if "validation" in entry] == [3, 6]
    again: list[Entry] = []
    seedfast.train(run, tmp_path / "run", progress=again.append)
    assert again == []


@pytest.mark.parametrize(
    ("recipe", "data"),
    [
        ("text-autoregressive", TEXTS),
        ("text-autoregressive", [{"prompt": f"say {n}", "completion": f"{n} it is"} for n in range(40)]),
    ],
    ids=["texts", "rows"],
)
def test_data_are_given_as_python_values(recipe: str, data: Sequence[Any], tmp_path: Path) -> None:
    run = seedfast.recipe(recipe, **SMALL)
    model = seedfast.train(run, tmp_path / "run", data=data, progress=lambda entry: None)
    assert model.evaluate("loss")["nats_per_token"] > 0
    assert (tmp_path / "run/data/documents.jsonl").is_file()


def test_images_are_given_as_arrays_or_pictures_with_labels(tmp_path: Path) -> None:
    run = seedfast.recipe(
        "image-diffusion", steps=2, batch_size=4, eval_examples=4,
        **{"data.size": 8, "data.channels": 1, "data.validation": 0.3, "model.width": 8, "model.multipliers": [1, 2],
           "model.blocks": 1, "model.attention": [False, True], "model.heads": 2, "model.groups": 4},
    )  # fmt: skip
    arrays = [np.full((8, 8), 6 * n, np.uint8) for n in range(40)]
    pairs = [(Image.fromarray(array), "dark" if n % 2 else "light") for n, array in enumerate(arrays)]
    model = seedfast.train(run, tmp_path / "run", data=pairs, progress=lambda entry: None)
    samples = model.sample(num=2, label=["dark"], steps=2)
    assert samples._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="label must be of type str, not True"):
        model.sample(num=2, label=True, steps=2)
    numbered = seedfast.train(
        run, tmp_path / "numbered", data=[(array, np.int64(n % 2)) for n, array in enumerate(arrays)],
        progress=lambda entry: None,
    )  # fmt: skip
    for label in (1, np.int64(1), "1", [1], [np.int32(1)]):
        assert numbered.sample(num=2, label=label, steps=2).names == ("1", "1")
    plain = seedfast.train(run, tmp_path / "plain", data=arrays, progress=lambda entry: None)
    assert plain.evaluate("loss")["images"] > 0


@pytest.mark.parametrize(
    ("data", "message"),
    [([], "nothing"), (["a", 3], "int and texts"), ([3.5], "float"), ([{"x": object()}], "JSON"),
     ([np.zeros((2, 2), np.float32)] * 3, "uint8"), ([(np.zeros((2, 2), np.uint8), "a/b")] * 3, "a/b"),
     ([(np.zeros((2, 2), np.uint8), ".hid")] * 3, "hid"), ([(np.zeros((2, 2), np.uint8), None)] * 3, "None"),
     ("a text", "not a list")],
    ids=["none", "mixed", "numbers", "objects", "floats", "label", "hidden label", "no label", "text"],
)  # fmt: skip
def test_data_that_cannot_be_used_are_refused(data: Sequence[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        seedfast.train(seedfast.recipe("text-masked"), tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_continued_on_other_given_data(tmp_path: Path) -> None:
    run = seedfast.recipe("text-autoregressive", **SMALL)
    seedfast.train(run, tmp_path / "run", data=TEXTS, progress=lambda entry: None)
    with pytest.raises(UserError, match="other data"):
        seedfast.train(run, tmp_path / "run", data=TEXTS[1:])
    seedfast.train(run, tmp_path / "run", data=TEXTS, progress=lambda entry: None)


def test_a_model_samples_by_options_and_the_same_each_time(model: Any) -> None:
    one = model.sample(prompt="the ", tokens=5, seed=3)
    assert one.texts == model.sample(prompt=["the "], tokens=5, seed=3).texts
    assert one.texts[0].startswith("the ")


def test_an_unknown_option_of_sampling_is_refused_with_the_nearest(model: Any) -> None:
    with pytest.raises(UserError, match="did you mean temperature"):
        model.sample(temperatur=1.0)


def test_a_model_evaluates_as_the_command_does(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from seedfast.cli import main

    with pytest.raises(SystemExit):
        main(["evaluate", str(model.committed.folder.parents[1]), "--json"])
    assert json.loads(capsys.readouterr().out) == model.evaluate()


def windows_loss(model: Any, tokens: list[int]) -> float:
    """The loss of consecutive windows of a stream of tokens, in nats, as a validation measures it."""
    windows = Windows(np.array(tokens), 16)
    score = validate(
        model.family.objective, model.network, model.state, windows, range(len(windows)), seed=1, batch_size=8, draws=1,
        distributed=model.distributed,
    )  # fmt: skip
    return score.loss * score.weight


def test_the_log_probability_of_windows_is_the_validation_loss(model: Any, story: Path) -> None:
    """A text as long as several windows is scored exactly as the validation split is."""
    text = story.read_text()[:64]
    tokens, end = model.tokenizer.encode(text), model.tokenizer.end_of_text
    expected = -windows_loss(model, [end, *tokens])
    assert model.log_prob(text) == pytest.approx(expected, rel=1e-6)
    assert model.log_prob([text, text[:9]])[0] == model.log_prob(text)
    # Twin: windows that each begin with end-of-text, as if no text were before them.
    broken = -sum(windows_loss(model, [end, *tokens[start : start + 16]]) for start in range(0, 64, 16))
    assert broken != pytest.approx(expected, rel=1e-5)


def test_texts_of_any_length_have_a_log_probability(story: Path, tmp_path: Path) -> None:
    """Blocks need not fill a text, and a model with prompts reads the tokens before a window."""
    for recipe, changes in (("text-block", {"objective.block": 4}), ("text-embedding", {"data.prompt": 4})):
        run = seedfast.recipe(recipe, **SMALL | changes | {"steps": 1, "data.path": story})
        model = seedfast.train(run, tmp_path / recipe, progress=lambda entry: None)
        found: Any = model.log_prob([story.read_text()[:length] for length in (1, 3, 4, 10, 16, 18)])
        assert all(np.isfinite(found))
        assert max(found) < 0
    task: Any = seedfast.load(tmp_path / "text-block").family.objective.task(
        {"tokens": torch.zeros(2, 11, dtype=torch.int64), "scored": torch.ones(2, 10, dtype=torch.bool)},
        Draws(seed=1, scope="test", positions_B=torch.arange(2)),
    )
    for scale_L in task.scale_BL:  # blocks of 4, 4 and 2 tokens, with a time each
        assert [len(set(part.tolist())) for part in scale_L.split(4)] == [1, 1, 1]
    assert task.masked_BL.shape == (2, 10)


def test_data_given_once_are_found_again_also_after_a_move(tmp_path: Path) -> None:
    run = seedfast.recipe("text-autoregressive", **SMALL)
    seedfast.train(run, tmp_path / "run", data=iter(TEXTS), progress=lambda entry: None)
    again: list[Entry] = []
    longer = seedfast.recipe("text-autoregressive", **SMALL | {"steps": 7})
    seedfast.train(longer, tmp_path / "run", progress=again.append)
    assert [entry["step"] for entry in again if "loss" in entry] == [7]
    (tmp_path / "run").rename(tmp_path / "moved")
    assert seedfast.load(tmp_path / "moved").evaluate("loss")["nats_per_token"] > 0


def test_a_strangers_folder_is_refused_before_data_are_written(tmp_path: Path) -> None:
    for name in ("thesis.txt", "data.csv", "lockpick"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(UserError, match="not a run"):
            seedfast.train(seedfast.recipe("text-masked"), folder, data=TEXTS)
        assert [path.name for path in folder.iterdir()] == [name]


def test_training_runs_in_any_thread(story: Path, tmp_path: Path) -> None:
    run = seedfast.recipe("text-autoregressive", **SMALL | {"steps": 1, "data.path": story})
    with ThreadPoolExecutor(1) as pool:
        trained: Any = pool.submit(seedfast.train, run, tmp_path / "run", progress=lambda entry: None).result()
    assert trained.committed.step == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tokens": "5"}, "tokens must be of type int"), ({"num": 1.5}, "num"), ({"temperature": "hot"}, "temperature"),
     ({"prompt": 5}, "prompt"), ({"prompt": None}, "prompt"), ({"seed": "x"}, "seed")],
    ids=str,
)  # fmt: skip
def test_options_of_another_type_are_refused_by_name(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.sample(**options)


def test_arguments_of_another_kind_are_refused_in_a_sentence(model: Any, story: Path, tmp_path: Path) -> None:
    folder = model.committed.folder.parents[1]
    with pytest.raises(UserError, match="by name, such as prompt='hello'"):
        model.sample("hello")
    with pytest.raises(UserError, match="no text"):
        model.log_prob([3])
    with pytest.raises(UserError, match="weights must be ema, raw, base"):
        seedfast.load(folder, weights="EMA")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="device must be auto, cpu or cuda"):
        seedfast.load(folder, device="gpu")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"data\.path"):
        seedfast.train(seedfast.recipe("text-masked"), tmp_path / "run", data=story)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"seedfast\.recipe"):
        seedfast.train("text-masked", tmp_path / "run")  # type: ignore[arg-type]
    assert seedfast.recipe("text-masked", steps=np.int64(7)).steps == 7


def test_samples_save_themselves_into_a_new_folder(model: Any, tmp_path: Path) -> None:
    [file] = model.sample(prompt="the ", tokens=np.int64(3)).save(str(tmp_path / "new/samples"))
    assert file.read_text().startswith("the ")


def test_own_metrics_of_one_name_stand_side_by_side_and_their_errors_are_sentences(model: Any, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import numpy\ndef loss(model): return {'x': numpy.float32(1)}\n")
    (tmp_path / "two.py").write_text("def loss(model): return {'x': 2.0}\ndef wrong(model): return 1 / 0\n")
    found = model.evaluate("loss", f"{tmp_path}/one.py:loss", f"{tmp_path}/two.py:loss")
    assert found["nats_per_token"] > 0
    assert (found["one.loss"], found["two.loss"]) == ({"x": 1.0}, {"x": 2.0})
    with pytest.raises(UserError, match=r"ZeroDivisionError.*line 2"):
        model.evaluate(f"{tmp_path}/two.py:wrong")


def test_loading_names_step_weights_and_device(model: Any) -> None:
    folder = model.committed.folder.parents[1]
    raw = seedfast.load(folder, step=3, weights="raw", device="cpu")
    assert (raw.committed.step, raw.weights) == (3, "raw")
    assert "raw weights, step 3" in repr(raw)
    assert "<code>" in raw._repr_html_()
    with pytest.raises(UserError, match="step"):
        seedfast.load(folder, step=4)
    with pytest.raises(UserError, match="no folder"):
        seedfast.load(folder / "nowhere")


def test_the_journal_is_a_table(model: Any) -> None:
    table = seedfast.journal(model.committed.folder.parents[1])
    assert list(table["step"]) == sorted(table["step"])
    assert np.isfinite(table["training/loss"]).sum() == 6
    assert np.isfinite(table["validation/raw/loss"]).sum() == 2
    assert "<table>" in table._repr_html_()
    with pytest.raises(UserError, match="There is no folder nowhere"):
        seedfast.journal("nowhere")
