"""The text before a window as its prompt: never of the target, never of another document."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.text_data import Writer

from seedfast import recipes
from seedfast.data.text.config import TextData
from seedfast.data.text.windows import Windows
from seedfast.errors import UserError
from seedfast.families.text.autoregressive import Autoregressive

END = 99


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    context=st.integers(1, 6),
    prompt=st.integers(1, 8),
)
def test_a_prompt_is_what_stands_before_the_targets_in_their_document(
    sizes: list[int], context: int, prompt: int
) -> None:
    stream = [END]
    for document, size in enumerate(sizes):
        stream += [*range(10 * (document % 9), 10 * (document % 9) + size), END]
    if len(stream) - 1 < context:
        return
    windows = Windows(np.array(stream, np.uint16), context, prompt=prompt, end_of_text=END)
    batch = windows.batch(list(range(len(windows))))
    for row in range(len(windows)):
        start = min(row * context, len(stream) - 1 - context) + 1  # where the targets begin
        assert batch["tokens"][row, 1:].tolist() == stream[start : start + context]
        begin = max(index for index in range(start) if stream[index] == END) + 1
        expected = stream[max(begin, start - prompt) : start]
        assert batch["prompt"][row][batch["prompt_real"][row]].tolist() == expected
        assert batch["prompt_real"][row].tolist() == [False] * (prompt - len(expected)) + [True] * len(expected)


def test_twin_a_prompt_that_crosses_documents_is_seen() -> None:
    stream = np.array([END, 1, 2, END, 3, 4, 5], np.uint16)
    right, twin = (Windows(stream, 2, prompt=3, end_of_text=end).batch([2]) for end in (END, -1))
    assert right["prompt"][right["prompt_real"]].tolist() == [3]
    assert twin["prompt"][twin["prompt_real"]].tolist() == [2, END, 3]


def test_without_prompts_nothing_is_added() -> None:
    windows = Windows(np.arange(9, dtype=np.uint16), 4)
    assert set(windows.batch([0])) == {"tokens", "scored"}


def test_families_without_prompts_refuse_them(write: Writer) -> None:
    folder = write({f"{n}.txt": "abc " * 30 for n in range(4)})
    corpus = TextData(path=str(folder), tokenizer="bytes", context=8, prompt=4).load()
    assert corpus.assets.prompt == 4
    with pytest.raises(UserError, match=r"data\.prompt=4"):
        Autoregressive().build(corpus.assets)
    recipes.make("text-embedding").objective.build(corpus.assets)
    with pytest.raises(UserError, match=r"data\.prompt must be at least 0, not -1"):
        TextData(path=str(folder), prompt=-1).load()


def test_assets_of_before_there_were_prompts_are_read(write: Writer, tmp_path: Path) -> None:
    from seedfast.data.text.config import TextAssets

    folder = write({f"{n}.txt": "abc " * 30 for n in range(4)})
    assets = TextData(path=str(folder), tokenizer="bytes", context=8).load().assets
    (tmp_path / "assets").mkdir()
    assets.save(tmp_path / "assets")
    text = (tmp_path / "assets/text.json").read_text().replace('"prompt": 0,', "").replace('"prompt": 0', "")
    (tmp_path / "assets/text.json").write_text(text.replace(",\n}", "\n}"))
    assert TextAssets.load(tmp_path / "assets") == assets


@pytest.mark.parametrize("ending", ["py", "js", "ts", "go", "java", "cs", "cpp", "c"])
def test_code_mode_takes_every_usual_ending_from_any_depth(ending: str, write: Writer) -> None:
    folder = write({f"a/b/{n}.{ending}": "x = 1;\n" * 20 for n in range(4)} | {"notes.txt": "prose " * 50})
    corpus = TextData(path=str(folder), tokenizer="bytes", context=8, mode="code").load()
    assert sum(side["documents"] for side in corpus.splits.values()) == 4
    assert torch.equal(corpus.train.batch([0])["tokens"][0, :4], torch.tensor([256, *b"x ="]))
