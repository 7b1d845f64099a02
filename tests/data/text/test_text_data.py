"""From files to corpora: end-of-texts, the split, counts, assets and fingerprints."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.text_data import Writer, hub_folder, stream, texts

from seedfast import recipes
from seedfast.data.caption.config import CaptionData
from seedfast.data.dataset import describe_difference
from seedfast.data.fingerprint import hash_files, signature
from seedfast.data.image.config import ImageData
from seedfast.data.text import split as split_module
from seedfast.data.text import tokenizers
from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Bytes
from seedfast.errors import UserError
from seedfast.families.text.autoregressive import Autoregressive
from seedfast.loop.plain_config import from_mapping


@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "bpe"])
def test_every_document_is_in_one_split_between_end_of_texts(
    tokenizer: str, documents: dict[str, str], write: Writer
) -> None:
    vocabulary = {"vocabulary": 300} if tokenizer == "bpe" else {}
    corpus = TextData(path=str(write(documents)), tokenizer=tokenizer, context=16, **vocabulary).load()
    train, validation = texts(corpus, corpus.train), texts(corpus, corpus.validation)
    assert sorted(train + validation) == sorted(documents.values())
    in_order = [documents[name] for name in sorted(documents)]
    assert train == [text for text in in_order if text in train]
    sizes = {name: sum(len(text.encode()) for text in side) for name, side in
             {"train": train, "validation": validation}.items()}  # fmt: skip
    assert {name: facts["bytes"] for name, facts in corpus.splits.items()} == sizes
    assert {name: facts["documents"] for name, facts in corpus.splits.items()} == {
        "train": len(train),
        "validation": len(validation),
    }
    assert sizes["validation"] >= 0.1 * sum(sizes.values())
    assert sizes["validation"] < 0.2 * sum(sizes.values())
    assert corpus.assets.validation_bytes == sizes["validation"]
    assert corpus.assets.validation_tokens == len(stream(corpus.validation)) - 1
    assert corpus.skipped == ()


def test_one_file_is_cut_by_characters_and_has_no_final_end_of_text(write: Writer) -> None:
    text = "".join(f"{n}: 🌱é\n" for n in range(1003))
    corpus = TextData(path=str(write({"one.txt": text}) / "one.txt"), tokenizer="bytes", context=50).load()
    train, validation = stream(corpus.train), stream(corpus.validation)
    assert (train[0], validation[0]) == (256, 256)
    decode = corpus.assets.tokenizer.decode
    held_out = round(len(text) * 0.1)
    assert decode(train[1:]) == text[:-held_out]
    assert decode(validation[1:]) == text[-held_out:]


def test_long_documents_are_tokenised_in_pieces_as_if_whole(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "".join(f"The {n}th sentence, isn't it?\n\n  (No: {n * n}.)\t" for n in range(3000))
    folder = write({"a.txt": long, "b.txt": long[:9000]})
    whole = TextData(path=str(folder), vocabulary=400, context=9).load()
    monkeypatch.setattr("seedfast.data.text.tokenize._PIECE", 777)
    monkeypatch.setattr("seedfast.data.text.tokenize._BATCH", 5000)
    monkeypatch.setattr("seedfast.data.text.sources._BLOCK", 1009)
    monkeypatch.setattr("seedfast.data.text.tokenize._FORMAT", "in pieces")
    in_pieces = TextData(path=str(folder), vocabulary=400, context=9).load()
    assert in_pieces.fingerprint == whole.fingerprint
    end = whole.assets.tokenizer.end_of_text
    encode = whole.assets.tokenizer.encode
    sides = (stream(in_pieces.train), stream(in_pieces.validation))
    assert sorted(sides) == sorted([[end, *encode(long), end], [end, *encode(long[:9000]), end]])


def test_uniform_bytes_cost_exactly_eight_bits_each(write: Writer) -> None:
    text = "naïve café 🌱\n" * 400
    folder = write({"one.txt": text})
    one = TextData(path=str(folder / "one.txt"), tokenizer="bytes", context=20).load()
    nats_per_token = math.log(256)
    assert nats_per_token / math.log(2) * one.assets.tokens_per_byte == 8
    # Of documents, end-of-texts add tokens, but no bytes.
    folder = write({"two.txt": text})
    write({"one.txt": text.upper()})
    two = TextData(path=str(folder), tokenizer="bytes", context=20).load()
    assert two.assets.validation_tokens == len(text.encode()) + 1
    assert two.assets.validation_bytes == len(text.encode())


def test_the_split_is_reproducible_and_a_new_file_moves_few_documents(
    documents: dict[str, str], write: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = TextData(path=str(write(documents)), tokenizer="bytes", context=16)
    before = data.load()
    monkeypatch.setenv("SEEDFAST_CACHE", str(tmp_path / "another"))
    again = data.load()
    assert again.fingerprint == before.fingerprint
    write({"new.txt": "new " * 5})
    after = data.load()
    moved = set(texts(before, before.validation)) ^ set(texts(after, after.validation))
    assert len(moved) <= 2
    assert "new.txt" in describe_difference(before.fingerprint, after.fingerprint)


def test_the_split_is_pinned(documents: dict[str, str], write: Writer) -> None:
    """A change of the rule would move documents of old runs from training to validation."""
    corpus = TextData(path=str(write(documents)), tokenizer="bytes", context=16).load()
    names = {text: Path(name).stem for name, text in documents.items()}
    assert [names[text] for text in texts(corpus, corpus.validation)] == ["doc36", "doc05", "doc11", "doc29"]


def test_a_larger_validation_split_contains_the_smaller(documents: dict[str, str], write: Writer) -> None:
    folder = str(write(documents))
    small, large = (TextData(path=folder, tokenizer="bytes", context=16, validation=part).load() for part in (0.1, 0.5))
    assert set(texts(small, small.validation)) < set(texts(large, large.validation))
    assert large.splits["validation"]["bytes"] >= 0.5 * (
        small.splits["train"]["bytes"] + small.splits["validation"]["bytes"]
    )


def test_each_split_has_at_least_one_document(write: Writer) -> None:
    folder = write({"a.txt": "a" * 100, "b.txt": "b" * 100})
    for part in (0.001, 0.999):
        corpus = TextData(path=str(folder), tokenizer="bytes", context=10, validation=part).load()
        assert [corpus.splits[name]["documents"] for name in ("train", "validation")] == [1, 1]


def test_bpe_is_learned_from_the_training_split_only(write: Writer) -> None:
    folder = write({f"{n}.txt": f"{chr(97 + n) * 4} " * 300 for n in range(8)})
    corpus = TextData(path=str(folder), vocabulary=262, context=16).load()
    tokenizer = corpus.assets.tokenizer
    for text in texts(corpus, corpus.validation):
        assert len(tokenizer.encode(text)) == len(text)  # none of its pairs was ever merged
    assert any(len(tokenizer.encode(text)) < len(text) for text in texts(corpus, corpus.train))


def test_assets_are_saved_and_restored(documents: dict[str, str], write: Writer, tmp_path: Path) -> None:
    for kind in ("characters", "bytes", "bpe"):
        options = {"vocabulary": 300} if kind == "bpe" else {}
        data = TextData(path=str(write(documents)), tokenizer=kind, context=16, **options)
        assets = data.load().assets
        folder = tmp_path / kind
        folder.mkdir()
        assets.save(folder)
        assert data.restore(folder) == assets
        assert assets.tokens_per_byte == assets.validation_tokens / assets.validation_bytes
        # What a run kept can tokenise other data.
        other = TextData(path=data.path, tokenizer=str(folder), context=16).load()
        assert other.assets == assets
    with pytest.raises(UserError, match=r"no text assets in .*text\.json"):
        TextAssets.load(tmp_path)


def test_the_context_is_part_of_the_fingerprint(documents: dict[str, str], write: Writer) -> None:
    folder = str(write(documents))
    a, b = (TextData(path=folder, tokenizer="bytes", context=n).load() for n in (16, 17))
    assert a.fingerprint.files == b.fingerprint.files
    assert a.fingerprint.digest != b.fingerprint.digest


def test_changed_content_changes_the_fingerprint_and_touching_does_not(
    documents: dict[str, str], write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seedfast.data.fingerprint._RACY", 0)
    folder = write(documents)
    data = TextData(path=str(folder), tokenizer="bytes", context=16)
    before = data.load().fingerprint
    name = "part1/doc07.txt"
    os.utime(folder / name)
    assert data.load().fingerprint == before
    times = (folder / name).stat()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b"7", b"8"))
    os.utime(folder / name, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time
    after = data.load().fingerprint
    assert after.digest != before.digest
    assert name in describe_difference(before, after)
    assert "doc08" not in describe_difference(before, after)


def test_the_hash_of_a_recently_changed_file_is_not_stored(write: Writer) -> None:
    """It may change once more without a change of its times."""
    folder = write({"a.txt": "one"})
    seen = {"a.txt": signature(folder / "a.txt")}
    before = hash_files(folder, seen)
    write({"a.txt": "two"})
    assert hash_files(folder, seen) != before


def test_old_files_are_not_hashed_again(
    documents: dict[str, str], write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seedfast.data.fingerprint._RACY", 0)
    data = TextData(path=str(write(documents)), tokenizer="bytes", context=16)
    before = data.load().fingerprint
    hashed: list[Path] = []
    monkeypatch.setattr("seedfast.data.fingerprint.sha256", lambda path: hashed.append(path) or "another")
    assert data.load().fingerprint == before
    assert hashed == []
    write({"part0/doc00.txt": "changed"})
    data.load()
    assert [path.name for path in hashed] == ["doc00.txt"]


def test_data_that_changes_while_it_is_read_is_refused(
    documents: dict[str, str], write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(documents)
    assign = split_module._assign

    def meanwhile(*arguments: object) -> object:
        (folder / "part0" / "doc00.txt").write_text("quite another text")
        return assign(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(split_module, "_assign", meanwhile)
    with pytest.raises(UserError, match="changed while it was being read"):
        TextData(path=str(folder), tokenizer="bytes", context=16).load()


def test_python_is_the_standard_library() -> None:
    corpus = TextData(tokenizer="bytes").load()
    size = sum(facts["bytes"] for facts in corpus.splits.values())
    assert 5e6 < size < 20e6
    names = corpus.fingerprint.files
    assert "json/decoder.py" in names
    assert not [name for name in names if {"test", "tests", "site-packages", "lib2to3"} & set(name.split("/"))]
    assert 0.1 <= corpus.splits["validation"]["bytes"] / size < 0.2


def test_lossy_tokenizers_are_refused_by_document(documents: dict[str, str], write: Writer, tmp_path: Path) -> None:
    lossless = str(hub_folder(tmp_path / "lossless", list(documents.values())))
    lossy = str(hub_folder(tmp_path / "lossy", list(documents.values()), lowercase=True))
    folder = str(write(documents))
    corpus = TextData(path=folder, tokenizer=lossless, context=16).load()
    assert sorted(texts(corpus, corpus.train) + texts(corpus, corpus.validation)) == sorted(documents.values())
    with pytest.raises(UserError, match=r"does not give back the document .*doc\d\d\.txt: 'Document.*'document"):
        TextData(path=folder, tokenizer=lossy, context=16).load()
    for name, row in (("prompt", ("The cat", "sees")), ("completion", ("the cat", "Sees"))):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(dict(zip(("prompt", "completion"), row, strict=True))) + "\n")
        with pytest.raises(UserError, match=rf"does not give back Line 1 of .*{name}\.jsonl: '[TS]"):
            TextData(path=str(path), tokenizer=lossy, context=16).load()


def test_located_paths_are_absolute_and_names_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("model", "bpe", "bytes", "characters")
    for name in ("python", "hf:some", "glyphs", "mine", *names):
        (tmp_path / name).mkdir()
    (tmp_path / "here.txt").write_text("text")
    for name in ("python", "hf:some"):
        assert TextData(path=name).located().path == name
    assert TextData(path="here.txt").located().path == str(tmp_path / "here.txt")
    for name in names:
        assert TextData(tokenizer=name).located().tokenizer == name
        assert CaptionData(tokenizer=name).located().tokenizer == name
    assert TextData(tokenizer="mine").located().tokenizer == str(tmp_path / "mine")
    for kind in (ImageData, CaptionData):
        for name in ("glyphs", "hf:some"):
            assert kind(path=name).located().path == name
    assert CaptionData(processor="model").located().processor == "model"
    with_model = TextData(tokenizer="model").located().with_pretrained({"tokenizer": "/the/model"})
    assert with_model.tokenizer == "/the/model"


def test_families_without_prompts_refuse_them(write: Writer) -> None:
    folder = write({f"{n}.txt": "abc " * 30 for n in range(4)})
    corpus = TextData(path=str(folder), tokenizer="bytes", context=8, prompt=4).load()
    assert corpus.assets.prompt == 4
    with pytest.raises(UserError, match=r"data\.prompt=4"):
        Autoregressive().build(corpus.assets)
    recipes.make("text-embedding").objective.build(corpus.assets)
    with pytest.raises(UserError, match=r"data\.prompt must be at least 0, not -1"):
        TextData(path=str(folder), prompt=-1).load()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({}, {}),
        ({"prompt": 4, "apart": True}, {"prompt": 4, "one_document_per_window": True}),
        ({"prompt": 4, "one_document_per_window": True}, {"prompt": 4, "one_document_per_window": True}),
    ],
)
def test_assets_of_earlier_versions_are_read(
    stored: dict[str, object], expected: dict[str, object], tmp_path: Path
) -> None:
    """Literal files: the first versions stored neither prompts nor padding; `apart` is the name of version 0.1."""
    tokenizers.save(Bytes(), tmp_path)
    numbers = {"context": 8, "validation_tokens": 50, "validation_bytes": 48}
    (tmp_path / "text.json").write_text(json.dumps(numbers | stored))
    assert TextAssets.load(tmp_path) == TextAssets(Bytes(), 8, 50, 48, **expected)  # type: ignore[arg-type]


def test_a_stored_configuration_with_the_earlier_name_of_an_option_is_read() -> None:
    data = from_mapping(TextData(), {"apart": True, "context": 8}, where="run.yaml")
    assert data == TextData(one_document_per_window=True, context=8)


@pytest.mark.parametrize("padded", [False, True])
def test_one_document_per_window_pads_instead_of_packing(padded: bool, write: Writer) -> None:
    folder = write({f"{n}.txt": "abcde" * (n + 1) for n in range(9)})
    corpus = TextData(path=str(folder), tokenizer="bytes", context=16, one_document_per_window=padded).load()
    batch = corpus.train.batch(list(range(len(corpus.train))))
    assert ("real" in batch) == padded
    assert corpus.assets.one_document_per_window == padded
    joined = ((batch["tokens"][:, 1:-1] == 256) & (batch["tokens"][:, 2:] != 256)).any()
    assert bool(joined) != padded, "packed windows continue after an end-of-text"


def test_the_digest_is_that_of_earlier_versions(write: Writer) -> None:
    """Pinned: runs of version 0.1 resume on the same data."""
    folder = write({f"{n}.txt": f"document {n}, " * 9 for n in range(4)})
    data = TextData(path=str(folder), tokenizer="bytes", context=8)
    assert data.load().fingerprint.digest[:16] == "2e315a82067f4d3e"
    assert replace(data, one_document_per_window=True).load().fingerprint.digest[:16] == "f0d65c4c6c99d337"
