"""A file comes back from a model's bits as it was, or not at all; and its size is the model's number."""

import json
import math
import random
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.cli import Run
from tests.helpers.runs import SLOW, small_run, train_in
from torch import Tensor

import seedfast as front
from seedfast.data.text.config import TextData
from seedfast.errors import UserError
from seedfast.evaluate import journal
from seedfast.evaluate.codec import container, entropy
from seedfast.evaluate.codec.codec import compress, decompress
from seedfast.evaluate.codec.writer import Plan, TextWriter
from seedfast.evaluate.trained import Trained
from seedfast.families.text.block_diffusion import Block
from seedfast.threads import threads

UNMASKING = ("masked", "block", "proofreading")
FAMILIES = ("autoregressive", *UNMASKING)
TOKENIZERS = ("bytes", "bpe")
KINDS = (*FAMILIES, *TOKENIZERS)
SCRIPTS = (
    "the cat sees the dog.\r\nthe fox hears the bird.\r\n",
    "Füße, naïve café, Ærø, łódź\n",
    "Съешь же ещё этих мягких французских булок\n",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία\n",
    "עטלף אבק נס דרך מזגן\n",
    "نص حكيم له سر قاطع\n",
    "色は匂へど散りぬるを我が世誰ぞ常ならむ\n",
    "तेज़ लोमड़ी कूदती है\n",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \ufeff \u2028\x00",
    "<|endoftext|> [MASK] <s></s>\n",
)


def files(story: str) -> list[bytes]:
    """A hundred files: text of every length around a window, other scripts, bytes that are no text, and mixtures."""
    random.seed(1)
    found = [story[:length].encode() for length in (*range(20), 31, 32, 33, 64, 65, 255, 256, 257, 400, 511)]
    found += [script.encode() for script in SCRIPTS]
    found += [script.encode("utf-16") for script in SCRIPTS]
    found += [random.randbytes(length) for length in (1, 2, 3, 5, 16, 17, 64, 100, 300, 1000)]
    found += [bytes(length) for length in (1, 2, 16, 100, 1000)]
    found += [bytes([value]) for value in (10, 32, 65, 127, 128, 192, 255)]
    found += [bytes(range(256)), bytes(range(255, -1, -1))]
    found += [b"the " * 60, b"\r\n" * 40, b"\n" * 100, b"\xff" * 50, b"a" * 300]
    found += [b"\xef\xbb\xbf" + story[:50].encode(), story[:50].encode() + b"\xc3", b"\xed\xa0\x80 the cat"]
    for script in SCRIPTS:
        found.append((story[:40] + script + story[40:90]).encode())
    while len(found) < 100:
        parts = [story[:30].encode(), random.randbytes(9), random.choice(SCRIPTS).encode()]
        found.append(b"".join(random.choices(parts, k=4)))
    return found


