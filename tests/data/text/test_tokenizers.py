"""Tokenizers are lossless, have their special ids, and are the same on every machine."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import tokenizers as library
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.text_data import hub_folder

from seedfast.data.text import tokenizers
from seedfast.data.text.bpe import capped, spread, train_bpe
from seedfast.data.text.hub import pretrained_tokenizer
from seedfast.data.text.tokenizers import END_OF_TEXT, Bytes, Characters, Subwords, Tokenizer, subwords
from seedfast.errors import UserError

PROSE = [f"def say_{n}(what):\n    print('naïve café', what * {n})  # it isn't 's\n\n" * 3 for n in range(60)]


@cache
def bpe() -> Subwords:
    return train_bpe(PROSE, total=sum(map(len, PROSE)), vocabulary=320)


def every_kind() -> list[Tokenizer]:
    return [Characters("".join(sorted({*"".join(PROSE), *END_OF_TEXT, *"ab"}))), Bytes(), bpe()]


@given(st.text())
def test_round_trip(text: str) -> None:
    for tokenizer in (Bytes(), bpe(), Characters("".join(sorted(set(text))))):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= i < tokenizer.size for i in ids)
        assert tokenizer.end_of_text not in ids
        (many,) = tokenizer.encode_many([text])
        assert many.tolist() == ids
        assert tokenizer.decode_many([many]) == [text]


@pytest.mark.parametrize("tokenizer", every_kind(), ids=lambda each: type(each).__name__)
def test_the_bytes_of_tokens_add_up_to_those_of_their_text(tokenizer: Tokenizer) -> None:
    """Also of tokens that hold a part of a character, whose text alone is longer: U+FFFD has three bytes."""
    text = PROSE[1]
    ids = tokenizer.encode(text)
    assert tokenizer.byte_count(ids) == len(text.encode())
    assert sum(tokenizer.byte_count([id_]) for id_ in ids) == len(text.encode())
    assert tokenizer.byte_count([tokenizer.end_of_text, *ids, tokenizer.end_of_text]) == len(text.encode())
    if not isinstance(tokenizer, Characters):
        alone = "".join(tokenizer.decode([id_]) for id_ in tokenizer.encode("猫"))
        assert len(alone.encode()) > 3 == tokenizer.byte_count(tokenizer.encode("猫"))


def test_bpe_is_shorter_than_bytes() -> None:
    assert len(bpe().encode(PROSE[0])) < len(PROSE[0].encode()) / 2


@pytest.mark.parametrize("tokenizer", every_kind(), ids=lambda each: type(each).__name__)
def test_end_of_text_is_an_id_and_never_a_string(tokenizer: Tokenizer) -> None:
    text = f"a{END_OF_TEXT}b"
    (many,) = tokenizer.encode_many([text])
    assert tokenizer.end_of_text == tokenizer.size - 1
    assert tokenizer.end_of_text not in tokenizer.encode(text)
    assert tokenizer.end_of_text not in many
    end = tokenizer.end_of_text
    ids = [end, *tokenizer.encode("do"), end, end, *tokenizer.encode("it")]
    assert tokenizer.decode(ids) == f"{END_OF_TEXT}do{END_OF_TEXT}{END_OF_TEXT}it"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("tokenizer", every_kind(), ids=lambda each: type(each).__name__)
def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizers.save(tokenizer, tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert loaded == tokenizer
    assert (loaded.size, loaded.end_of_text) == (tokenizer.size, tokenizer.end_of_text)
    text = PROSE[7] + END_OF_TEXT
    assert loaded.encode(text) == tokenizer.encode(text)


def test_load_names_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer in .*tokenizer\.json"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize("tokenizer", every_kind(), ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("beyond", [-1, 0, 10**6])
def test_ids_outside_are_refused(tokenizer: Tokenizer, beyond: int) -> None:
    with pytest.raises(ValueError, match="token ids lie in"):
        tokenizer.decode([0, beyond if beyond else tokenizer.size])


def test_an_unknown_character_is_named() -> None:
    with pytest.raises(UserError, match=r"'é' \(U\+00E9\) is not among the 3 characters"):
        Characters("abc").encode("aébc")


@pytest.mark.parametrize("tokenizer", every_kind(), ids=lambda each: type(each).__name__)
def test_half_a_character_is_named(tokenizer: Tokenizer) -> None:
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_many([text])):
        with pytest.raises(UserError, match=r"U\+D83C\) at position 1"):
            encode("a\ud83c")


def test_invalid_bytes_decode_to_the_replacement_character() -> None:
    assert Bytes().decode([0xC3, 0x41]) == "\ufffdA"


@given(st.text(st.sampled_from(" \n\t'.a1é。st\u2003\u0301"), min_size=3, max_size=60))
def test_a_text_cut_at_a_safe_position_keeps_its_tokens(text: str) -> None:
    with patch.object(subwords, "_CUT_CONTEXT", 1):
        places = list(tokenizers.safe_cuts(text))
    assert len(bpe().encode("'t")) == 1  # else a cut within a contraction would pass unnoticed
    whole = bpe().encode(text)
    for place in places:
        assert bpe().encode(text[:place]) + bpe().encode(text[place:]) == whole, (text[:place], text[place:])


def test_cut_finds_a_late_position_or_none() -> None:
    text = "".join(PROSE)
    place = bpe().cut(text)
    assert len(text) - 200 < place < len(text)
    assert bpe().cut("a" * 1000) == 0
    assert Bytes().cut(text) == len(text)


def test_cut_checks_the_tokens_of_a_pretrained_tokenizer() -> None:
    """A tokenizer without a pre-tokenizer merges across spaces."""
    core = library.Tokenizer(library.models.BPE())
    core.train_from_iterator(["a b" * 300] * 9, library.trainers.BpeTrainer(vocab_size=60, show_progress=False))
    core.add_special_tokens(["</s>"])
    assert Subwords(core, "</s>").cut("a b" * 300) == 0


def test_the_vocabulary_has_the_requested_size_or_what_the_text_supports() -> None:
    assert bpe().size == 320
    total = sum(map(len, PROSE))
    with pytest.raises(UserError, match=r"data\.vocabulary=256 is too small for bpe.*257"):
        train_bpe(PROSE, total=total, vocabulary=256)
    most = train_bpe(PROSE, total=total, vocabulary=9999)
    assert 320 < most.size < 9999
    (sentence,) = capped(most, 9999, "prose")
    assert f"prose supports {most.size} tokens, so the vocabulary has these instead of 9,999" in sentence
    assert not capped(bpe(), 320, "prose")
    assert train_bpe(PROSE, total=total, vocabulary=257).size == 257


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 500))
def test_a_sample_of_the_text_stays_within_its_budget(lengths: list[int], budget: int) -> None:
    texts = ["x" * length for length in lengths]
    total = sum(lengths)
    taken = list(spread(texts, total, budget))
    assert sum(map(len, taken)) < min(total, budget) + max(lengths) + (total <= budget)
    if total <= budget:
        assert taken == texts


def test_a_sample_of_the_text_is_spread_to_its_end() -> None:
    taken = list(spread((str(n).zfill(10) for n in range(100)), 1000, 250))
    assert len(taken) == 25
    assert int(taken[-1]) > 90


TRAIN = """
import hashlib, sys
from seedfast.data.text import tokenizers
from seedfast.data.text.tokenizers import subwords
from seedfast.data.text.bpe import train_bpe
texts = [open(tokenizers.__file__, encoding="utf-8").read()[n::2] for n in range(2)] * 3
print(tokenizers.digest(train_bpe(texts, total=10**6, vocabulary=600)))
"""


def test_bpe_is_the_same_in_every_process_at_every_thread_count() -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in ("1", "2", "5")
    ]
    digests = {run.communicate()[0] for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert len(digests) == 1


def test_a_saved_pretrained_tokenizer_does_not_need_its_model(tmp_path: Path) -> None:
    source = hub_folder(tmp_path / "hub", PROSE)
    ours = pretrained_tokenizer(str(source))
    assert (ours.size, ours.end_of_text) == (300, 0)
    assert ours.decode(ours.encode(PROSE[0])) == PROSE[0]  # not truncated
    assert 0 not in ours.encode("a</s>b")
    tokenizers.save(ours, tmp_path)
    for file in source.iterdir():
        file.unlink()
    assert tokenizers.load(tmp_path).encode(PROSE[0]) == ours.encode(PROSE[0])


def test_transformers_reads_what_was_saved(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers.save(bpe(), tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token_id == bpe().end_of_text
    assert theirs(PROSE[3], add_special_tokens=False)["input_ids"] == bpe().encode(PROSE[3])


def test_ids_may_have_gaps(tmp_path: Path) -> None:
    core = library.Tokenizer(library.models.WordLevel({"a": 0, "</s>": 70000}, unk_token="a"))
    assert Subwords(core, "</s>").size == 70001
    assert np.asarray(Subwords(core, "</s>").encode_many(["a"])[0]).dtype == np.uint32


def test_a_pretrained_tokenizer_that_is_missing_or_has_no_end_of_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no end-of-sequence token"):
        pretrained_tokenizer(str(hub_folder(tmp_path / "endless", PROSE, eos=None)))
    with pytest.raises(UserError, match=r'"nobody/nothing" cannot be loaded .*without a network, name a folder'):
        pretrained_tokenizer("nobody/nothing")


def files_of(core: library.Tokenizer, folder: Path) -> Path:
    """vocab.json and merges.txt, as the library writes them."""
    folder.mkdir()
    core.model.save(str(folder))
    return folder


def trained(*special: str) -> library.Tokenizer:
    """A byte-level byte-pair encoding of the library."""
    core = library.ByteLevelBPETokenizer()
    core.train_from_iterator(PROSE, vocab_size=300, special_tokens=list(special), show_progress=False)
    return core._tokenizer


@pytest.mark.parametrize(
    ("special", "end"),
    [
        (("<|endoftext|>",), "<|endoftext|>"),
        (("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "</s>"),
        ((), "<|endoftext|>"),
    ],
    ids=["as GPT-2", "as RoBERTa", "without special tokens"],
)
def test_tokenizers_are_read_from_files_alone(special: tuple[str, ...], end: str, tmp_path: Path) -> None:
    core = trained(*special)
    (tmp_path / "json").mkdir()
    core.save(str(tmp_path / "json/tokenizer.json"))
    parts = files_of(core, tmp_path / "parts")
    for path in (parts, tmp_path / "json", tmp_path / "json/tokenizer.json"):
        found = pretrained_tokenizer(str(path))
        assert found.size == core.get_vocab_size() + (not special)
        assert found.decode([found.end_of_text]) == end
        assert len(found.never_generate) == max(0, len(special) - 1)
        for text in PROSE[:3]:
            assert found.encode(text) == core.encode(text).ids
            assert found.decode(found.encode(text)) == text
        copy = tmp_path / f"copy of {path.name}"
        copy.mkdir()
        tokenizers.save(found, copy)
        assert tokenizers.load(copy) == found


def test_a_tokenizer_that_a_run_stored_is_read_from_its_file(tmp_path: Path) -> None:
    for kind in every_kind():
        tokenizers.save(kind, tmp_path)
        assert pretrained_tokenizer(str(tmp_path / "tokenizer.json")).encode("ab") == kind.encode("ab")


def test_files_of_no_byte_level_tokenizer_are_refused(tmp_path: Path) -> None:
    pieces = library.models.BPE({"▁": 0, "a": 1, "▁a": 2}, [("▁", "a")])
    with pytest.raises(UserError, match=r"not byte-level \('▁' stands for no byte\)"):
        pretrained_tokenizer(str(files_of(library.Tokenizer(pieces), tmp_path / "pieces")))
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(UserError, match=r"tokenizer\.json is no tokenizer of the library"):
        pretrained_tokenizer(str(tmp_path / "tokenizer.json"))
