"""What the studio answers, to whom, and what it refuses."""

import hashlib
import json
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image
from tests.helpers import run_folders
from tests.helpers.cli import Run
from tests.helpers.studio import Running, studio_of

from seedfast.report.animation.palette import AGES, CONFIDENCE, PROBABILITIES, STEPS

VENDOR = {
    "htm-3.1.1.js": "7a31776e04bd4afde0d4308177d26f377716fcf7e4bd70be590746d6aa594f08",
    "preact-10.29.8.js": "aa558e32247d4ccea18c5addbb0311bc1771bf39734185be01dc0c3c4cf3fd6d",
    "preact-hooks-10.29.8.js": "5c29238e5dc99df306d7f7fff038591a397cfcfabb59f81fbdef43d670aa0566",
    "uplot-1.6.32.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uplot-1.6.32.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
}
"""The SHA-256 of each library of the page, as its package in the npm registry has it."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for name, clip in (("a", 1.0), ("b", 2.0)):
        folder = run_folders.make(root / name, [run_folders.step(n, 3.0 + 1 / n) for n in range(1, 9)])
        (folder / "run.yaml").write_text(f"recipe: some-recipe\nsteps: 8\nclip: {clip}\nmodel:\n  width: 16\n")
        place = folder / "samples/step-00000008"
        place.mkdir(parents=True)
        (place / "samples.txt").write_text(f"<script>alert(1)</script> of {name}")
        (place / "page.html").write_text("<script>alert(1)</script>")
        Image.new("L", (4, 4)).save(place / "grid.png")
    return root


@pytest.fixture(scope="module")
def studio(runs: Path) -> Iterator[Running]:
    with studio_of(runs, max_body=1 << 16) as running:
        yield running


def test_runs_are_listed_with_their_state(studio: Running, runs: Path) -> None:
    found = studio.get("api/runs")
    assert [(run["path"], run["step"], run["steps"], run["state"]) for run in found] == [
        (str(runs / name), 8, 8, "not finished") for name in "ab"
    ]


def test_curves_of_several_runs_are_compared_and_not_sent_twice(studio: Running, runs: Path) -> None:
    a, b = (studio.id(runs / name) for name in "ab")
    path = f"api/curves?run={a}&run={b}&name=training/loss&points=4"
    _, content, headers = studio.ask(path)
    found = json.loads(content)
    assert "training/loss" in found["names"]
    assert found["curves"][a]["high"][0] == 4.0
    assert found["curves"][a] == found["curves"][b]
    assert studio.ask(path, If_None_Match=headers["ETag"])[0] == 304
    with studio_of(runs) as another:
        assert another.ask(path, If_None_Match=headers["ETag"])[0] == 200, "browsers remember across studios"
    with (runs / "a/journal.jsonl").open("a") as file:
        file.write(json.dumps(run_folders.step(9, 1.0)) + "\n")
    assert studio.ask(path, If_None_Match=headers["ETag"])[0] == 200
    assert min(studio.get(path)["curves"][a]["low"]) == 1.0


def test_settings_that_differ_are_marked(studio: Running, runs: Path) -> None:
    a, b = (studio.id(runs / name) for name in "ab")
    rows = {row["name"]: row for row in studio.get(f"api/settings?run={a}&run={b}")["rows"]}
    assert rows["clip"] == {"name": "clip", "values": ["1.0", "2.0"], "differs": True}
    assert not rows["model.width"]["differs"]


@pytest.mark.parametrize("content", ["steps: [oops\n", "- 1\n", "", None])
def test_damaged_settings_take_no_others_with_them(tmp_path: Path, content: str | None) -> None:
    for name in "abc":
        run_folders.make(tmp_path / name, [run_folders.step(1)], steps=8 if name == "a" else 9)
    with studio_of(tmp_path) as studio:
        ids = [studio.id(tmp_path / name) for name in "bac"]
        path = tmp_path / "b/run.yaml"
        path.unlink() if content is None else path.write_text(content)
        found = studio.get("api/settings?" + "&".join(f"run={id}" for id in ids))
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["steps"] == {"name": "steps", "values": [None, "8", "9"], "differs": True}
    assert not rows["clip"]["differs"], "what is unknown does not differ"
    assert found["problems"][0].startswith("run.yaml cannot be read (")
    assert found["problems"][1:] == [None, None]


def test_samples_are_sent_as_data_and_never_as_a_page(studio: Running, runs: Path) -> None:
    a = studio.id(runs / "a")
    (found,) = studio.get(f"api/runs/{a}/samples")
    assert found["files"] == ["samples/step-00000008/grid.png", "samples/step-00000008/samples.txt"]
    status, content, headers = studio.ask(f"api/runs/{a}/files/{found['files'][1]}")
    assert (status, content) == (200, b"<script>alert(1)</script> of a")
    assert headers["Content-Type"].startswith("text/plain")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "name",
    [
        "run.yaml", "samples/step-00000008/page.html", "samples/../run.yaml", "samples/%2e%2e/%2e%2e/secret.txt",
        "samples/link.txt", "samples/step-00000008", "%2Fetc%2Fpasswd", "samples//etc/passwd", "samples/pipe.txt",
    ],
)  # fmt: skip
def test_no_other_file_is_sent(studio: Running, runs: Path, name: str) -> None:
    (runs / "secret.txt").write_text("secret")
    for path, make in (("link.txt", lambda p: p.symlink_to(runs / "secret.txt")), ("pipe.txt", os.mkfifo)):
        if not os.path.lexists(runs / "a/samples" / path):
            make(runs / "a/samples" / path)
    status, content, _ = studio.ask(f"api/runs/{studio.id(runs / 'a')}/files/{name}")
    assert status == 404
    assert b"secret" not in content.replace(b"secret.txt", b"")


def test_a_link_out_of_the_run_folder_is_not_listed(studio: Running, runs: Path) -> None:
    outside = runs.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "private.txt").write_text("secret")
    link = runs / "b/samples/step-00000009"
    if not link.is_symlink():
        link.symlink_to(outside)
    assert [each["name"] for each in studio.get(f"api/runs/{studio.id(runs / 'b')}/samples")] == ["step-00000008"]


def test_names_that_are_no_texts_break_nothing(tmp_path: Path) -> None:
    half = "\ud800"
    folder = run_folders.make(tmp_path / "run\udcff", [run_folders.step(1, diagnostics={half: 1.0})])
    place = folder / "samples/step-1"
    place.mkdir(parents=True)
    for name in ("good.txt", "bad\udcff.txt"):
        (place / name).touch()
    with studio_of(tmp_path) as studio:
        (run,) = studio.get("api/runs")
        assert run["path"] == str(folder)
        assert studio.get(f"api/runs/{run['id']}/samples")[0]["files"] == ["samples/step-1/good.txt"]
        names = studio.get(f"api/curves?run={run['id']}&name=training/loss")["names"]
        assert "training/loss" in names
        assert not any(half in name for name in names)


def test_a_run_is_named_by_its_id_alone(studio: Running, runs: Path) -> None:
    for run in ("nothing", "..%2f", str(runs).replace("/", "%2F")):
        assert studio.ask(f"api/runs/{run}/samples")[0] == 404
    assert studio.ask("api/curves?run=nothing&name=x")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:8400"}, 200),
        ({"Host": "attacker.example"}, 403),  # DNS rebinding
        ({"Host": "127.0.0.1.attacker.example"}, 403),
        ({"Host": ""}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_only_its_own_page_may_ask(studio: Running, headers: dict[str, str], status: int) -> None:
    assert studio.ask("api/runs", **headers)[0] == status


def test_bodies_are_json_and_bounded(studio: Running, runs: Path) -> None:
    path = f"api/runs/{studio.id(runs / 'a')}/sample"
    assert studio.ask(path, {}, Content_Type="text/plain")[0] == 415
    assert studio.ask(path, b"{")[0] == 400
    assert studio.ask(path, b"[]")[0] == 400
    assert studio.ask(path, b"[" * 60_000)[0] == 400
    assert studio.ask(path, {"text": "x" * (1 << 17)})[0] == 413
    assert studio.ask(path)[0] == 405, "nothing is sampled by GET"
    assert studio.ask("api/curves?points=1e9")[0] == 400
    assert studio.ask("api/curves?smoothing=nan")[0] == 400


def test_a_run_without_a_model_is_answered_with_a_sentence(studio: Running, runs: Path) -> None:
    (line,) = studio.lines(f"api/runs/{studio.id(runs / 'a')}/model", {})
    assert "checkpoint" in line["error"]


def test_the_page_loads_nothing_from_elsewhere(studio: Running) -> None:
    status, content, headers = studio.ask("")
    assert status == 200
    assert b"http" not in content
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert studio.ask("static/..%2f..%2fapp.py")[0] == 404


def test_the_libraries_of_the_page_are_the_published_ones_with_their_licences() -> None:
    folder = files("seedfast.studio") / "static/vendor"
    found = {each.name: each.read_bytes() for each in folder.iterdir()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    assert {name: digest for name, digest in digests.items() if not name.endswith(".LICENSE")} == VENDOR
    assert {name.split(".")[0] for name in found if name.endswith(".LICENSE")} == {"preact", "htm", "uplot"}


def test_the_page_has_the_colours_of_the_palette() -> None:
    script = (files("seedfast.report.animation") / "film.js").read_text()
    assert f"PROBABILITIES = [{', '.join(map(str, PROBABILITIES))}]" in script
    assert f"STEPS = [{', '.join(map(str, STEPS))}]" in script
    player = (files("seedfast.studio") / "static/player.js").read_text()
    for tints in (CONFIDENCE, AGES):
        assert json.dumps([tint.name for tint in tints]) in player


def test_the_command_names_what_is_wrong(seedfast: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, err = seedfast("studio", tmp_path / "nothing")
    assert (status, "There is no folder" in err) == (2, True)
    status, _, err = seedfast("studio", tmp_path, "--port", "70000")
    assert (status, "port" in err) == (2, True)
    monkeypatch.setattr("seedfast.cli.studio.find_spec", lambda name: None if name == "uvicorn" else name)
    status, _, err = seedfast("studio", tmp_path)
    assert (status, "pip install 'seedfast[studio]'" in err) == (2, True)
