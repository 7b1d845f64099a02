"""`seedfast preview`: what a recipe asks of its network."""

from pathlib import Path

import pytest
from tests.helpers.cli import seedfast
from tests.helpers.runs import flags, small_run, train_in


def lines(shown: str, label: str) -> list[str]:
    return [line[8:] for line in shown.splitlines() if line.startswith(label)]


@pytest.mark.parametrize("recipe", ["text-autoregressive", "text-masked", "text-block", "text-proofreading"])
def test_source_input_and_target_stand_side_by_side(
    recipe: str, story: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seedfast("preview", recipe, "--samples", "3", *flags(small_run(recipe, story))) == 0
    shown = capsys.readouterr().out
    columns = [lines(shown, label) for label in ("SOURCE", "INPUT", "TARGET")]
    assert [len(column) for column in columns] == [3, 3, 3]
    for source, seen, asked in zip(*columns, strict=True):
        assert len(source) == 16
        assert source.replace("⏎", "\n") in story.read_text()
        if recipe == "text-masked":
            assert len(seen) == len(asked) == 16
            for word, glyph, answer in zip(source, seen, asked, strict=True):
                assert (glyph == "█") == (answer != "∅")
                assert word in (glyph, answer)
        if recipe == "text-proofreading":
            for word, glyph, answer in zip(source, seen, asked, strict=True):
                assert (answer == word) == (glyph in ("█", word))
                assert answer in (word, "✗")


def test_edits_show_their_glyphs_and_the_step_its_curriculum(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["preview", "text-proofreading", "--samples", "8", *flags(small_run("text-proofreading", story))]
    assert seedfast(*words, "--objective.version", "edit") == 0
    shown = capsys.readouterr().out
    assert all(glyph in shown for glyph in "█✗⊕⊖")
    assert seedfast(*words, "--step", "0") == 0
    assert "✗" not in capsys.readouterr().out, "at step 0 nothing is replaced yet"


def test_embedding_diffusion_shows_prompts_and_gaps_and_no_padding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "files").mkdir()
    for number in range(9):
        (tmp_path / f"files/{number}.txt").write_text("abcdefghij" * 2)
    (tmp_path / "files/other.txt").write_text("jihgfedcba" * 2)  # validates: copies stay on one side
    words = ["preview", "text-embedding", "--data", str(tmp_path / "files"), "--data.tokenizer", "characters"]
    words += ["--data.context", "8", "--data.prompt", "4", "--samples", "9"]
    assert seedfast(*words) == 0
    shown = capsys.readouterr().out
    columns = [lines(shown, label) for label in ("SOURCE", "INPUT", "TARGET")]
    windows = {"∅∅∅∅abcdefgh": "∅∅∅∅████████", "efghijabcdef": "efgh████████", "cdefghij¶": "cdef█████"}
    assert set(columns[0]) == set(windows)
    for source, seen, asked in zip(*columns, strict=True):
        assert seen == windows[source]
        assert asked == "∅∅∅∅" + source[4:]
    assert seedfast(*words, "--step", "0") == 0
    seen = lines(capsys.readouterr().out, "INPUT")
    assert any("█" not in line[4:] or set(line[4:]) != {"█"} for line in seen), "in training some text is given"


def test_a_run_folder_shows_its_own_task(story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_in(tmp_path / "run", small_run("text-masked", story, steps=2, eval_every=0))
    assert seedfast("preview", str(tmp_path / "run"), "--samples", "2") == 0
    assert len(lines(capsys.readouterr().out, "INPUT")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [(["text-maskd"], "did you mean text-masked"), (["text-masked", "--samples", "0"], "nothing to show"),
     (["text-masked", "--step", "-1"], "nothing to show"), (["text-masked", "--data", "nowhere.txt"], "nowhere.txt")],
)  # fmt: skip
def test_mistakes_are_one_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert seedfast("preview", *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
