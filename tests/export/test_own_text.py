"""Text networks that were trained here leave for transformers with the same logits and the same tokens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.networks import build, tokens
from tests.helpers.processes import Command
from tests.helpers.runs import small_run, train_in
from torch import Tensor

from seedfast import api, cli
from seedfast.data.text.tokenizers import Bytes, Characters
from seedfast.errors import UserError
from seedfast.evaluate.origin import Origin
from seedfast.evaluate.trained import Trained
from seedfast.export import transformers_shape
from seedfast.export.export import export
from seedfast.export.hf_tokenizer import write_tokenizer
from seedfast.export.transformers_shape import as_transformers
from seedfast.families.text.mask_counts import MEASURED
from seedfast.families.text.masked import MaskedObjective
from seedfast.models.transformer import Transformer

transformers = pytest.importorskip("transformers")

SIZES = {"layers": 2, "heads": 2, "width": 16}
SHAPES = {
    "qwen3": Transformer(**SIZES),
    "qwen3 tied": Transformer(**SIZES, tied=True, hidden=40),
    "llama": Transformer(**SIZES, qk_norm=False),
    "llama with biases": Transformer(**SIZES, qk_norm=False, bias=True),
    "gpt2": Transformer.gpt2(**SIZES),
    "gpt2 of nanoGPT": Transformer.gpt2(**SIZES, mlp="gelu-erf", bias=False, tied=False),
    "gpt2 with squared ReLU": Transformer.gpt2(**SIZES, mlp="relu2"),
}
OTHERS = {
    "squared ReLU with RMSNorm": Transformer(**SIZES, mlp="relu2"),
    "biases with QK-norm": Transformer(**SIZES, bias=True),
    "learned positions with RMSNorm": Transformer(**SIZES, positions="learned", tied=True),
    "LayerNorm with rotary positions": Transformer(**SIZES, norm="layer", mlp="gelu"),
    "n-grams": Transformer(**SIZES, ngrams=(8,)),
    "n-grams in all layers": Transformer(**SIZES, ngrams=(8,), ngrams_in="layers"),
}


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_a_network_with_the_architecture_of_a_class_of_transformers_has_its_logits(name: str) -> None:
    network = build(SHAPES[name])
    plain = as_transformers(network, end_of_text=10)
    assert plain is not None
    assert plain.config.model_type == name.split()[0]
    tokens_BL = tokens(3, 16)
    expected = network(tokens_BL)
    torch.testing.assert_close(plain(tokens_BL).logits, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


@torch.no_grad()
def test_rotary_pairs_must_be_moved_to_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the comparison above could not detect a wrong order."""
    network = build(SHAPES["qwen3"])
    monkeypatch.setattr(transformers_shape, "_halves", lambda rows, size: rows)
    broken = as_transformers(network, end_of_text=10)
    assert broken is not None
    assert not torch.allclose(broken(tokens(3, 16)).logits, network(tokens(3, 16)), atol=1e-2)


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_have_no_class(name: str) -> None:
    assert as_transformers(build(OTHERS[name]), end_of_text=10) is None


@pytest.mark.parametrize("tokenizer", [Characters("\n abcé🙂"), Bytes()], ids=["characters", "bytes"])
def test_a_tokenizer_of_transformers_has_the_same_ids(tokenizer: Any, tmp_path: Path) -> None:
    for is_masked in (False, True):
        folder = tmp_path / str(is_masked)
        folder.mkdir()
        write_tokenizer(tokenizer, folder, mask=is_masked)
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        text = "a bé\n🙂c  "
        assert theirs(text).input_ids == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
        assert theirs.eos_token_id == tokenizer.end_of_text
        assert theirs.mask_token_id == (tokenizer.size if is_masked else None)


_TINY = Transformer(layers=1, heads=2, width=16)
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("text-autoregressive", {}),
    "own code": ("text-autoregressive", {"model": Transformer(layers=1, heads=2, width=16, mlp="relu2", bias=True)}),
    "masked": ("text-masked", {}),
    "own code with n-grams": (
        "text-autoregressive",
        {"model": replace(_TINY, layers=2, ngrams=(97, 32), ngrams_in="layers")},
    ),
    "masked with n-grams": ("text-masked", {"model": replace(_TINY, ngrams=(97, 32))}),
    "proofreading with n-grams": ("text-proofreading", {"model": replace(_TINY, ngrams=(97, 32))}),
    "masked and tied": ("text-masked", {"model": Transformer(layers=1, heads=2, width=16, tied=True)}),
    "proofreading": ("text-proofreading", {}),
}


