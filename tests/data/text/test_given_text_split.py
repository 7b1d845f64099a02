"""A folder whose files or folders have the names of splits has its own split, and a test split is never trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.text_data import Writer, texts

from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextCorpus
from seedfast.errors import UserError

TEXTS = {split: [f"text {n} of {split}\n" for n in range(6)] for split in ("train", "val", "test")}


def load(path: Path, **options: Any) -> TextCorpus:
    return TextData(**{"path": str(path), "tokenizer": "bytes", "context": 8, **options}).load()


def sides(corpus: TextCorpus) -> tuple[list[str], list[str]]:
    return sorted(texts(corpus, corpus.train)), sorted(texts(corpus, corpus.validation))


def lines(rows: list[str]) -> str:
    return "".join(json.dumps({"text": row}) + "\n" for row in rows)


def table(rows: list[str]) -> str:
    return "text,n\n" + "".join(f'"{row}",{n}\n' for n, row in enumerate(rows))


LAYOUTS: dict[str, Callable[[str, list[str]], dict[str, str]]] = {
    "rows": lambda split, rows: {f"{split}.jsonl": lines(rows)},
    "tables": lambda split, rows: {f"{split}.csv": table(rows)},
    "shards": lambda split, rows: {f"data/{split}-0000{n}-of-00002.jsonl": lines(rows[n::2]) for n in range(2)},
    "older shards": lambda split, rows: {f"data/{split}-00000-of-00001-a09b74b3ef9c3b56.json": lines(rows)},
    "names with the split last": lambda split, rows: {f"ptb.{split}.csv": table(rows)},
    "folders": lambda split, rows: {f"{split}/{n}.txt": row for n, row in enumerate(rows)},
    "folders of rows": lambda split, rows: {f"set/{split.upper()}/part.ndjson": lines(rows)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_of_files_or_folders_give_the_split(layout: str, write: Writer, capsys: Any) -> None:
    about = {"README.md": "about the data " * 20}
    folder = write(about | {k: v for split in TEXTS for k, v in LAYOUTS[layout](split, TEXTS[split]).items()})
    for _ in range(2):  # prepared, then from the cache
        corpus = load(folder)
        assert sides(corpus) == (TEXTS["train"], TEXTS["val"])
        said = capsys.readouterr().err
        assert f"{folder} has its own split: 6 documents train, 6 validate." in said
        assert "(a test split, which is never trained on)" in said
    with pytest.raises(UserError, match=r"data\.validation \(0\.3\) has no effect, because .* has its own split"):
        load(folder, validation=0.3)


def test_test_data_validates_where_nothing_else_does(write: Writer) -> None:
    folder = write({f"{split}.txt": "".join(TEXTS[split]) for split in ("train", "test")})
    assert sides(load(folder)) == (["".join(TEXTS["train"])], ["".join(TEXTS["test"])])


def test_dialogues_are_split_by_their_files(write: Writer, tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"{n}+1=", "completion": f"{n + 1}"}) + "\n" for n in range(12)]
    folder = write({"train.jsonl": "".join(rows[:9]), "validation.jsonl": "".join(rows[9:])})
    corpus = load(folder, context=24)
    assert [corpus.splits[name]["documents"] for name in ("train", "validation")] == [9, 3]
    (tmp_path / "more.jsonl").write_text("".join(rows).replace("+1=", "+0="))
    joined = load(folder, also=(str(tmp_path / "more.jsonl"),), context=24)
    assert joined.splits["train"]["documents"] + joined.splits["validation"]["documents"] == 24
    assert joined.splits["validation"]["documents"] > 3, "data without a split of its own is split as alone"


def test_texts_in_both_splits_are_reported(write: Writer, capsys: Any) -> None:
    load(write({"train.jsonl": lines(TEXTS["train"]), "dev.jsonl": lines(TEXTS["train"][:2] + TEXTS["val"])}))
    assert "2 of the 8 that validate are copies of documents that train." in capsys.readouterr().err


def test_an_own_validation_split_may_be_too_short(write: Writer, capsys: Any) -> None:
    corpus = load(write({"train.txt": "x" * 90, "val.txt": "y"}))
    assert len(corpus.validation) == 0
    assert "has no validation split, because its own validation split fills no window" in capsys.readouterr().err


NONE: dict[str, dict[str, str]] = {
    "code": {"train.py": "x = 1\n" * 20, "test.py": "x = 2\n" * 20},
    "documentation": {"train.md": "how to train", "test.md": "how to test", "model.md": "what it is " * 9},
    "training data alone": {"train/a.txt": "a " * 40, "train/b.txt": "b " * 40},
    "no training data": {"val.txt": "a " * 40, "test.txt": "b " * 40},
    "words that only begin so": {"trains.txt": "a " * 40, "tests.txt": "b " * 40},
    "words inside names": {"how-to-train-it.txt": "a " * 40, "how-to-test-it.txt": "b " * 40},
}


@pytest.mark.parametrize("case", NONE)
def test_other_files_have_no_split_of_their_own(case: str, write: Writer, capsys: Any) -> None:
    corpus = load(write(NONE[case]), validation=0.4)
    assert sum(side["documents"] for side in corpus.splits.values()) >= len(NONE[case])
    assert "its own split" not in capsys.readouterr().err
