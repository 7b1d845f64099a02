"""An image model from the command line, as a newcomer would use it: real commands, and mistakes."""

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.helpers.cli import seedfast
from tests.helpers.runs import flags, small_run, write_images


@pytest.fixture(scope="module")
def run(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    words = flags(small_run("image-diffusion", story, steps=4))
    assert seedfast("train", "image-diffusion", *words, "--out", str(folder)) == 0
    return folder


def test_sampling_writes_pictures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--num", "6", "--steps", "3", "--label", "few", "--label", "many", "--guidance", "2", "--strip", "3"]
    assert seedfast("sample", str(run), *words, "--gif", "--out", str(tmp_path / "out")) == 0
    assert "6 images of 8×8 pixels" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert {"grid.png", "strip.png", "denoising.gif", "sample_0000_few.png", "sample_0005_many.png"} <= set(names)
    first = (tmp_path / "out/sample_0000_few.png").read_bytes()
    assert seedfast("sample", str(run), *words, "--batch", "1", "--out", str(tmp_path / "again")) == 0
    assert Image.open(tmp_path / "again/sample_0000_few.png").size == (8, 8)
    assert (tmp_path / "out/sample_0000_few.png").read_bytes() == first


def test_no_file_of_other_samples_stays_beside_the_new_ones(run: Path, tmp_path: Path) -> None:
    out = ["--steps", "2", "--out", str(tmp_path)]
    for mine in ("notes.txt", "sample_0001_holiday.png"):
        (tmp_path / mine).write_text("mine")
    assert seedfast("sample", str(run), "--num", "3", "--label", "few", "--strip", "2", "--gif", *out) == 0
    assert seedfast("sample", str(run), "--num", "2", "--label", "none", *out) == 0
    names = sorted(path.name for path in tmp_path.glob("[!.]*"))
    assert names == ["grid.png", "notes.txt", "sample_0000.png", "sample_0001.png", "sample_0001_holiday.png"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own/grid.png").write_text("mine")
    assert seedfast("sample", str(run), "--num", "2", "--steps", "2", "--out", str(tmp_path / "own")) == 2
    assert (tmp_path / "own/grid.png").read_text() == "mine"


def test_fidelity_of_a_class_is_against_that_class(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for labels in ([], ["--label", "few"], ["--label", "many"]):
        words = ["--num", "8", "--steps", "2", "--json", *labels]
        assert seedfast("fidelity", str(run), *words) == 0
        found[" ".join(labels)] = json.loads(capsys.readouterr().out)["real"]
    assert found[""] == found["--label few"] + found["--label many"]
    assert found["--label few"] < found["--label many"]
    assert seedfast("fidelity", str(run), "--num", "8", "--image", "in.png") == 2
    assert "leave --image out" in capsys.readouterr().err


def test_sampling_from_a_picture(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "in.png"
    Image.new("RGB", (30, 20), "red").save(picture)
    words = ["--image", str(picture), "--strength", "0.3", "--num", "2", "--steps", "5", "--sampler", "dpm++2m"]
    assert seedfast("sample", str(run), *words, "--out", str(tmp_path / "out")) == 0
    assert (tmp_path / "out/sample_0001.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label", "cat"], 'no class "cat"; there are few, many'),
        (["--label", "none", "--guidance", "3"], "name one with --label"),
        (["--image", "nowhere.png"], "nowhere.png cannot be read"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--image", "{picture}", "--strength", "0.01", "--steps", "10"], "use more steps, or a larger strength"),
        (["--steps", "5000"], "1 to 1000 steps, not 5000"),
        (["--eta", "1", "--sampler", "heun"], "eta (1.0) has no effect without sampler ddim"),
    ],
    ids=str,
)
def test_a_mistake_is_one_sentence(
    run: Path, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "in.png")
    assert seedfast("sample", str(run), *(word.format(picture=tmp_path / "in.png") for word in words)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.splitlines()[-1].startswith("seedfast: "), "one sentence, after the line about the weights"
    assert len(said.splitlines()) <= 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.size", "30"], "the nearest that fit are 28 and 32"),
        (["--objective.process.prediction", "eps", "--objective.process.zero-terminal-snr", "True"], "x0 cannot be"),
        (["--data.path", "nowhere"], "neither a folder"),
    ],
    ids=str,
)
def test_a_run_that_cannot_be_is_refused_before_it_starts(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "in", bytes(range(200)) * 12)
    base = ["train", "image-diffusion", "--model.patch", "1", "--out", str(tmp_path / "run")]
    data = [] if "--data.path" in words else ["--data.path", str(tmp_path / "in")]
    assert seedfast(*base, *data, *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run/checkpoints").exists()


def test_two_kinds_of_weights_are_written_beside_each_other(run: Path, tmp_path: Path) -> None:
    words = ["--num", "2", "--steps", "2", "--beside", "raw", "--no-individual", "--out", str(tmp_path / "out")]
    assert seedfast("sample", str(run), *words) == 0
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert files == ["ema/grid.png", "raw/grid.png"]


def test_more_draws_are_taken_where_the_loss_is_an_estimate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("evaluate", str(run), "--json", "--draws", "5", "--only", "loss") == 0
    assert json.loads(capsys.readouterr().out)["draws"] == 5


def test_the_report_shows_the_error_at_each_noise_level(run: Path) -> None:
    assert seedfast("report", str(run)) == 0
    assert (run / "report/curves.png").exists()
    assert not (run / "report/diagnostics.png").exists(), "the points of the curve have no panels besides"


def test_a_picture_is_inpainted_and_seeds_are_interpolated(run: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 90).save(tmp_path / "x.png")
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 4, 8))
    mask.save(tmp_path / "mask.png")
    words = ["--num", "2", "--steps", "3", "--resample", "2", "--mask", str(tmp_path / "mask.png")]
    assert seedfast("sample", str(run), *words, "--inpaint", str(tmp_path / "x.png"), "--out", str(tmp_path / "a")) == 0
    with Image.open(tmp_path / "a/sample_0001.png") as found:
        assert [found.convert("L").getpixel((x, 3)) for x in range(4, 8)] == [90] * 4
    words = [
        "--num",
        "2",
        "--steps",
        "3",
        "--label",
        "none",
        "--to-seed",
        "2",
        "--frames",
        "3",
        "--gif",
        "--out",
        str(tmp_path / "b"),
    ]
    assert seedfast("sample", str(run), *words) == 0
    assert (tmp_path / "b/interpolation.gif").exists()
    words = ["--num", "2", "--steps", "3", "--label", "none", "--seed", "2", "--out", str(tmp_path / "c")]
    assert seedfast("sample", str(run), *words) == 0
    assert (tmp_path / "b/sample_0005.png").read_bytes() == (tmp_path / "c/sample_0001.png").read_bytes()