@pytest.fixture(scope="module")
def folders(story: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of a few steps of each family, and of the other tokenizers."""
    home = tmp_path_factory.mktemp("codec")
    changes: dict[str, dict[str, Any]] = {"block": {"objective": Block(block=4)}}
    for tokenizer in TOKENIZERS:
        size = {"vocabulary": 300} if tokenizer == "bpe" else {}
        changes[tokenizer] = {"data": TextData(path=str(story), tokenizer=tokenizer, context=16, **size)}
    for name in (*FAMILIES, "embedding", *TOKENIZERS):
        recipe = f"text-{'autoregressive' if name in TOKENIZERS else name}"
        steps = 40 if name in TOKENIZERS else 3  # more, so that a byte takes less than eight bits
        run = small_run(recipe, story, steps=steps, eval_every=0, save_every=steps, **changes.get(name, {}))
        train_in(home / name, run)
    return {path.name: path for path in home.iterdir()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Trained]:
    return {name: front.load(folder) for name, folder in folders.items()}


def test_there_are_a_hundred_files(story: Path) -> None:
    found = files(story.read_text())
    assert len(found) == 100
    assert len(set(found)) > 90


@SLOW
@pytest.mark.parametrize("name", KINDS)
def test_a_hundred_files_come_back(name: str, models: dict[str, Trained], story: Path) -> None:
    come_back(models[name], files(story.read_text()), coded=40)


@pytest.mark.parametrize("name", KINDS)
def test_files_of_every_kind_come_back(name: str, models: dict[str, Trained], story: Path) -> None:
    """Each of the hundred files with one of the models."""
    come_back(models[name], files(story.read_text())[KINDS.index(name) :: len(KINDS)], coded=5)


def come_back(model: Trained, contents: list[bytes], *, coded: int) -> None:
    """Compress files and get them back; the model codes at least so many of them."""
    count = 0
    for content in contents:
        found = compress(model, content)
        assert decompress(model, found.content) == content
        assert abs(found.bits - found.ideal) <= 64
        assert len(found.content) == found.overhead + found.raw + found.bits / 8
        assert len(found.content) <= len(content) + found.overhead
        count += found.tokens > 0
    assert count >= coded


def test_a_file_that_the_model_cannot_read_grows_by_a_short_header(models: dict[str, Trained]) -> None:
    """Its many short pieces would be listed in the header, which is then longer than what they save."""
    content = random.Random(1).randbytes(6000)
    found = compress(models["autoregressive"], content)
    assert len(found.content) < len(content) + 400
    assert decompress(models["autoregressive"], found.content) == content


@pytest.mark.parametrize(
    ("name", "rows"),
    [*((name, 2) for name in KINDS), ("block", 7), *(pytest.param(n, 7, marks=SLOW) for n in KINDS if n != "block")],
)
def test_the_size_is_the_score(name: str, rows: int, models: dict[str, Trained], story: Path) -> None:
    text = story.read_text()[:200]
    found = compress(models[name], text.encode(), rows=rows)
    score: Any = models[name].score(text)
    assert found.ideal == pytest.approx(-score.log_prob / math.log(2), rel=1e-6)
    assert abs(found.bits - found.ideal) <= 64
    assert found.tokens == len(score.tokens)
    assert (found.text, found.raw) == (200, 0)
    assert decompress(models[name], found.content) == text.encode()


def test_a_coder_with_coarse_probabilities_breaks_the_bound(
    models: dict[str, Trained], story: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entropy, "WHOLE", 1 << 6)
    found = compress(models["autoregressive"], story.read_bytes()[:1500])
    assert abs(found.bits - found.ideal) > 64
    assert decompress(models["autoregressive"], found.content) == story.read_bytes()[:1500]


def test_fewer_unmasking_steps_have_the_size_of_their_policy(models: dict[str, Trained], story: Path) -> None:
    text = story.read_text()[:600]
    found = compress(models["masked"], text.encode(), steps=4)
    score: Any = models["masked"].score(text, steps=4)
    assert found.ideal == pytest.approx(-score.log_prob / math.log(2), rel=1e-6)
    assert "4 network evaluations" in found.decoding
    assert decompress(models["masked"], found.content) == text.encode()


def test_an_arithmetic_that_the_probe_does_not_notice_is_refused_all_the_same(
    models: dict[str, Trained], story: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = story.read_bytes()[:300]
    found = compress(models["autoregressive"], content).content
    monkeypatch.setattr(TextWriter, "probe", lambda *_: container.read(found, "").header.probe)
    original = entropy.trees
    monkeypatch.setattr("seedfast.evaluate.codec.codec.trees", lambda p_NV: original(p_NV**1.001))
    with pytest.raises(UserError, match="does not decompress to the bytes"):
        decompress(models["autoregressive"], found)


@pytest.mark.parametrize("name", ["autoregressive", "block"])
def test_every_flipped_bit_is_refused(name: str, models: dict[str, Trained], story: Path) -> None:
    found = bytearray(compress(models[name], story.read_bytes()[:40] + b"\xff\xfe").content)
    for place in range(8 * len(found)):
        found[place // 8] ^= 1 << place % 8
        with pytest.raises(UserError):
            decompress(models[name], bytes(found))
        found[place // 8] ^= 1 << place % 8
    for length in range(len(found)):
        with pytest.raises(UserError):
            decompress(models[name], bytes(found[:length]))


def resealed(content: bytes, *, bits: bytes | None = None, stored: bytes | None = None, **changes: Any) -> bytes:
    """A compressed file with other contents and a checksum that fits them, as somebody hostile would write it."""
    file = container.read(content, "")
    stored = container.deflated(file.raw) if stored is None else stored
    return container.write(replace(file.header, **changes), stored, file.bits if bits is None else bits)


@pytest.mark.parametrize("name", ["autoregressive", pytest.param("masked", marks=SLOW)])
def test_bits_that_were_changed_with_their_checksum_are_refused(
    name: str, models: dict[str, Trained], story: Path
) -> None:
    content = story.read_bytes()[:60]
    found = compress(models[name], content).content
    bits = container.read(found, "").bits
    random.seed(1)
    for place in random.sample(range(8 * len(bits)), 12):
        changed = bytearray(bits)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(UserError, match="does not decompress"):
            decompress(models[name], resealed(found, bits=bytes(changed)))
    for other in (b"", bits[:-1], bits + b"\1", bits + b"\0", bits[:5] + bytes(4), random.randbytes(200)):
        with pytest.raises(UserError, match="does not decompress"):
            decompress(models[name], resealed(found, bits=other))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": -1},
        {"rows": 0},
        {"rows": 10**9},
        {"rows": True},
        {"threads": 10**9},
        {"tokens": 10**15},
        {"pieces": [(10**15, 0)]},
        {"pieces": [(60, 10**15)]},
        {"pieces": [(60, -1)]},
        {"pieces": [(60,)]},
        {"raw": 10**15},
        {"before": "abc"},
        {"steps": 0},
        {"recipe": "a\nb"},
        {"model": None},
        {"sha256": 7},
    ],
    ids=str,
)
def test_a_header_that_contradicts_itself_is_refused(
    changes: dict[str, Any], models: dict[str, Trained], story: Path
) -> None:
    found = compress(models["autoregressive"], story.read_bytes()[:60]).content
    with pytest.raises(UserError, match="contradicts itself"):
        decompress(models["autoregressive"], resealed(found, **changes))


def test_a_header_with_other_values_is_refused(models: dict[str, Trained], story: Path) -> None:
    content = story.read_bytes()[:400]
    found = compress(models["autoregressive"], content, rows=3).content
    some: list[dict[str, Any]] = [
        {"before": []},
        {"before": [10**6, 0]},
        {"sha256": "0" * 64},
        {"size": 401},
        {"size": 10},
    ]
    for changes in some:
        with pytest.raises(UserError, match="does not decompress"):
            decompress(models["autoregressive"], resealed(found, **changes))
    with pytest.raises(UserError, match="an arithmetic"):
        decompress(models["autoregressive"], resealed(found, rows=2))
    with pytest.raises(UserError, match="contradicts itself"):
        decompress(models["autoregressive"], resealed(found, raw=3, stored=b"abc"))


def test_what_is_inflated_has_a_bound(models: dict[str, Trained]) -> None:
    found = compress(models["masked"], b"\xff" * 100).content
    bomb = zlib.compress(bytes(1 << 24))
    with pytest.raises(UserError, match="contradicts itself"):
        decompress(models["masked"], resealed(found, stored=bomb))
    with pytest.raises(UserError, match="contradicts itself"):
        decompress(models["masked"], resealed(found, stored=bomb, raw=len(bomb)))


def test_other_weights_and_arithmetics_are_refused_in_a_sentence(
    models: dict[str, Trained], story: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compress(models["masked"], story.read_bytes()[:60]).content
    with pytest.raises(UserError, match=r"other weights \(ema weights, step 3 of a model of text-masked\)"):
        decompress(models["block"], found)
    with pytest.raises(UserError, match="was not written by seedfast compress"):
        decompress(models["masked"], story.read_bytes())
    with pytest.raises(UserError, match="a later one"):
        decompress(models["masked"], found[:7] + b"\2" + found[8:])
    with pytest.raises(UserError, match=r"an arithmetic that this machine does not have: by NVIDIA X"):
        decompress(models["masked"], resealed(found, device="NVIDIA X"))
    with pytest.raises(UserError, match="an arithmetic"):
        decompress(models["masked"], resealed(found, precision="bf16"))
    example = entropy.example
    monkeypatch.setattr(entropy, "example", lambda: example() + b"!")
    with pytest.raises(UserError, match="an arithmetic"):
        decompress(models["masked"], found)


def test_the_threads_are_those_of_the_encoder(models: dict[str, Trained], story: Path) -> None:
    before = torch.get_num_threads()
    with threads(2):
        found = compress(models["masked"], story.read_bytes()[:20]).content
    assert container.read(found, "").header.threads == 2
    assert decompress(models["masked"], found) == story.read_bytes()[:20]
    assert torch.get_num_threads() == before


def test_models_without_a_probability_of_each_token_are_refused(models: dict[str, Trained], story: Path) -> None:
    with pytest.raises(UserError, match="gives only a bound"):
        compress(models["embedding"], b"the cat")
    with pytest.raises(UserError, match="There is no option steps"):
        compress(models["autoregressive"], b"the cat", steps=3)
    with pytest.raises(UserError, match="rows must be in 1"):
        compress(models["masked"], b"the cat", rows=0)


def test_a_missing_library_is_named(models: dict[str, Trained], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(UserError, match=r"pip install 'seedfast\[compress\]'"):
        compress(models["masked"], b"the cat")


def test_text_that_the_model_makes_longer_is_stored(
    models: dict[str, Trained], story: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that is sure of something else, or excludes what comes."""
    model = models["autoregressive"]
    content = story.read_bytes()[:500]
    weight = model.network.get_parameter("head.weight")
    before = weight.detach().clone()
    for factor in (1e3, 1e9, math.nan):
        with torch.no_grad():
            weight.copy_(before * factor)
        found = compress(model, content)
        assert found.tokens == 0
        assert len(found.content) < found.overhead + len(content)
        assert decompress(model, found.content) == content
    with torch.no_grad():
        weight.copy_(before)


def test_windows_come_after_those_that_they_are_read_after() -> None:
    for tokens in (0, 1, 15, 16, 17, 160, 161, 1000):
        for rows in (1, 2, 3, 7, 100):
            plan = Plan(tokens, 16, rows)
            known, seen = {0, *plan.first}, []
            for group in plan.groups:
                assert len(group.starts) <= rows
                assert known.issuperset(group.starts)
                known |= {start + group.length for start in group.starts}
                seen += [place for start in group.starts for place in range(start, start + group.length)]
            assert sorted(seen) == list(range(tokens))


class Appends:
    """Counts the groups that are done, and is interrupted after one of them, like by a user who presses Ctrl-C."""

    def __init__(self, last: int | None) -> None:
        self.count, self.last, self.append = 0, last, journal.Journal.append

    def __call__(self, to: journal.Journal, record: bytes) -> None:
        self.append(to, record)
        self.count += 1
        if self.count == self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["autoregressive", "masked"])
