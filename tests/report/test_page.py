"""The page shows the contents of the run folder: complete, correct, escaped, and at every stage of a run."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from tests.helpers.run_folders import STEPS, make, save, score, step, validation

from seedfast.errors import UserError
from seedfast.families.measure import Curve, Measure
from seedfast.report import history, page, plots
from seedfast.report.theme import LIGHT

NO_NUMBER = json.dumps(step(1, lr={"adamw": "fast"})) + "\n"
HOSTILE = "<script>alert('x')</script> & \"$\\frac{$ \x00 ü"


class Reader(HTMLParser):
    """The elements and the visible text of a page; fails for elements that are closed in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source"):
            self._open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag == "td":
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self._open:
            self.cells[-1][-1] += data
        if "style" not in self._open:
            self.words += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(folder: Path) -> Reader:
    return Reader(page.write(folder).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every kind of content, and hostile text wherever text is free."""
    folder = tmp_path_factory.mktemp("whole") / "run<b>"
    journal = [step(n, 4.0 - n / 4, diagnostics={HOSTILE: n / 10}) for n in range(1, STEPS + 1)]
    journal[3] = step(4, None, skipped=f"not finite {HOSTILE}")
    raw = score(2.5, bits_per_byte=1.25, diagnostics={"accuracy": 0.25, "at/1": 3.0, "at/2": 1.0})
    journal.insert(4, validation(4, raw=raw, ema=score(3.5, bits_per_byte=1.75)))
    journal.append(validation(8, raw=score(2.75, 0.0314, bits_per_byte=1.375), ema=score(2.25, bits_per_byte=1.125)))
    journal.append({"step": 8, "samples": [], "decoding": f"greedy {HOSTILE}"})
    make(folder, journal, recipe=HOSTILE.replace("\x00", ""))
    best = {"raw": (4, 2.5), "ema": (8, 2.25)}
    (folder / "best.json").write_text(json.dumps({k: {**score(loss), "step": at} for k, (at, loss) in best.items()}))
    save(folder, 4)
    curve = Curve(axis=HOSTILE, points={"at/1": 1.0, "at/2": 2.0})
    measure = Measure(curves={HOSTILE: curve}).as_json()
    save(folder, 8, versions={"torch": "9.9.9"}, topology={"device": HOSTILE}, fingerprint="f00d" * 16, measure=measure)
    resumed = {"event": "resumed", "time": "2026-01-02T03:04:05+0000", "version": "0.1.0", "step": 4}
    events = [{"event": "started", "steps": 4}, resumed | {"changes": {"steps": [4, 8]}}]
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '{"event": "half')
    for number, text in ((9, "older samples"), (10, HOSTILE)):
        (folder / "samples" / f"step-{number}").mkdir(parents=True)
        (folder / "samples" / f"step-{number}" / "samples.txt").write_text(text)
    (folder / "samples" / "step-10" / "grid.png").write_bytes(b"a picture")
    for name in ("grid.png", "strip.png"):
        (folder / "samples" / "step-9" / name).write_bytes(f"older {name}".encode())
    page.write(folder)
    return folder


@pytest.fixture(scope="module")
def shown(whole: Path) -> Reader:
    return Reader((whole / "report.html").read_text())


def test_free_text_is_escaped(shown: Reader) -> None:
    assert shown.named("script") == []
    assert shown.named("b") == []
    text = shown.words.replace("\x00", "\ufffd")
    assert text.count("<script>alert('x')</script> & \"$\\frac{$") >= 4  # title, heading, sample, device, reason
    assert not any(key.startswith("on") for _, attributes in shown.elements for key in attributes)


def test_the_table_has_the_best_and_the_last_validation_of_each_kind_of_weights(shown: Reader) -> None:
    rows = [row for row in shown.cells if row and row[0] in ("raw weights", "averaged weights")]
    assert rows == [
        ["raw weights", "best saved", "4", "2.500 ± 0.020", "1.250 ± 0.010", "32", "4"],
        ["raw weights", "last", "8", "2.750 ± 0.031", "1.375 ± 0.016", "32", "4"],
        ["averaged weights", "best saved", "8", "2.250 ± 0.020", "1.125 ± 0.010", "32", "4"],
        ["averaged weights", "last", "8", "2.250 ± 0.020", "1.125 ± 0.010", "32", "4"],
    ]


def test_state_progress_and_speed_are_at_the_top(shown: Reader) -> None:
    assert [s["class"] for s in shown.named("span") if "class" in s] == ["state finished"]
    assert shown.named("progress") == [{"value": "8", "max": "8"}]
    assert "Throughput400weight per second" in shown.words  # 100 in 0.25 s
    assert "Time in steps2 s" in shown.words
    assert "Skipped updates1" in shown.words


def test_provenance_comes_from_the_newest_checkpoint_and_the_events(shown: Reader) -> None:
    assert ["torch", "9.9.9"] in shown.cells
    assert ["data fingerprint", "f00d" * 16] in shown.cells
    assert ["2026-01-02 03:04:05+0000", "resumed", "step 4; steps: 4 → 8", "0.1.0"] in shown.cells
    assert ["", "started", "steps 4", ""] in shown.cells
    assert ["checkpoints/step-00000008", "latest, best averaged weights", "8", "2", "2 MB"] in shown.cells
    assert ["checkpoints/step-00000004", "best raw weights", "4", "2", "2 MB"] in shown.cells


def test_the_latest_samples_are_shown_and_earlier_texts_are_folded(shown: Reader) -> None:
    assert any(a.get("src") == "data:image/png;base64,YSBwaWN0dXJl" for a in shown.named("img"))
    places = [shown.words.index(part) for part in ("samples/step-10/samples.txt", "Earlier samples", "older samples")]
    assert places == sorted(places)
    assert [details for details in shown.named("details") if "open" not in details], "closed at first"


def test_the_page_says_how_the_samples_were_decoded(shown: Reader) -> None:
    assert "Decoding: greedy <script>" in shown.words


def test_earlier_pictures_are_shown_as_pictures(shown: Reader) -> None:
    sources = {a["alt"]: a["src"] for a in shown.named("img") if "samples" in a["alt"]}
    assert sources.keys() == {"samples/step-10/grid.png", "samples/step-9/grid.png"}, "of each earlier step one"
    assert base64.b64decode(sources["samples/step-9/grid.png"].partition(",")[2]) == b"older grid.png"


def test_an_evenly_spread_choice_of_many_earlier_samples_is_shown(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", [])
    for number in range(41):
        (folder / "samples" / f"step-{number:08d}").mkdir(parents=True)
        (folder / "samples" / f"step-{number:08d}" / "samples.txt").write_text(f"text of step {number}\n")
    numbers = re.findall(r"text of step (\d+)", read(folder).words)
    assert numbers == ["40", *(str(4 * index) for index in range(10))]


def test_the_configuration_is_the_exact_text_of_run_yaml(whole: Path, shown: Reader) -> None:
    assert (whole / "run.yaml").read_text() in shown.words


def test_the_page_is_self_contained_and_embeds_the_pictures_beside_it(whole: Path, shown: Reader) -> None:
    light = [image["src"] for image in shown.named("img") if "samples" not in image["alt"]]
    dark = [source["srcset"] for source in shown.named("source")]
    for names, uris in (("", light), ("-dark", dark)):
        pictures = [
            (whole / "report" / f"{n}{names}.png").read_bytes()
            for n in ("loss", "curves", "rate", "throughput", "diagnostics")
        ]
        assert uris == [f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in pictures]
    assert all(source["media"] == "(prefers-color-scheme: dark)" for source in shown.named("source"))
    assert not re.search(r"https?://|url\(|@import", (whole / "report.html").read_text())
    assert shown.named("link") == []


def test_the_plots_are_not_empty(whole: Path) -> None:
    for path in (whole / "report").iterdir():
        picture = matplotlib.image.imread(path)
        paper = picture[0, 0]
        assert picture.shape[1] == 1600
        assert (paper[:3].mean() < 0.2) == path.stem.endswith("-dark")
        assert np.abs(picture - paper).max(axis=2).mean() > 0.005, path.name  # more than the axes


def test_a_bound_is_not_called_perplexity(shown: Reader) -> None:
    assert "perplexity" not in shown.words.lower()


def test_the_same_folder_gives_the_same_page_and_no_other_file(whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    page.write(whole)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("journal", "words"), [
    ([], "No step has been taken yet."),
    ([step(1)], "interrupted after step 1"),
    ([step(n, None, skipped="overflow") for n in (1, 2, 3)], "Skipped updates33 overflow"),
    ([step(1), validation(1, raw=score(float("nan"), float("nan")))], "not finite"),
    ([step(1, -2.0), validation(1, other=score(0.0, float("nan")))], "other"),
])  # fmt: skip
def test_every_early_state_of_a_run_has_a_page(tmp_path: Path, journal: list[dict[str, object]], words: str) -> None:
    shown = read(make(tmp_path / "run", journal))
    assert words in shown.words
    assert ("There has been no validation yet." in shown.words) == (not any("validation" in e for e in journal))
    assert "No checkpoint has been committed yet." in shown.words


def test_an_incomplete_journal_line_is_skipped(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", [step(1), step(2)])
    with (folder / "journal.jsonl").open("a") as file:
        file.write(json.dumps(step(3))[:40])
    assert read(folder).named("progress") == [{"value": "2", "max": str(STEPS)}]


def test_a_run_is_running_while_the_process_that_locked_it_lives(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", [])
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process, host, state in (
        (os.getpid(), socket.gethostname(), "state running"),
        (dead.pid, socket.gethostname(), "state interrupted"),
        (os.getpid(), "elsewhere", "state interrupted"),
    ):
        (folder / "lock").write_text(f"process {process} on {host}")
        assert state in [span.get("class") for span in read(folder).named("span")]


def test_long_samples_are_truncated_with_a_note(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", [])
    (folder / "samples" / "step-1").mkdir(parents=True)
    (folder / "samples" / "step-1" / "samples.txt").write_bytes(b"\xff" + b"x" * 30_000)
    shown = read(folder)
    assert "x" * 19_999 + "\n\n[… truncated]" in shown.words


def test_a_damaged_manifest_is_named_and_everything_else_is_shown(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", [step(1)])
    save(folder, 1, versions={"torch": "1"})
    (save(folder, 2) / "manifest.json").write_text("{")
    shown = read(folder)
    assert ["checkpoints/step-00000002", "its manifest cannot be read", "2", "0", "?"] in shown.cells
    assert ["torch", "1"] in shown.cells


@pytest.mark.parametrize(("files", "words"), [
    (None, "There is no run folder"),
    ({}, "no run.yaml"),
    ({"run.yaml": "recipe: x\nsteps: 3\n"}, "no journal.jsonl"),
    ({"run.yaml": "just text"}, "not a run of seedfast"),
    ({"run.yaml": "a: [", "journal.jsonl": ""}, "cannot be read"),
    ({"run.yaml": "recipe: x\nsteps: 3\n", "journal.jsonl": "not json\n"}, "damaged"),
    ({"run.yaml": "recipe: x\nsteps: 3\n", "journal.jsonl": '{"other": 1}\n'}, "damaged"),
    ({"run.yaml": "recipe: x\nsteps: 3\n", "journal.jsonl": "[]\n"}, "damaged"),
    ({"run.yaml": "recipe: x\nsteps: 3\n", "journal.jsonl": NO_NUMBER}, "damaged.* 'fast' is not a number"),
    ({"run.yaml": "recipe: x\nsteps: 3\n", "journal.jsonl": "", "best.json": '{"raw": 1}'}, "best validations"),
])  # fmt: skip
def test_a_folder_that_is_not_a_run_is_refused_in_a_sentence(
    tmp_path: Path, files: dict[str, str] | None, words: str
) -> None:
    folder = tmp_path / "folder"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        page.write(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert not (folder / "report.html").exists()
    assert not (folder / "report").exists()


def test_importing_the_page_imports_neither_matplotlib_nor_torch() -> None:
    code = "import sys, seedfast.report.page; sys.exit(any(m in sys.modules for m in ('matplotlib', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_diagnostics_of_a_group_share_a_panel(tmp_path: Path) -> None:
    journal = [step(n, 3.0, diagnostics={"curriculum/a": n / 8, "curriculum/b": 1.0, "x": 2.0}) for n in range(1, 9)]
    journal.append(validation(8, raw=score(2.5, diagnostics={"x": 1.0})))
    make(tmp_path, journal)
    read_back, context = history.read(tmp_path), plots.PlotContext(title="t", clip=None, best={})
    drawn = plots.diagnostics(read_back, context, LIGHT)
    assert drawn is not None
    titles = {axes.get_title(loc="left"): axes for axes in drawn.axes}
    assert list(titles) == ["curriculum", "x"]
    assert {line.get_label() for line in titles["curriculum"].lines} == {"a", "b"}
    assert plots.left_out(read_back, context) == 0


@pytest.mark.parametrize(
    ("rates", "lines"),
    [
        ([{"adamw": 1.0, "muon": 3.0}, {"adamw": 2.0, "muon": 6.0}], {"adamw": [1.0, 2.0], "muon": [3.0, 6.0]}),
        ([{"adamw": 1.0}, {"adamw": 2.0}], {"adamw": [1.0, 2.0]}),
        ([1.0, 2.0], {"lr": [1.0, 2.0]}),
        ([5.0, {"adamw": 1.0, "muon": 3.0}], {"lr": [5.0], "adamw": [1.0], "muon": [3.0]}),
    ],
    ids=["two optimizers", "one optimizer", "version 0.1", "a resumed run of version 0.1"],
)
def test_each_optimizer_has_a_line_of_its_learning_rate(
    rates: list[object], lines: dict[str, list[float]], tmp_path: Path
) -> None:
    make(tmp_path, [step(number, lr=rate) for number, rate in enumerate(rates, start=1)])
    drawn = plots.rate(history.read(tmp_path), plots.PlotContext(title="t", clip=None, best={}), LIGHT)
    assert drawn is not None
    axes = drawn.axes[0]
    assert {str(line.get_label()): list(line.get_ydata()) for line in axes.lines} == lines
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == len(lines)
    assert (axes.get_legend() is not None) == (len(lines) > 1)
    assert axes.get_ylim()[1] > max(value for values in lines.values() for value in values)
