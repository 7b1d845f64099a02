"""Runs of embedding diffusion on files: what their checkpoints hold, resuming, clipping, and what is measured."""

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.embedding import write_files
from tests.helpers.runs import small_run, train_in, train_until

import seedfast
from seedfast.data.text.config import TextData
from seedfast.errors import UserError
from seedfast.families.text.embedding import EmbeddingRequest
from seedfast.families.text.request import TextSamples
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal
from seedfast.run_folder.choice import find
from seedfast.verify.resume import compare


def run_of(folder: Path, **changes: Any) -> Run:
    """A small run on files that it writes into the folder, with prompts and padded windows."""
    data = TextData(
        path=str(write_files(folder)), tokenizer="bytes", context=16, prompt=8, one_document_per_window=True
    )
    return small_run(
        "text-embedding", folder, **{"data": data, "steps": 6, "save_every": 3, "eval_every": 3, **changes}
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose source files and prepared data have been removed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEDFAST_CACHE", str(folder / "cache"))
        train_in(folder / "run", run_of(folder / "files"))
    shutil.rmtree(folder / "files")
    shutil.rmtree(folder / "cache")
    return folder / "run"


# ---- checkpoints ----------------------------------------------------------------------------------------------


def test_generation_uses_the_averaged_weights_by_default(finished: Path) -> None:
    checkpoint = find(finished, at="newest")
    stored = {kind: load_file(checkpoint.folder / f"{kind}.safetensors") for kind in ("ema", "model")}
    for weights, kind in ((None, "ema"), ("ema", "ema"), ("raw", "model")):
        model = seedfast.load(finished, weights=weights)  # type: ignore[arg-type]
        loaded = model.network.get_parameter("frequency")
        (name,) = [name for name in stored[kind] if name.endswith("frequency")]
        assert torch.equal(loaded, stored[kind][name])
        assert not torch.equal(stored["ema"][name], stored["model"][name])


def test_a_checkpoint_holds_tensors_and_plain_text_and_no_code(finished: Path) -> None:
    for file in find(finished, at="newest").folder.rglob("*"):
        if file.is_file():
            assert file.suffix in (".safetensors", ".json", ".yaml"), file
            assert load_file(file) if file.suffix == ".safetensors" else file.read_text()


def test_the_tokenizer_of_a_checkpoint_round_trips_text_that_it_was_not_trained_on(finished: Path) -> None:
    model = seedfast.load(finished)
    tokenizer = model.assets.tokenizer  # type: ignore[attr-defined]
    for text in ("  leading", "\ttab  and\r\nlines ", "naïve 漢字 🌱", "\x00\x7f", " "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    samples = model.sample(EmbeddingRequest(prompt=("  x\t",), steps=2), seed=1)
    assert isinstance(samples, TextSamples)
    assert samples.texts[0].startswith("  x\t")


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_byte_level_tokens_drop_no_character(kind: str, tmp_path: Path) -> None:
    vocabulary = 262 if kind == "bpe" else None
    path = str(write_files(tmp_path / "files"))
    tokenizer = TextData(path=path, tokenizer=kind, vocabulary=vocabulary, context=8).load().assets.tokenizer
    for text in ("  leading", "ÄÖÜ ß", "🧑‍🚀\u200b\u2028", "x" * 50, "\n\n \n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_resume_with_another_vocabulary_or_other_data_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "files")
    train_in(tmp_path / "run", run)
    with pytest.raises(UserError, match=r"data\.tokenizer.*bytes.*characters"):
        train_in(tmp_path / "run", replace(run, data=replace(run.data, tokenizer="characters")))
    (tmp_path / "files/00.py").write_text("something = else_\n")
    with pytest.raises(UserError, match="The data is not what"):
        train_in(tmp_path / "run", run)


def test_an_infill_longer_than_the_context_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="17 tokens with its gaps"):
        seedfast.load(finished).sample(EmbeddingRequest(infill="a<gap:16>"), seed=1)
    run = run_of(tmp_path / "files")
    train_in(tmp_path / "run", run)
    with pytest.raises(UserError, match=r"data\.context.*16.*32"):
        train_in(tmp_path / "run", replace(run, data=replace(run.data, context=32)))


# ---- steps ----------------------------------------------------------------------------------------------------


def test_the_gradient_is_clipped_after_it_was_unscaled(tmp_path: Path) -> None:
    """A scaled gradient is 65536 times as long: if it were clipped before, almost nothing would remain."""
    run = run_of(tmp_path / "files", clip=1e-3, eval_every=0, steps=3, optimizer=OptimizerConfig(lr=1e-2))
    found: dict[str, list[float]] = {}
    for precision in ("fp32", "fp16"):
        train_in(tmp_path / precision, replace(run, precision=precision))
        found[precision] = [e["gradient_norm"] for e in journal.read(tmp_path / precision) if "gradient_norm" in e]
    assert found["fp16"] == pytest.approx(found["fp32"], rel=0.1)
    assert found["fp32"][0] > 1e-3, "without clipping this test would show nothing"
    moved = []
    for precision in ("fp32", "fp16"):
        first, last = (
            load_file(tmp_path / precision / f"checkpoints/step-{step:08d}/model.safetensors") for step in (0, 3)
        )
        moved.append(torch.cat([(last[name] - first[name]).flatten() for name in sorted(first)]).norm())
    assert float(moved[1]) == pytest.approx(float(moved[0]), rel=0.2)


def test_a_resumed_run_ends_with_the_same_bits_with_accumulation_across_an_epoch(tmp_path: Path) -> None:
    run = run_of(tmp_path / "files", batch_size=7, micro_batch=3, steps=12)
    train_in(tmp_path / "whole", run)
    with open_session(run, tmp_path / "split") as session:
        assert len(session.corpus.train) < 12 * 7, "the run is longer than an epoch"
        train_until(session, 5)
    train_in(tmp_path / "split", run)
    assert compare(tmp_path / "whole", tmp_path / "split")[0] is None


def test_the_learning_rate_follows_steps_and_not_micro_batches(tmp_path: Path) -> None:
    run = run_of(tmp_path / "files", eval_every=0, steps=4)
    for size in (1, 6):
        train_in(tmp_path / str(size), replace(run, micro_batch=size))
    one, six = ([e["lr"] for e in journal.read(tmp_path / size) if "lr" in e] for size in ("1", "6"))
    assert one == six
    assert len(one) == 4


# ---- validation -----------------------------------------------------------------------------------------------


def test_validation_is_journalled_in_bits_per_byte_with_a_standard_error(finished: Path) -> None:
    records = [e["validation"] for e in journal.read(finished) if "validation" in e]
    assert len(records) == 2
    for record, weights in product(records, ("raw", "ema")):
        assert 0 < record[weights]["bits_per_byte"] < 20
        assert record[weights]["standard_error"] > 0
    assert json.loads((finished / "best.json").read_text())["ema"]["step"] in (3, 6)