def test_an_interrupted_command_leaves_no_file_and_is_continued(
    name: str, folders: dict[str, Path], story: Path, tmp_path: Path, seedfast: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, packed, back = tmp_path / "plain.txt", tmp_path / "packed", tmp_path / "back.txt"
    plain.write_bytes(story.read_bytes()[:600])
    compressing = ("compress", plain, "--with", folders[name], "--out", packed, "--rows", "5")
    decompressing = ("decompress", packed, "--with", folders[name], "--out", back)
    assert seedfast(*compressing)[0] == 0
    whole = packed.read_bytes()
    packed.unlink()
    for words, out in ((compressing, packed), (decompressing, back)):
        kept = out.with_name(out.name + journal.SUFFIX)
        with monkeypatch.context() as patch:
            stopped = Appends(last=2)
            patch.setattr(journal.Journal, "append", lambda *args, by=stopped: by(*args))
            status, _, stderr = seedfast(*words)
        assert status == 130
        assert "the same command continues" in stderr
        assert not out.exists()
        with kept.open("ab") as file:
            file.write(b"half a record, as a kill leaves it")
        with monkeypatch.context() as patch:
            rest = Appends(last=None)
            patch.setattr(journal.Journal, "append", lambda *args, by=rest: by(*args))
            assert seedfast(*words)[0] == 0
        assert rest.count == 9 - 2
        assert not kept.exists()
    assert packed.read_bytes() == whole
    assert back.read_bytes() == plain.read_bytes()


def test_two_processes_do_not_write_the_same_file(models: dict[str, Trained], tmp_path: Path) -> None:
    with journal.journal(tmp_path / "out", "key"):
        with pytest.raises(UserError, match="Another process"):
            compress(models["masked"], b"the cat", result=tmp_path / "out")


def test_a_journal_of_other_work_is_begun_anew(tmp_path: Path) -> None:
    file = (tmp_path / "journal").open("w+b")
    first = journal.Journal(file, "one")
    first.append(b"abc")
    first.append(b"")
    assert [*map(len, journal.Journal(file, "one"))] == [3, 0]  # type: ignore[arg-type]
    assert len(journal.Journal(file, "two")) == 0
    assert len(journal.Journal(file, "one")) == 0


def test_the_commands_print_where_the_bytes_go(
    folders: dict[str, Path], story: Path, tmp_path: Path, seedfast: Run
) -> None:
    plain, packed, back = tmp_path / "plain", tmp_path / "packed", tmp_path / "back"
    plain.write_bytes(story.read_bytes()[:500] + b"\xff\xfe" * 4)
    status, shown, stderr = seedfast("compress", plain, "--with", folders["masked"], "--out", packed)
    assert status == 0
    assert "508 bytes → " in shown
    assert "for 8 bytes without the model" in shown
    assert "kB/s" in stderr
    record = json.loads(seedfast("compress", plain, "--with", folders["masked"], "--out", packed, "--json")[1])
    assert record["compressed"] == packed.stat().st_size == record["header"] + record["raw"] + record["bits"] / 8
    assert abs(record["bits"] - record["ideal_bits"]) <= 64
    assert seedfast("decompress", packed, "--with", folders["masked"], "--out", back)[0] == 0
    assert back.read_bytes() == plain.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "packed", "plain"]


