"""`seedfast import`: causal and masked checkpoints of other programs become runs, or are refused by what they are."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.cli import Run
from tests.helpers.runs import train_in
from tests.models.test_import_gpt2 import nanogpt_state
from torch.nn import functional as F

from seedfast import api
from seedfast.models.import_gpt2 import from_nanogpt

LETTERS = "\n ,.acdeghiklmnorstuwy"  # of the text below
SENTENCES = "the cat sees the dog, and the dog\nsees a milk can. how lucky we are\nin this garden\n"
TEXT = "".join(letter for letter in SENTENCES * 12 if letter in LETTERS)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    assert sorted(set(TEXT)) == list(LETTERS)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def checkpoint(path: Path, rows: int, **args: Any) -> Path:
    """A nanoGPT checkpoint with random weights and this many rows."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": rows, "bias": True}
    torch.save({"model": nanogpt_state(sizes), "model_args": {**sizes, **args}}, path)
    return path


MASKED: dict[str, tuple[int, dict[str, Any], str, dict[str, int]]] = {
    "mask": (1, {"model_type": "diffusion", "mask_token_id": 22}, "text-masked", {"mask": 22}),
    "mask alone": (1, {"mask_token_id": 22}, "text-masked", {"mask": 22}),
    "mask with its bias": (1, {"mask_token_id": 22, "mask_logit_bias": 3.5}, "text-proofreading", {"mask": 22}),
    "mask and wrong": (2, {"mask_token_id": 22, "wrong_token_id": 23}, "text-proofreading", {"mask": 22, "wrong": 23}),
    "edits": (
        4, {"model_type": "diffusion", "mask_token_id": 24}, "text-proofreading",
        {"delete": 22, "insert": 23, "mask": 24, "wrong": 25},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKED)
def test_a_checkpoint_of_masked_diffusion_becomes_a_masked_run(
    name: str, text: Path, tmp_path: Path, seedfast: Run
) -> None:
    extra, args, recipe, symbols = MASKED[name]
    source = checkpoint(tmp_path / "ckpt.pt", len(LETTERS) + extra, **args)
    out = tmp_path / "run"
    status, printed, err = seedfast("import", source, "--data", text, "--out", out)
    assert status == 0, err
    assert f"a run of {recipe} at step 0" in printed
    model, theirs = api.load(out, device="cpu"), from_nanogpt(source).eval()
    assert not theirs.causal
    objective: Any = model.family.objective
    own = {"mask": objective.mask} if recipe == "text-masked" else {n: i for i, n in objective.symbols.names.items()}
    inputs_BL = torch.randint(len(LETTERS), (2, 12), generator=torch.Generator().manual_seed(0))
    ours_BL = inputs_BL.clone()
    inputs_BL[:, ::3], ours_BL[:, ::3] = symbols["mask"], own["mask"]
    with torch.no_grad():
        expected, found = theirs(inputs_BL), model.network(ours_BL)
    words = [*range(len(LETTERS)), *symbols.values()]
    ids = [*range(len(LETTERS)), *(own[symbol] for symbol in symbols)]
    torch.testing.assert_close(found[..., ids], expected[..., words], atol=1e-4, rtol=0)
    with torch.no_grad():
        causal = from_nanogpt(checkpoint(tmp_path / "causal.pt", len(LETTERS) + extra)).eval()(inputs_BL)
    assert not torch.allclose(causal, expected, atol=1e-2), "the attention is bidirectional"
    assert seedfast("evaluate", out, "--json", "--device", "cpu")[0] == 0
    assert train_in(out, replace(api.load(out).run, steps=2, batch_size=4), allow_change=("batch_size",)).step == 2


def test_the_settings_of_a_training_tell_a_masked_checkpoint_too(text: Path, tmp_path: Path, seedfast: Run) -> None:
    source = checkpoint(tmp_path / "ckpt.pt", len(LETTERS) + 1)
    content = torch.load(source, weights_only=True)
    torch.save({**content, "config": {"model_type": "diffusion", "dataset": "shakespeare_char"}}, source)
    status, printed, err = seedfast("import", source, "--data", text, "--out", tmp_path / "run")
    assert status == 0, err
    assert "a run of text-masked" in printed


def test_a_masked_checkpoint_with_another_text_is_refused(text: Path, tmp_path: Path, seedfast: Run) -> None:
    source = checkpoint(tmp_path / "ckpt.pt", 30, model_type="diffusion", mask_token_id=29)
    status, _, err = seedfast("import", source, "--data", text, "--out", tmp_path / "run")
    assert (status, "was trained on other tokens" in err) == (2, True), err
    assert not (tmp_path / "run/run.yaml").exists()


@pytest.mark.parametrize("kind", ["gpt2", "diffusion"])
def test_the_folder_of_a_masked_gpt2_becomes_a_masked_run(kind: str, text: Path, tmp_path: Path, seedfast: Run) -> None:
    transformers = pytest.importorskip("transformers")
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 12, "vocab_size": len(LETTERS) + 1}
    folder = tmp_path / "model"
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, activation_function="gelu")).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    activation = "gelu_new" if kind == "gpt2" else "gelu"
    config |= {"model_type": kind, "mask_token_id": len(LETTERS), "activation_function": activation}
    (folder / "config.json").write_text(json.dumps(config))
    status, printed, err = seedfast("import", folder, "--data", text, "--out", tmp_path / "run")
    assert status == 0, err
    assert "a run of text-masked" in printed


