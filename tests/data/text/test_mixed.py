"""Mixtures of texts: one tokenizer, a split and an order for each source, one corpus."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seedfast import user_code
from seedfast.data.joined_dataset import JoinedDataset
from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextCorpus
from seedfast.errors import UserError


def rows(path: Path, word: str, count: int) -> Path:
    lines = [
        json.dumps({"text": f"{word} {number} is {word} number {number * 7 % 91}.", "other": "x"})
        for number in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows(tmp_path / "cats.jsonl", "cat", 120)
    rows(tmp_path / "dogs.jsonl", "dog", 60)
    return tmp_path


def load(folder: Path, text: str, **options: Any) -> TextCorpus:
    (folder / "mixture.yaml").write_text(text)
    given = {"tokenizer": "bytes", "context": 16} | options
    return TextData(path=str(folder / "mixture.yaml"), **given).load()


BOTH = "sources: {cats: {path: cats.jsonl, weight: 3}, dogs: {path: dogs.jsonl, weight: 1}}"


def text_of(corpus: TextCorpus, split: Any, ids: range) -> str:
    batch = split.batch(list(ids))
    return corpus.assets.tokenizer.decode(batch["tokens"][:, 1:][batch["scored"]].numpy())


def test_each_source_is_prepared_as_it_is_alone(folder: Path) -> None:
    corpus = load(folder, BOTH)
    assert isinstance(corpus.train, JoinedDataset)
    for part, name in enumerate(("cats", "dogs")):
        alone = TextData(path=str(folder / f"{name}.jsonl"), tokenizer="bytes", context=16).load()
        ids = list(corpus.train.ranges())[part]
        assert len(ids) == len(alone.train)
        assert text_of(corpus, corpus.train, ids) == text_of(alone, alone.train, range(len(alone.train)))
        ids = corpus.validation_sources[name]
        assert text_of(corpus, corpus.validation, ids) == text_of(alone, alone.validation, range(len(alone.validation)))


def test_the_stream_takes_the_sources_by_their_weights(folder: Path) -> None:
    corpus = load(folder, BOTH)
    cats = next(corpus.train.ranges())  # type: ignore[attr-defined]
    ids = corpus.order(seed=1, batch_size=8).ids(0, 400)
    assert abs(sum(each in cats for each in ids) - 300) <= 1


@pytest.mark.parametrize("tokenizer", ["bpe", "characters"])
def test_a_learned_tokenizer_knows_all_sources(tokenizer: str, folder: Path) -> None:
    corpus = load(folder, BOTH, tokenizer=tokenizer)
    tokens = corpus.assets.tokenizer
    assert tokens.decode(tokens.encode("cat dog")) == "cat dog"
    if tokenizer == "bpe":
        assert len(tokens.encode("cat")) == len(tokens.encode("dog")) < 3  # both were learned


def test_bits_per_byte_are_those_of_all_validation_texts(folder: Path) -> None:
    corpus = load(folder, BOTH)
    alone = [
        TextData(path=str(folder / f"{name}.jsonl"), tokenizer="bytes", context=16).load() for name in ("cats", "dogs")
    ]
    assert corpus.assets.validation_bytes == sum(each.assets.validation_bytes for each in alone)
    assert corpus.assets.validation_tokens == sum(each.assets.validation_tokens for each in alone)


def test_the_fingerprint_holds_the_sources_their_names_and_their_weights(folder: Path) -> None:
    first = load(folder, BOTH).fingerprint
    assert load(folder, "# the same\n" + BOTH).fingerprint.digest == first.digest
    assert load(folder, BOTH.replace("3", "6").replace("weight: 1", "weight: 2")).fingerprint.digest == first.digest
    others = [
        BOTH.replace("3", "2"),
        BOTH.replace("weight: 1", "weight: {0: 1, 9: 2}"),
        BOTH.replace("dogs:", "hounds:"),
    ]
    assert len({load(folder, text).fingerprint.digest for text in [BOTH, *others]}) == 4
    assert {"mixture.yaml", "cats: cats.jsonl", "dogs: dogs.jsonl"} == first.files.keys()


def test_a_source_has_options_of_its_own(folder: Path) -> None:
    corpus = load(folder, BOTH.replace("weight: 1", "weight: 1, field: other"))
    assert "x" in text_of(corpus, corpus.train, list(corpus.train.ranges())[1])  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"data\.field \(other\) has no effect, because .* is a mixture"):
        load(folder, BOTH, field="other")
    with pytest.raises(UserError, match="leave python out"):
        load(folder, BOTH, also=("python",))
    with pytest.raises(UserError, match=r"cats\.mode must be auto, text, code, not all"):
        load(folder, "sources: {cats: {path: ., mode: all}}")


def test_a_learned_tokenizer_depends_on_no_data_that_was_prepared_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files have other documents if another field holds the text."""
    lines = [json.dumps({"text": f"word {n} " * 9, "other": f"QXZ {n * n};" * 9}) for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    mixture = "sources: {one: {path: rows.jsonl, field: FIELD}}"

    def prepared(cache: str, field: str, *, by_shard: bool) -> str:
        monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / cache))
        if not by_shard:
            return load(tmp_path, mixture.replace("FIELD", field), tokenizer="bpe", vocabulary=270).fingerprint.digest
        data = TextData(path=str(tmp_path / "rows.jsonl"), field=field, by_shard=True, tokenizer="bpe", context=16)
        return data.load().fingerprint.digest

    for by_shard in (False, True):
        other = prepared("used", "other", by_shard=by_shard)
        assert prepared("new", "text", by_shard=by_shard) == prepared("used", "text", by_shard=by_shard) != other


