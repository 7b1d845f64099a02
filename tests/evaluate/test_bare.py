"""Model folders without a run: every causal architecture can be sampled from, and data can be brought to it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import tiny_models
from tests.helpers.cli import Run
from torch.nn import functional as F

from seedfast import api
from seedfast.models import hf_causal_lm

transformers = pytest.importorskip("transformers")

_GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}
_LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 48,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "openai-gpt": _GPT,
    "gptj": {**_GPT, "rotary_dim": 4},
    "codegen": {**_GPT, "n_head": 4, "n_ctx": 48, "rotary_dim": 4},
    "ctrl": {**_GPT, "dff": 24},
    "gpt_bigcode": _GPT,
    "gpt_neo": {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "max_position_embeddings": 48,
        "attention_types": [[["global"], 2]],
    },
    "gpt_neox": _LLAMA,
    "opt": {**_LLAMA, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    "mpt": {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 48},
    "falcon": {**_LLAMA, "new_decoder_architecture": False},
    "mistral": {**_LLAMA, "head_dim": 8},
    "qwen2": _LLAMA,
    "phi": _LLAMA,
    "gemma2": {**_LLAMA, "head_dim": 8, "sliding_window": 8},
    "xglm": {"d_model": 16, "num_layers": 2, "attention_heads": 2, "ffn_dim": 24, "max_position_embeddings": 48},
    "stablelm": _LLAMA,
}
WITHOUT_LIMIT = ("bloom",)
UNLIKE = ("gpt2", "bloom", "mpt", "mistral")
"""Learned, linear and rotary positions, and other names of the fields of the configuration: the quick ones."""


def save(folder: Path, kind: str, text: str = "the cat sees the dog. ") -> Path:
    words = tiny_models.tokenizer(text)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = transformers.AutoConfig.for_model(kind, vocab_size=len(words), **ARCHITECTURES[kind])
        transformers.AutoModelForCausalLM.from_config(shape).eval().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kind", [kind if kind in UNLIKE else pytest.param(kind, marks=pytest.mark.slow) for kind in ARCHITECTURES]
)
def test_every_causal_architecture_can_be_sampled_from(kind: str, tmp_path: Path) -> None:
    folder = save(tmp_path / kind, kind)
    longest = hf_causal_lm.longest_context(hf_causal_lm.architecture(str(folder)))
    assert longest == (None if kind in WITHOUT_LIMIT else 48)
    model = api.load(folder, device="cpu")
    (text,) = model.sample(prompt="the cat", tokens=5).texts  # type: ignore[attr-defined]
    assert text.startswith("the cat")
    (longer,) = model.sample(prompt="the cat", tokens=60).texts  # type: ignore[attr-defined]
    assert longer.startswith(text)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory, story: Path) -> Path:
    return save(tmp_path_factory.mktemp("base") / "gpt2", "gpt2", text=story.read_text())


def by_hand(folder: Path, texts: list[str]) -> tuple[float, int]:
    """Σ -log q of each text and its end, after an end-of-text, and the number of tokens: by transformers alone."""
    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([words.eos_token_id, *words(text, add_special_tokens=False).input_ids, words.eos_token_id])
        with torch.no_grad():
            logits = model(ids[None, :-1]).logits[0]
        total += float(F.cross_entropy(logits.double(), ids[1:], reduction="sum"))
        count += len(ids) - 1
    return total, count


def test_the_loss_of_a_bare_model_is_that_of_transformers(gpt2: Path, tmp_path: Path, seedfast: Run) -> None:
    """All documents of the data count, none is held out for a training that never comes."""
    texts = [f"the cat sees dog number {number}. é" for number in range(12)]
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    status, out, err = seedfast("evaluate", gpt2, "--data", data, "--json", "--device", "cpu")
    assert status == 0, err
    record = json.loads(out)
    assert not record["is_bound"]
    assert record["bytes"] == sum(len(text.encode()) for text in texts)
    assert record["perplexity"] == pytest.approx(math.exp(record["nats_per_token"]))
    bits = record["nats_per_token"] * record["tokens"] / math.log(2)
    assert record["bits_per_byte"] == pytest.approx(bits / record["bytes"])
    total, count = by_hand(gpt2, texts)
    assert record["tokens"] == count
    # A window may begin inside a document, whose earlier tokens it does not see; here no document is longer than one.
    assert record["nats_per_token"] == pytest.approx(total / count, rel=0.02)


def test_a_text_shorter_than_a_window_is_evaluated_too(gpt2: Path, tmp_path: Path, seedfast: Run) -> None:
    (tmp_path / "short.txt").write_text("the cat sees the dog.\nthe dog sees the cat.\nthe end.\n")
    status, out, err = seedfast("evaluate", gpt2, "--data", tmp_path / "short.txt", "--json", "--device", "cpu")
    assert status == 0, err
    assert json.loads(out)["bytes"] == 53


def test_chats_are_scored_where_the_model_answers(gpt2: Path, tmp_path: Path, seedfast: Run) -> None:
    rows = [{"prompt": f"the {number} ", "completion": "cat"} for number in range(12)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, err = seedfast("evaluate", gpt2, "--data", tmp_path / "chats.jsonl", "--json", "--device", "cpu")
    assert status == 0, err
    words = transformers.AutoTokenizer.from_pretrained(gpt2)
    assert json.loads(out)["tokens"] == 12 * (len(words("cat").input_ids) + 1)


def test_a_bare_model_without_data_has_no_loss(gpt2: Path, seedfast: Run) -> None:
    status, _, err = seedfast("evaluate", gpt2, "--device", "cpu")
    assert (status, "--data" in err) == (2, True)


@pytest.mark.parametrize(
    "changes", [{"mask_token_id": 3}, {"model_type": "diffusion"}, {"architectures": ["BertForMaskedLM"]}], ids=str
)
def test_a_masked_model_is_never_taken_for_a_causal_one(
    changes: dict[str, Any], gpt2: Path, story: Path, tmp_path: Path, seedfast: Run
) -> None:
    folder = tmp_path / "masked"
    folder.mkdir()
    for path in gpt2.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    for words in (
        ("sample", folder),
        ("evaluate", folder, "--data", story),
        ("train", "finetune", "--model", folder, "--data", story, "--out", tmp_path / "run"),
    ):
        status, _, err = seedfast(*words)
        assert status == 2
        assert "predicts masked tokens" in err


def test_folders_that_hold_no_usable_model_are_named(tmp_path: Path, seedfast: Run) -> None:
    cases: dict[str, tuple[str, str]] = {
        "config.json": ("{}", "no model_type"),
        "adapter_config.json": ("{}", "does not name the model"),
        "model_index.json": ("{}", "did not export"),
    }
    for name, (content, sentence) in cases.items():
        folder = tmp_path / name.removesuffix(".json")
        folder.mkdir()
        (folder / name).write_text(content)
        status, _, err = seedfast("sample", folder)
        assert (status, sentence in err) == (2, True), err
    (tmp_path / "config/config.json").write_text("[" * 100_000)
    status, _, err = seedfast("sample", tmp_path / "config")
    assert (status, "cannot be read as JSON" in err) == (2, True), err
