"""The notebooks of the documentation run as they stand, cell after cell, and hold what they print."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs/notebooks"


def cells(name: str) -> list[dict[str, Any]]:
    """The code cells of a notebook."""
    found = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def run(name: str) -> tuple[dict[str, Any], list[Any]]:
    """The names that a notebook has defined at its end, and the values of the cells that show one."""
    names: dict[str, Any] = {}
    shown = []
    for cell in cells(name):
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), name, "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), name, "eval"), names))
    return names, [value for value in shown if value is not None]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a notebook changes the folder; this is undone afterwards
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    names, shown = run("text")
    assert names["losses"][-1] < names["losses"][0]
    assert all(text.startswith("the cat ") for text in shown[-2].texts)
    assert all(text.startswith("the cat ") and text.endswith(" the dog.") for text in shown[-1].texts)
    assert "≤" in capsys.readouterr().out


def test_images() -> None:
    names, shown = run("images")
    assert names["losses"][-1] < names["losses"][0]
    assert "network evaluations" in names["model"].decoding(num=12, label=("disc", "square"))
    assert len(shown[-1].files()) > 0


def test_exactness(capsys: pytest.CaptureFixture[str]) -> None:
    run("exactness")
    said = capsys.readouterr().out
    for sentence in ("exit status -9", "not finished", "weights equal: True", "no difference in 100", "identical"):
        assert sentence in said


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.ipynb")))
def test_outputs_are_stored_and_name_no_place_of_a_machine(name: str) -> None:
    outputs = json.dumps([cell["outputs"] for cell in cells(name)])
    assert any(cell["outputs"] for cell in cells(name))
    assert "/tmp/" not in outputs
    assert "Traceback" not in outputs
