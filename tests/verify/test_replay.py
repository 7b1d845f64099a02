"""One step of a run is computed again: every bit is that of the journal, and the rows explain its loss."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from tests.helpers.cli import Run as Command
from tests.helpers.past import STEPS, book, edit_step, past, tiny
from tests.helpers.runs import train_in

import seedfast as package
from seedfast.errors import UserError
from seedfast.verify.replay import replay


@pytest.fixture(scope="module")
def text(random_words: Path) -> Path:
    return random_words


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight steps, of several micro-batches each."""
    folder = tmp_path_factory.mktemp("replay") / "run"
    train_in(folder, tiny(text, micro_batch=4))
    return folder


def contents(folder: Path) -> dict[str, str]:
    """The hash and the time of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}" for path in files}


def test_every_step_is_identical_and_nothing_is_written(run: Path) -> None:
    before = contents(run)
    found = [replay(past(run), step) for step in range(1, STEPS + 1)]
    assert {each.verdict for each in found} == {"identical"}
    assert [each.start for each in found] == [0, 0, 2, 2, 4, 4, 6, 6]
    assert contents(run) == before


def test_a_step_without_a_checkpoint_before_it_is_computed_from_the_seed(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for step in (0, 2, 4, 6):
        shutil.rmtree(copy / f"checkpoints/step-{step:08}")
    assert replay(past(copy), 5).verdict == "identical"


def test_twin_an_edited_loss_is_different(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    edit_step(copy, 5, loss=past(run).steps[5]["loss"] * (1 + 1e-15))
    assert replay(past(copy), 5).verdict == "different"
    assert replay(past(copy), 6).verdict == "identical"


def test_the_rows_are_the_examples_of_the_step_and_their_weighted_mean_is_its_loss(run: Path, text: Path) -> None:
    found = replay(past(run), 5, rows=True)
    losses = [row.loss for row in found.rows if row.loss is not None]
    assert losses == sorted(losses, reverse=True)
    assert sum(row.share for row in found.rows) == pytest.approx(1)
    mean = sum(loss * row.weight for loss, row in zip(losses, found.rows, strict=True))
    assert mean / sum(row.weight for row in found.rows) == pytest.approx(found.recorded["loss"], rel=1e-6)
    assert all(row.shows.replace("⏎", "\n").strip("¶") in text.read_text() for row in found.rows)
    assert found.verdict == "identical", "looking at the rows changes nothing"


def test_the_plateau_schedule_is_followed_across_validations(text: Path, tmp_path: Path) -> None:
    from seedfast.optim.lr_schedule import Schedule
    from seedfast.optim.optimizer import OptimizerConfig

    schedule = Schedule(shape="plateau", patience=0)
    run = tiny(text, schedule=schedule, optimizer=OptimizerConfig(lr=0.5), eval_every=1, save_every=8, clip=None)
    train_in(tmp_path / "run", run)
    for checkpoint in (tmp_path / "run/checkpoints").glob("step-*"):
        if checkpoint.name != "step-00000008":
            shutil.rmtree(checkpoint)
    steps = past(tmp_path / "run").steps
    assert steps[8]["lr"] != steps[1]["lr"]
    assert replay(past(tmp_path / "run"), 8).verdict == "identical"


def test_options_that_a_session_changed_hold_from_then_on(text: Path, tmp_path: Path) -> None:
    train_in(tmp_path / "run", tiny(text, steps=4, keep=99))
    train_in(tmp_path / "run", tiny(text, steps=STEPS, micro_batch=2))
    found = [replay(past(tmp_path / "run"), step).verdict for step in range(1, STEPS + 1)]
    assert found == ["identical"] * STEPS


@pytest.mark.parametrize("recipe", ["image-diffusion", "image-caption"])
def test_rows_of_images_have_their_pixels(recipe: str, story: Path, tmp_path: Path, seedfast: Command) -> None:
    train_in(tmp_path / "run", tiny(story, recipe, steps=2, sample_every=0))
    status, out, _ = seedfast(
        "replay", tmp_path / "run", "--step", 2, "--rows", "--json", "--pictures", tmp_path / "x.png"
    )
    found = json.loads(out)
    assert status == 0
    assert found["verdict"] == "identical"
    assert len(found["rows"]) == 6
    assert all(row["size"] and row["shows"] for row in found["rows"])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_both_numbers_and_exits_with_1_for_a_difference(
    run: Path, tmp_path: Path, seedfast: Command
) -> None:
    status, out, _ = seedfast("replay", run, "--step", 3, "--rows")
    assert status == 0
    assert "identical to the last bit" in out
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    edit_step(copy, 3, loss=1.0)
    status, out, _ = seedfast("replay", copy, "--step", 3)
    assert status == 1
    assert "DIFFERENT" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--step", "9"], "no step 9: it has the steps 1 to 8"),
        (["--step", "0"], "no step 0"),
        (["--step", "1", "--pictures", "x.png"], "pass --rows too"),
        (["--step", "1", "--rows", "--pictures", "x.png"], "have no images"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], sentence: str, run: Path, seedfast: Command) -> None:
    status, _, error = seedfast("replay", run, *words)
    assert status == 2
    assert sentence in error.strip().splitlines()[-1]


def test_data_that_has_changed_is_refused(tmp_path: Path) -> None:
    text = book(tmp_path / "book.txt")
    train_in(tmp_path / "run", tiny(text, steps=2))
    text.write_text(text.read_text().replace("cat", "owl"))
    with pytest.raises(UserError, match=r"not what .* was trained on"):
        replay(past(tmp_path / "run"), 1)


@pytest.mark.parametrize(
    "line", ['{"step": 1, "loss": "x"}', '{"step": 1, "validation": {"raw": 3}}', '{"step": 1, "loss": 1}']
)
def test_a_journal_of_a_stranger_is_checked(line: str, run: Path, tmp_path: Path, seedfast: Command) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "journal.jsonl").write_text(line + "\n")
    status, _, error = seedfast("replay", copy, "--step", 1)
    assert status == 2
    assert "restore it" in error


def test_python_has_it_too(run: Path) -> None:
    assert package.replay(run, 4, rows=True).rows[0].loss is not None