def test_the_step_and_the_weights_are_found_again(
    folders: dict[str, Path], tmp_path: Path, seedfast: Run, story: Path
) -> None:
    """The run goes on, and its best checkpoint is another one."""
    run = small_run("text-masked", story, steps=6, eval_every=0, save_every=3)
    train_in(tmp_path / "run", run)
    plain, packed, back = tmp_path / "plain", tmp_path / "packed", tmp_path / "back"
    plain.write_bytes(b"the cat sees the dog")
    flags = ("--at", "3", "--weights", "raw")
    assert seedfast("compress", plain, "--with", tmp_path / "run", "--out", packed, *flags)[0] == 0
    assert seedfast("decompress", packed, "--with", tmp_path / "run", "--out", back)[0] == 0
    assert back.read_bytes() == plain.read_bytes()
    status, _, stderr = seedfast("decompress", packed, "--with", folders["proofreading"], "--out", back)
    assert status == 2
    assert "other weights" in stderr


def mistakes(folder: Path, embedding: Path) -> Iterator[tuple[tuple[str | Path, ...], str]]:
    plain, empty, out = folder / "plain", folder / "empty", folder / "out"
    plain.write_bytes(b"the cat")
    empty.write_bytes(b"")
    yield ("compress", folder / "none", "--with", embedding, "--out", out), "is no file"
    yield ("compress", plain, "--with", embedding, "--out", folder), "is a folder"
    yield ("compress", plain, "--with", embedding, "--out", plain), "is the file itself"
    yield ("compress", plain, "--with", embedding, "--out", folder / "no" / "out"), "there is no folder"
    yield ("compress", plain, "--with", embedding, "--out", out), "gives only a bound"
    yield ("compress", plain, "--with", folder / "no", "--out", out), "no"
    yield ("decompress", empty, "--with", embedding, "--out", out), "was not written by seedfast compress"
    yield ("decompress", plain, "--with", embedding, "--out", out), "was not written by seedfast compress"