@pytest.mark.parametrize("kind", ["llada", "Dream", "bert"])
def test_a_masked_model_of_another_architecture_is_named(kind: str, text: Path, tmp_path: Path, seedfast: Run) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": kind, "mask_token_id": 5}))
    status, _, err = seedfast("import", tmp_path / "model", "--data", text, "--out", tmp_path / "run")
    assert (status, "a masked diffusion model" in err) == (2, True), err


def meta(path: Path, letters: str) -> None:
    ids = {letter: id_ for id_, letter in enumerate(letters)}
    content = {"vocab_size": len(letters), "stoi": ids, "itos": {id_: letter for letter, id_ in ids.items()}}
    path.write_bytes(pickle.dumps(content))


def test_the_alphabet_of_a_meta_pkl_is_the_models(text: Path, tmp_path: Path, seedfast: Run) -> None:
    """In any order, and with letters that the text lacks: every id means the letter that it was trained as."""
    letters = "zxqvj" + LETTERS[::-1]
    source = checkpoint(tmp_path / "ckpt.pt", len(letters))
    meta(tmp_path / "meta.pkl", letters)
    status, _, err = seedfast("import", source, "--data", text, "--out", tmp_path / "run")
    assert status == 0, err
    assert "no meta.pkl" not in err
    model = api.load(tmp_path / "run", device="cpu")
    found = model.log_prob("the cat")
    ids = torch.tensor([letters.index(letter) for letter in "the cat"])
    theirs = from_nanogpt(source).eval()
    before = torch.zeros(1, 16)  # the end-of-text, which the checkpoint does not know
    with torch.no_grad():
        inputs = torch.cat([before, theirs.tokens(ids[:-1])])
        logits = F.pad(theirs(embeddings_BLD=inputs[None])[0], (0, 1))
    assert found == pytest.approx(-float(F.cross_entropy(logits, ids, reduction="sum")), abs=1e-3)
    assert seedfast("train", "text-autoregressive", "--out", tmp_path / "run", "--steps", "2", "--no-report")[0] == 0


def test_without_a_meta_pkl_the_assumption_is_said(text: Path, tmp_path: Path, seedfast: Run) -> None:
    source = checkpoint(tmp_path / "ckpt.pt", len(LETTERS))
    status, _, err = seedfast("import", source, "--data", text, "--out", tmp_path / "run")
    assert (status, "no meta.pkl lies beside" in err) == (0, True)


@pytest.mark.parametrize("rows", [len(LETTERS) - 1, len(LETTERS) + 2, 65, 50304])
def test_a_text_with_another_number_of_letters_is_refused(rows: int, text: Path, tmp_path: Path, seedfast: Run) -> None:
    source = checkpoint(tmp_path / "ckpt.pt", rows)
    status, _, err = seedfast("import", source, "--data", text, "--out", tmp_path / "run")
    assert status == 2
    assert f"{len(LETTERS)} different characters" in err
    assert f"was trained on {rows}" in err
    assert ("--tokenizer gpt2" in err) == (rows == 50304)


def test_a_text_with_unknown_letters_is_refused(tmp_path: Path, text: Path, seedfast: Run) -> None:
    source = checkpoint(tmp_path / "ckpt.pt", 5)
    meta(tmp_path / "meta.pkl", "abcde")
    status, _, err = seedfast("import", source, "--data", text, "--out", tmp_path / "run")
    assert (status, "is not among the 5 characters" in err) == (2, True), err


class Harmful:
    """A pickled call."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(Harmful()), b"", b"no pickle", pickle.dumps({"stoi": {"ab": 0}}), pickle.dumps([1]),
     pickle.dumps({"stoi": {"a": 0, "b": 0}})],
    ids=["harmful", "empty", "text", "words", "list", "twice"],
)  # fmt: skip
def test_nothing_in_a_meta_pkl_is_executed(content: bytes, text: Path, tmp_path: Path, seedfast: Run) -> None:
    source = checkpoint(tmp_path / "ckpt.pt", len(LETTERS))
    (tmp_path / "meta.pkl").write_bytes(content)
    status, _, err = seedfast("import", source, "--data", text, "--out", tmp_path / "run")
    assert (status, "does not hold the alphabet" in err) == (2, True), err
    assert "executed" not in err


def test_a_learned_tokenizer_is_refused(text: Path, tmp_path: Path, seedfast: Run) -> None:
    source = checkpoint(tmp_path / "ckpt.pt", len(LETTERS))
    status, _, err = seedfast("import", source, "--data", text, "--tokenizer", "bpe", "--out", tmp_path / "run")
    assert (status, "is not the one that" in err) == (2, True)
