"""Run folders of earlier versions resume, evaluate and sample with the same results as in their own version."""

import json
import shutil
from pathlib import Path

import pytest
from tests.run_folder.golden import GOLDEN, MADE_IN, RUNS, TRAINED, seen

EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_run_resumes_with_the_same_results(name: str, tmp_path: Path) -> None:
    expected, before = EXPECTED[name], (GOLDEN / name / "journal.jsonl").read_bytes()
    shutil.copytree(GOLDEN / name, tmp_path / "run")
    found = seen(name, tmp_path / "run", tmp_path)
    assert (tmp_path / "run/journal.jsonl").read_bytes().startswith(before), "earlier lines are unchanged"
    for key in ("steps", "validation"):
        assert [step for step, _ in found[key]] == [step for step, _ in expected[key]]
        assert [loss for _, loss in found[key]] == pytest.approx([loss for _, loss in expected[key]], rel=1e-4)
    assert found["evaluation"] == pytest.approx(expected["evaluation"], rel=1e-4)
    if name == "image-diffusion":  # pixels are rounded
        assert found["sample"] == pytest.approx(expected["sample"], abs=2)
    else:
        assert found["sample"] == expected["sample"]


@pytest.mark.parametrize("name", RUNS)
def test_a_golden_folder_is_small_whole_and_of_no_machine(name: str) -> None:
    files = [path for path in (GOLDEN / name).rglob("*") if path.is_file()]
    assert json.loads((GOLDEN / name / "latest.json").read_text())["step"] == TRAINED
    assert sum(path.stat().st_size for path in files) < 200_000
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".yaml", ".safetensors"}, "nothing is pickled"
    for path in files:
        content = path.read_bytes().replace(f"{MADE_IN}/".encode(), b"")
        assert not any(place in content for place in (b"/home/", b"/root/", b"/work/", b"/tmp/")), path