@pytest.fixture(scope="module", params=RUNS)
def exported(request: pytest.FixtureRequest, story: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A short run and its export."""
    folder = tmp_path_factory.mktemp("export")
    recipe, changes = RUNS[request.param]
    train_in(folder / "run", replace(small_run(recipe, story), steps=4, **changes))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["export", str(folder / "run"), "--out", str(folder / "out")])
    return request.param, folder


def _scores(model: Trained, inputs_BL: Tensor) -> Tensor:
    """The network's own logits of words."""
    with torch.no_grad():
        logits: Tensor = model.network(inputs_BL)[..., : model.tokenizer.size]
    return logits


@torch.no_grad()
def test_an_export_has_the_logits_of_its_run(exported: tuple[str, Path]) -> None:
    name, folder = exported
    ours, size = api.load(folder / "run", device="cpu"), api.load(folder / "run", device="cpu").tokenizer.size
    inputs_BL = torch.randint(size, (2, 16), generator=torch.Generator().manual_seed(0))
    is_causal = RUNS[name][0] == "text-autoregressive"
    kind = transformers.AutoModelForCausalLM if is_causal else transformers.AutoModelForMaskedLM
    theirs, found = kind.from_pretrained(folder / "out", trust_remote_code=name != "qwen3", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    other_BL = inputs_BL.clone()
    if kind is transformers.AutoModelForMaskedLM:
        objective: Any = ours.family.evaluated
        inputs_BL[:, ::3], other_BL[:, ::3] = objective.mask, theirs.config.mask_token_id
    logits = theirs.eval()(other_BL).logits
    torch.testing.assert_close(logits[..., :size], _scores(ours, inputs_BL), atol=1e-4, rtol=1e-4)
    assert bool((logits[..., size:] == -torch.inf).all()), "no other token has a probability"


def test_seedfast_samples_from_an_export_as_from_its_run(exported: tuple[str, Path]) -> None:
    name, folder = exported
    run, bare = api.load(folder / "run", device="cpu"), api.load(folder / "out", device="cpu")
    assert run.tokenizer == bare.tokenizer
    if "proofreading" not in name:  # whose run also goes back over its words
        assert bare.sample(prompt="the ", tokens=8).texts == run.sample(prompt="the ", tokens=8).texts


def test_the_bound_of_an_export_is_measured_with_uniform_numbers_of_masks(exported: tuple[str, Path]) -> None:
    name, folder = exported
    objective = api.load(folder / "out", device="cpu").family.evaluated
    law = objective.options.estimator if isinstance(objective, MaskedObjective) else None
    assert law == (None if RUNS[name][0] == "text-autoregressive" else MEASURED)


def test_an_export_tells_the_step_and_the_weights_that_it_holds(exported: tuple[str, Path]) -> None:
    _, folder = exported
    run, bare = api.load(folder / "run", device="cpu"), api.load(folder / "out", device="cpu")
    assert bare.origin == run.origin.replace(str(folder / "run"), "run") + ", exported"
    assert (bare.step, bare.weights) == (run.step, run.weights)
    assert str(folder) not in (folder / "out/checkpoint.json").read_text(), "no folder of this machine"
    for content in ("[]", "{}", '{"weights": "ema", "step": "4", "best": true, "run": "x", "seal": ""}'):
        stranger = folder / "stranger"
        stranger.mkdir(exist_ok=True)
        (stranger / "checkpoint.json").write_text(content)
        assert Origin.read(stranger) is None


WITHOUT_SEEDFAST = "import sys; sys.modules |= {name: None for name in sys.modules if name.startswith('seedfast')}\n"


def test_the_card_shows_code_that_runs(exported: tuple[str, Path], tmp_path: Path) -> None:
    """In a process that cannot import seedfast."""
    name, folder = exported
    card = (folder / "out/README.md").read_text()
    code = card.split("```python")[1].split("```")[0].replace("PATH", str(folder / "out"))
    (tmp_path / "card.py").write_text(WITHOUT_SEEDFAST + code)
    done = Command(str(tmp_path / "card.py"), []).finish()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert ("transformers serve" in card) == (name == "qwen3")
    assert "llama.cpp" not in card, "its converter knows published tokenizers only"
    assert "vllm" not in card, "it has no attention for heads of 8 channels"
    assert str(folder / "run") not in card, "no folder of this machine"


def test_a_padded_batch_has_the_logits_of_each_text_alone(story: Path, tmp_path: Path) -> None:
    train_in(tmp_path / "run", replace(small_run("text-autoregressive", story), steps=2, **RUNS["own code"][1]))
    export(api.load(tmp_path / "run", device="cpu"), tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    short = torch.tensor([[5, 6, 7]])
    padded, real = torch.tensor([[0, 0, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1, 1]])
    with torch.no_grad():
        alone, beside = model(short).logits, model(padded, attention_mask=real).logits[:, 2:]
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-5)


def test_block_and_embedding_diffusion_are_not_exported(story: Path, tmp_path: Path) -> None:
    for recipe in ("text-block", "text-embedding"):
        train_in(tmp_path / recipe, replace(small_run(recipe, story), steps=2))
        with pytest.raises(UserError, match="seedfast's own"):
            export(api.load(tmp_path / recipe, device="cpu"), tmp_path / "out")