def test_the_commands_refuse_mistakes_in_one_sentence(folders: dict[str, Path], tmp_path: Path, seedfast: Run) -> None:
    for words, message in mistakes(tmp_path, folders["embedding"]):
        status, _, stderr = seedfast(*words)
        assert status == 2
        assert message in stderr
        assert len(stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "plain"]


def test_python_compresses_bytes(models: dict[str, Trained]) -> None:
    model = models["block"]
    packed = model.compress(b"the cat sees the dog")
    assert model.decompress(packed) == b"the cat sees the dog"
    with pytest.raises(UserError, match="damaged or incomplete"):
        model.decompress(packed[:-1])


def test_the_probe_is_one_of_the_probabilities(models: dict[str, Trained], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["autoregressive"]
    before = TextWriter(model).probe(2)
    assert TextWriter(model).probe(2) == before
    fill = model.generator.fill  # type: ignore[attr-defined]

    def otherwise(decoding: Any, canvases: Any) -> Any:
        choose = decoding.choose

        def last_bit(p_NV: Tensor, held_N: Tensor) -> Any:
            return choose(torch.nextafter(p_NV, torch.zeros_like(p_NV)), held_N)

        return fill(replace(decoding, choose=last_bit), canvases)

    monkeypatch.setattr(model.generator, "fill", otherwise)
    assert TextWriter(model).probe(2) != before
