"""Fine-tuning as it is typed: train, evaluate, sample, export, load elsewhere; and one sentence for each mistake."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import tiny_models
from tests.helpers.cli import Run
from tests.helpers.processes import python

from seedfast import api
from seedfast.cli import main
from seedfast.errors import UserError
from seedfast.models.adapter import Adapter
from seedfast.models.causal_lm import PretrainedLM


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, story: Path) -> Path:
    """A tiny random Llama with its tokenizer."""
    return tiny_models.folder(tmp_path_factory.mktemp("base") / "llama", "llama", text=story.read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, base: Path, story: Path) -> Path:
    """Two finished runs, `full` and `lora`, trained as a user would."""
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in (("full", []), ("lora", ["--model.adapter.kind", "lora"])):
        with pytest.raises(SystemExit) as ended:
            main([
                "train", "finetune", "--model", str(base), "--data", str(story), "--out", str(folder / name),
                "--data.context", "32", "--steps", "6", "--eval-every", "3", "--batch-size", "4",
                "--optimizer.lr", "0.01", "--no-report", *flags,
            ])  # fmt: skip
        assert not ended.value.code
    return folder


def ids(folder: Path) -> Any:
    return tiny_models.transformers.AutoTokenizer.from_pretrained(folder)("the cat sees", return_tensors="pt").input_ids


@torch.no_grad()
def test_an_exported_model_loads_by_itself_and_is_the_runs(
    runs: Path, base: Path, seedfast: Run, tmp_path: Path
) -> None:
    import peft

    load = tiny_models.transformers.AutoModelForCausalLM.from_pretrained
    for words in (["full"], ["lora"], ["lora", "--merge"]):
        out = tmp_path / "-".join(words)
        status, _, err = seedfast("export", runs / words[0], "--out", out, *words[1:])
        assert status == 0, err
        seen = load(out)(ids(out)).logits
        assert torch.equal(ids(out), ids(base)), "the tokenizer is the base's own"
        if words == ["lora"]:
            assert not (out / "model.safetensors").exists(), "an adapter stays one"
            assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
            adapted = peft.AutoPeftModelForCausalLM.from_pretrained(out)(ids(out)).logits
            torch.testing.assert_close(adapted, seen)
        if words == ["lora", "--merge"]:
            torch.testing.assert_close(seen, adapted, rtol=1e-4, atol=1e-5)
        assert (seen - load(base)(ids(base)).logits).abs().max() > 1e-3, "it has learned something"
        best = json.loads((runs / words[0] / "best.json").read_text())["raw"]
        card = (out / "README.md").read_text()
        assert f"{best['loss']:.4f}" in card
        assert "perplexity (exact)" in card
        assert str(runs) not in card, "no folder of this machine"
    status, _, err = seedfast("export", runs / "full", "--out", tmp_path / "full")
    assert (status, "exists already" in err) == (2, True)
    status, _, err = seedfast("export", runs / "full", "--out", tmp_path / "x", "--merge")
    assert (status, "no adapter to merge" in err) == (2, True)
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob("*unfinished*"))


def test_a_bare_model_folder_can_be_sampled_from_and_streamed(
    runs: Path, base: Path, seedfast: Run, tmp_path: Path
) -> None:
    seedfast("export", runs / "lora", "--out", tmp_path / "merged", "--merge")
    words = ["--prompt", "the cat", "--tokens", "8", "--top-k", "9", "--top-p", "0.9", "--temperature", "0.7"]
    status, whole, err = seedfast("sample", tmp_path / "merged", *words)
    assert status == 0, err
    assert whole.startswith("the cat")
    _, from_run, _ = seedfast("sample", runs / "lora", *words)
    assert from_run == whole, "the same model, the same keys, the same text"
    _, streamed, _ = seedfast("sample", tmp_path / "merged", *words, "--stream")
    assert streamed.rstrip("\n�") == whole.rstrip("\n�")
    status, chat, _ = seedfast("sample", base, "--chat", *words)
    assert chat.startswith("<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n")
    for flags, sentence in (
        (["--weights", "raw"], "is a bare model"),
        (["--stream", "--num", "2"], "Only one continuation"),
        (["--chat"], "give it as --prompt"),
    ):
        status, _, err = seedfast("sample", base, *flags)
        assert (status, sentence in err) == (2, True), err


@torch.no_grad()
def test_a_finished_run_holds_its_best_model_for_transformers(runs: Path, base: Path) -> None:
    """As save_pretrained writes it; of an adapter, as a folder of peft."""
    import peft

    load = tiny_models.transformers.AutoModelForCausalLM.from_pretrained
    for name, kind in (("full", load), ("lora", peft.AutoPeftModelForCausalLM.from_pretrained)):
        folder = runs / name / "model"
        best = json.loads((runs / name / "best.json").read_text())["raw"]
        assert json.loads((folder / "checkpoint.json").read_text())["step"] == best["step"]
        ours = api.load(runs / name, step=best["step"], device="cpu").network(ids(base))
        torch.testing.assert_close(kind(folder).eval()(ids(folder)).logits, ours, atol=1e-5, rtol=1e-4)
        assert not list((runs / name).glob("model.*")), "nothing else is left"


def test_the_best_model_is_written_again_only_for_another_checkpoint(
    base: Path, story: Path, seedfast: Run, tmp_path: Path
) -> None:
    words = [
        "train", "finetune", "--model", base, "--data", story, "--out", tmp_path / "run", "--data.context", "32",
        "--batch-size", "4", "--eval-every", "1", "--optimizer.lr", "0.01", "--no-report", "--sample-every", "0",
        "--steps",
    ]  # fmt: skip
    assert seedfast(*words, "1")[0] == 0
    first = (tmp_path / "run/model/model.safetensors").stat()
    assert seedfast(*words, "1")[0] == 0
    assert (tmp_path / "run/model/model.safetensors").stat() == first, "it is still this checkpoint's"
    assert seedfast(*words, "3")[0] == 0
    assert (tmp_path / "run/model/model.safetensors").stat().st_ino != first.st_ino
    assert json.loads((tmp_path / "run/model/checkpoint.json").read_text())["step"] == 3


def test_an_adapter_folder_is_sampled_and_evaluated_with_its_base(
    runs: Path, base: Path, story: Path, seedfast: Run, tmp_path: Path
) -> None:
    folder = runs / "lora/model"
    words = ["--prompt", "the cat", "--tokens", "8", "--device", "cpu"]
    best = json.loads((runs / "lora/best.json").read_text())["raw"]["step"]
    status, from_folder, err = seedfast("sample", folder, *words)
    assert status == 0, err
    assert from_folder == seedfast("sample", runs / "lora", "--at", str(best), *words)[1]
    losses = [
        json.loads(seedfast("evaluate", place, "--data", story, "--json", "--device", "cpu")[1])["nats_per_token"]
        for place in (folder, base)
    ]
    assert losses[0] < losses[1], "the adapter is in use"
    moved = tmp_path / "adapter"
    shutil.copytree(folder, moved)
    config = json.loads((moved / "adapter_config.json").read_text()) | {"base_model_name_or_path": "/nowhere/base"}
    (moved / "adapter_config.json").write_text(json.dumps(config))
    status, _, err = seedfast("sample", moved)
    assert (status, "/nowhere/base" in err) == (2, True), err
    (folder / "adapter_model.safetensors").rename(moved / "away")
    status, _, err = seedfast("sample", folder)
    (moved / "away").rename(folder / "adapter_model.safetensors")
    assert (status, "The adapter in" in err) == (2, True), err


def test_a_model_continued_as_masked_diffusion_stays_one(
    base: Path, story: Path, seedfast: Run, tmp_path: Path
) -> None:
    """Its export is sampled from by unmasking, and never read as a causal model."""
    status, _, err = seedfast(
        "train", "finetune-masked", "--model", base, "--data", story, "--out", tmp_path / "run", "--data.context",
        "32", "--batch-size", "4", "--steps", "2", "--device", "cpu", "--no-report", "--sample-every", "0",
    )  # fmt: skip
    assert status == 0, err
    folder = tmp_path / "run/model"
    words = ["--prompt", "the cat", "--tokens", "8", "--device", "cpu"]
    status, text, err = seedfast("sample", folder, *words)
    assert status == 0, err
    assert text == seedfast("sample", tmp_path / "run", *words)[1]
    assert json.loads(seedfast("evaluate", folder, "--data", story, "--json", "--device", "cpu")[1])["is_bound"]
    assert "vllm serve" not in (folder / "README.md").read_text()
    status, _, err = seedfast("train", "finetune", "--model", folder, "--data", story, "--out", tmp_path / "causal")
    assert (status, "predicts masked tokens" in err) == (2, True), err


def test_base_and_tuned_are_shown_and_measured_side_by_side(runs: Path, seedfast: Run) -> None:
    words = ["--prompt", "the cat", "--prompt", "a dog", "--tokens", "20", "--beside", "base"]
    status, out, err = seedfast("sample", runs / "lora", *words)
    assert status == 0, err
    assert out.index("base weights") < out.index("raw weights") < out.index("distinct 1") < out.index("repetition 4")
    scores = [json.loads(seedfast("evaluate", runs / "lora", "--json", "--weights", w)[1]) for w in ("raw", "base")]
    assert scores[0]["nats_per_token"] < scores[1]["nats_per_token"]
    for score in scores:
        assert score["perplexity"] == pytest.approx(2.718281828459045 ** score["nats_per_token"])
    assert scores[1]["step"] == 0


def test_mistakes_are_sentences(runs: Path, base: Path, story: Path, seedfast: Run, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "run")]
    for words, sentence in (
        (["train", "finetune", "--data", story, *out], "name a folder or a hub name with --model"),
        (["train", "text-masked", "--model", base, "--data", story, *out], "takes no --model"),
        (["train", "finetune", "--model", "some/model", "--data", story, *out], "cannot be loaded"),
        (
            ["train", "finetune", "--model", base, "--data", story, "--data.context", "99", *out],
            "context of this model is 64 tokens",
        ),
        (["push", base, "me/model"], "cannot be pushed"),
        (["push", runs / "full", "me/model"], "cannot be pushed"),
        (["push", runs, "me/model"], "is neither a run folder nor one that seedfast export made"),
        (["sample", tmp_path, "--prompt", "x"], "has no checkpoint"),
    ):
        status, _, err = seedfast(*words)
        assert status == 2, (words, err)
        assert sentence in err, err
        notice = err.startswith("raw weights, step")  # which model was to be pushed
        assert err.count("\n") == 1 + notice, err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    """In a process where transformers cannot be imported."""
    code = "import sys; sys.modules['transformers'] = None; from seedfast.cli import main; main(sys.argv[1:])"
    result = python(code, "train", "finetune", "--model", "gpt2", "--out", tmp_path).finish()
    assert result.returncode == 2
    assert "pip install" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_model_with_new_weights_has_no_base(story: Path, seedfast: Run, tmp_path: Path) -> None:
    from tests.helpers.runs import small_run, train_in

    train_in(tmp_path / "run", small_run("text-autoregressive", story, steps=2))
    status, _, err = seedfast("evaluate", tmp_path / "run", "--weights", "base")
    assert (status, "no pretrained base" in err) == (2, True)


def test_an_adapter_needs_peft(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    config = PretrainedLM(path=str(base), adapter=Adapter(kind="lora")).located()
    with pytest.raises(UserError, match="Adapters need peft"):
        config.build(vocabulary=300, context=16, causal=True)