def test_several_paths_are_one_source(folder: Path) -> None:
    corpus = load(folder, "sources: {pets: {path: [cats.jsonl, dogs.jsonl]}}")
    together = TextData(
        path=str(folder / "cats.jsonl"), also=(str(folder / "dogs.jsonl"),), tokenizer="bytes", context=16
    )
    assert len(corpus.train) == len(together.load().train)


def test_windows_of_one_document_are_padded_in_every_source(folder: Path) -> None:
    (folder / "one.txt").write_text("a single text. " * 40)
    corpus = load(folder, "sources: {one: {path: one.txt}, cats: {path: cats.jsonl}}", one_document_per_window=True)
    batch = corpus.train.batch([0, len(corpus.train) - 1])
    assert batch["real"].shape == (2, 16)


def test_texts_and_chats_are_not_mixed(folder: Path) -> None:
    pairs = [json.dumps({"prompt": f"say {n}", "completion": f"{n}"}) for n in range(30)]
    (folder / "pairs.jsonl").write_text("\n".join(pairs))
    with pytest.raises(UserError, match=r"mixes cats \(texts\), pairs \(chats\)"):
        load(folder, "sources: {cats: {path: cats.jsonl}, pairs: {path: pairs.jsonl}}")
    (folder / "more.jsonl").write_text("\n".join(line.replace("say", "write") for line in pairs))
    corpus = load(folder, "sources: {pairs: {path: pairs.jsonl}, more: {path: more.jsonl}}")
    assert corpus.introduction(1.0)[0].startswith("chats: 53 examples")


def test_a_source_that_is_missing_or_too_short_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl.* is neither a file nor a folder"):
        load(folder, "sources: {cats: {path: cats.jsonl}, missing: {path: none.jsonl}}")
    (folder / "short.txt").write_text("short")
    with pytest.raises(UserError, match=r"short\.txt has 5 tokens to predict"):
        load(folder, "sources: {cats: {path: cats.jsonl}, short: {path: short.txt}}")


def test_a_source_without_validation_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "short.txt").write_text("a short text of some forty characters.")
    corpus = load(folder, "sources: {cats: {path: cats.jsonl}, small: {path: short.txt}}")
    assert "The source small validates nothing" in capsys.readouterr().err
    assert list(corpus.validation_sources) == ["cats"]


def test_code_that_only_a_mixture_names_does_not_run_without_consent(folder: Path) -> None:
    (folder / "evil.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
        "def f(): yield from ('x' * 99, 'y' * 99, 'z' * 99)\n"
    )
    text = "sources: {cats: {path: cats.jsonl}, evil: {path: evil.py:f}}"
    with pytest.raises(UserError, match=r"mixture\.yaml names the Python file .*evil\.py.*--trust"):
        load(folder, text)
    assert not (folder / "ran").exists()
    with user_code.named_by(folder, trust=True):
        load(folder, text)
    assert (folder / "ran").exists()


class Numbers:
    """A dataset of the numbers from a first one on."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def batch(self, ids: list[int]) -> dict[str, torch.Tensor]:
        return {"n": torch.tensor([self.first + each for each in ids], dtype=torch.int64)}


def test_joined_datasets_keep_the_order_that_is_asked_for() -> None:
    joined = JoinedDataset([Numbers(0, 3), Numbers(3, 0), Numbers(3, 4), Numbers(7, 2)])
    asked = [8, 0, 3, 6, 2, 7, 3]
    assert len(joined) == 9
    assert joined.batch(asked)["n"].tolist() == asked
    assert joined.batch([])["n"].tolist() == []
    assert [list(each) for each in joined.ranges()] == [[0, 1, 2], [], [3, 4, 5, 6], [7, 8]]
    with pytest.raises(IndexError):
        joined.batch([9])
