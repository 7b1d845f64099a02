"""The page about the past of a run: its commands run one after the other, and so does its Python."""

import re
import shlex
from pathlib import Path

import pytest
from tests.helpers.cli import Run as Command
from tests.helpers.past import book

PAGE = Path(__file__).parents[2] / "docs/replay.md"


def test_the_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seedfast: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    book(tmp_path / "book.txt")
    seen = []
    for kind, block in re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if kind == "python":
            exec(block, {})
            assert "identical" in capsys.readouterr().out
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith("seedfast "):
                continue
            words = shlex.split(line)[1:]
            words += ["--no-report"] if words[0] == "train" else []
            status, out, error = seedfast(*words)
            assert status == (1 if words[0] == "diff" else 0), f"{line}: {out} {error}"
            seen.append(words[0])
    assert seen == ["train", "replay", "replay", "train", "train", "diff", "verify", "verify"]
