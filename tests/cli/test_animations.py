"""`seedfast sample --trace` on a terminal, and the files of `--animate` and `--gif`."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from tests.helpers.cli import Run
from tests.helpers.runs import small_run, train_in

from seedfast.cli import sample as sample_command


@pytest.fixture(scope="module")
def masked(story: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked") / "run"
    train_in(folder, small_run("text-masked", story, steps=2))
    return folder


def frames_of(page: Path) -> Any:
    stored = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert stored
    return [film["frames"] for film in json.loads(stored[1])["films"]]


def test_texts_are_written_as_a_page_and_as_a_gif(masked: Path, seedfast: Run, tmp_path: Path) -> None:
    words = ["--prompt", "the ", "--tokens", "6", "--num", "2", "--seed", "3"]
    plain = seedfast("sample", masked, *words)[1]
    files = [tmp_path / "a.html", tmp_path / "a.gif"]
    status, out, _ = seedfast("sample", masked, *words, "--animate", files[0], "--gif", files[1])
    assert status == 0
    shown = out.splitlines()
    assert shown[-2:] == [str(file) for file in files]
    assert out.startswith(plain), "the frames are in the files only"
    assert [len(film) for film in frames_of(files[0])] == [7, 7]
    assert "6 open" in frames_of(files[0])[0][0]["status"]
    assert "seed 3" in files[0].read_text()
    assert Image.open(files[1]).n_frames >= 13  # type: ignore[attr-defined]


def test_images_are_written_as_a_page(story: Path, seedfast: Run, tmp_path: Path) -> None:
    train_in(tmp_path / "run", small_run("image-diffusion", story, steps=1))
    words = ["--num", "2", "--steps", "3", "--guidance", "2", "--out", tmp_path / "out"]
    status, _, err = seedfast("sample", tmp_path / "run", *words, "--animate", tmp_path / "a.html")
    assert status == 0, err
    (frames,) = frames_of(tmp_path / "a.html")
    assert [frame["status"] for frame in frames] == [f"step {n} · {2 * n} evaluations" for n in range(4)]
    assert all(frame["picture"].startswith("data:image/png;base64,") for frame in frames)
    assert not (tmp_path / "out/denoising.gif").exists(), "no file that was not asked for"


def test_mistakes_are_sentences(masked: Path, seedfast: Run, story: Path, tmp_path: Path) -> None:
    for flags, sentence in (
        (["--animate", "a.gif"], "--animate a.gif must end in .html"),
        (["--animate", "none/a.html"], "--animate none/a.html cannot be written: there is no folder none"),
        (["--gif", "a.png"], "--gif a.png must end in .gif"),
        (["--gif", "a.gif", "--beside", "raw"], "leave --beside out"),
    ):
        status, _, err = seedfast("sample", masked, *flags)
        assert (status, sentence in err) == (2, True), err
    train_in(tmp_path / "captions", small_run("image-caption", story, steps=1))
    status, _, err = seedfast("sample", tmp_path / "captions", "--animate", "a.html")
    assert (status, "leave --animate out" in err) == (2, True), err


@pytest.mark.parametrize("dumb", [False, True])
def test_on_a_terminal_a_trace_is_drawn_in_place(
    dumb: bool, masked: Path, seedfast: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    environment = {"TERM": "dumb" if dumb else "xterm"}
    console = Console(file=written, force_terminal=True, width=80, height=24, _environ=environment)
    monkeypatch.setattr(sample_command, "Console", lambda: console)
    words = ["--prompt", "the ", "--tokens", "5", "--num", "2", "--trace"]
    assert seedfast("sample", masked, *words)[0] == 0
    output = written.getvalue()
    assert ("\x1b[1A\x1b[2K" in output) != dumb
    assert ("step 1\n" in output) == dumb, "line by line where nothing can be drawn over"
