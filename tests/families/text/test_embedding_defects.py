"""The defects that an older system for embedding diffusion had, each by name, and that this one must not have."""

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.runs import small_run, train_in, train_until
from torch import Tensor

from seedfast import keys, recipes
from seedfast.data.text.config import TextAssets, TextData
from seedfast.data.text.tokenizers import Characters
from seedfast.errors import UserError
from seedfast.evaluate import trained
from seedfast.families.text.embedding import Embedding, EmbeddingDiffusion, EmbeddingNetwork, EmbeddingRequest, sampling
from seedfast.families.text.embedding.sampling import Denoiser, Page
from seedfast.families.text.request import TextSamples
from seedfast.keys import Draws
from seedfast.loop.config import Run
from seedfast.loop.open import open_session
from seedfast.models.transformer import Transformer
from seedfast.optim.optimizer import OptimizerConfig
from seedfast.run_folder import journal
from seedfast.verify.resume import compare


def files(folder: Path, count: int = 30) -> Path:
    """Files of different lengths, of which no line occurs twice."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:02}.py").write_text(
            "".join(f"x{number}_{line} = {line}\n" for line in range(number % 7 + 1))
        )
    return folder


def run_of(folder: Path, **changes: Any) -> Run:
    data = TextData(path=str(files(folder)), tokenizer="bytes", context=16, prompt=8, one_document_per_window=True)
    return small_run(
        "text-embedding", folder, **{"data": data, "steps": 6, "save_every": 3, "eval_every": 3, **changes}
    )


def network_of(of: EmbeddingDiffusion) -> EmbeddingNetwork:
    keys.seed_torch(0, "test")
    network = of.network(Transformer(layers=1, heads=2, width=16))
    assert isinstance(network, EmbeddingNetwork)
    return network


def draws(count: int, scope: str = "x") -> Draws:
    return Draws(seed=1, scope=scope, positions_B=torch.arange(count), group=count)


def family(prompt: int = 0, **options: Any) -> EmbeddingDiffusion:
    assets = TextAssets(Characters("abcdefgh"), 12, validation_tokens=1, validation_bytes=1, prompt=prompt)
    return Embedding(**{"channels": 8, **options}).build(assets)


def batch(count: int, prompt: int = 0) -> dict[str, Tensor]:
    """Texts of eight letters that repeat from a letter on: something that can be learned."""
    tokens_BL = (draws(count, "text").randint("first", 1, high=8) + torch.arange(13)) % 8
    found = {"tokens": tokens_BL, "scored": torch.ones(count, 12, dtype=torch.bool)}
    missing = torch.zeros(count, prompt, dtype=torch.bool)
    return found | ({"prompt": missing.long(), "prompt_real": missing} if prompt else {})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on files, whose files, and whatever was prepared of them, are gone."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEDFAST_CACHE", str(folder / "cache"))
        train_in(folder / "run", run_of(folder / "files"))
    shutil.rmtree(folder / "files")
    shutil.rmtree(folder / "cache")
    return folder / "run"


# ---- checkpoints ----------------------------------------------------------------------------------------------


def test_generation_takes_the_averaged_weights_unless_told_otherwise(finished: Path) -> None:
    checkpoint = trained.find(finished)
    stored = {kind: load_file(checkpoint.folder / f"{kind}.safetensors") for kind in ("ema", "model")}
    for weights, kind in ((None, "ema"), ("ema", "ema"), ("raw", "model")):
        model = trained.load(recipes.stored(checkpoint.folder), checkpoint, weights=weights)  # type: ignore[arg-type]
        own = model.network.get_parameter("frequency")
        (name,) = [name for name in stored[kind] if name.endswith("frequency")]
        assert torch.equal(own, stored[kind][name])
        assert not torch.equal(stored["ema"][name], stored["model"][name])


def test_a_checkpoint_holds_tensors_and_plain_text_and_nothing_that_is_executed(finished: Path) -> None:
    for file in trained.find(finished).folder.rglob("*"):
        if file.is_file():
            assert file.suffix in (".safetensors", ".json", ".yaml"), file
            assert load_file(file) if file.suffix == ".safetensors" else file.read_text()


def test_the_tokenizer_is_in_the_checkpoint_and_gives_back_what_it_was_never_trained_on(finished: Path) -> None:
    checkpoint = trained.find(finished)
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    tokenizer = model.family.assets.tokenizer  # type: ignore[attr-defined]
    for text in ("  leading", "\ttab  and\r\nlines ", "naïve 漢字 🌱", "\x00\x7f", " "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    samples = model.sample(EmbeddingRequest(prompt=("  x\t",), steps=2), seed=1)
    assert isinstance(samples, TextSamples)
    assert samples.texts[0].startswith("  x\t")


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_byte_level_tokens_drop_no_character(kind: str, tmp_path: Path) -> None:
    vocabulary = 262 if kind == "bpe" else None
    path = str(files(tmp_path / "files"))
    tokenizer = TextData(path=path, tokenizer=kind, vocabulary=vocabulary, context=8).load().assets.tokenizer
    for text in ("  leading", "ÄÖÜ ß", "🧑‍🚀\u200b\u2028", "x" * 50, "\n\n \n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_another_vocabulary_on_a_resume_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "files")
    train_in(tmp_path / "run", run)
    with pytest.raises(UserError, match=r"data\.tokenizer = bytes, and now characters"):
        train_in(tmp_path / "run", replace(run, data=replace(run.data, tokenizer="characters")))
    (tmp_path / "files/00.py").write_text("something = else_\n")
    with pytest.raises(UserError, match="The data is not what"):
        train_in(tmp_path / "run", run)


# ---- steps ----------------------------------------------------------------------------------------------------


def test_the_gradient_is_clipped_after_it_was_unscaled(tmp_path: Path) -> None:
    """A scaled gradient is 65536 times as long: clipped before, it would be next to nothing afterwards."""
    run = run_of(tmp_path / "files", clip=1e-3, eval_every=0, steps=3, optimizer=OptimizerConfig(lr=1e-2))
    found: dict[str, list[float]] = {}
    for precision in ("fp32", "fp16"):
        train_in(tmp_path / precision, replace(run, precision=precision))
        found[precision] = [e["gradient_norm"] for e in journal.read(tmp_path / precision) if "gradient_norm" in e]
    assert found["fp16"] == pytest.approx(found["fp32"], rel=0.1)
    assert found["fp32"][0] > 1e-3, "it was clipped, or this test shows nothing"
    moved = []
    for precision in ("fp32", "fp16"):
        first, last = (
            load_file(tmp_path / precision / f"checkpoints/step-{step:08d}/model.safetensors") for step in (0, 3)
        )
        moved.append(torch.cat([(last[name] - first[name]).flatten() for name in sorted(first)]).norm())
    assert float(moved[1]) == pytest.approx(float(moved[0]), rel=0.2)


def test_a_resumed_run_ends_with_the_same_bits_with_accumulation_over_the_end_of_an_epoch(tmp_path: Path) -> None:
    run = run_of(tmp_path / "files", batch_size=7, micro_batch=3, steps=12)
    train_in(tmp_path / "whole", run)
    with open_session(run, tmp_path / "split") as opened:
        assert len(opened.corpus.train) < 12 * 7, "it is more than an epoch"
        train_until(opened, 5)
    train_in(tmp_path / "split", run)
    assert compare(tmp_path / "whole", tmp_path / "split")[0] is None


def test_the_rate_follows_steps_and_not_micro_batches(tmp_path: Path) -> None:
    run = run_of(tmp_path / "files", eval_every=0)
    for size in (1, 6):
        train_in(tmp_path / str(size), replace(run, micro_batch=size))
    one, six = ([e["lr"] for e in journal.read(tmp_path / size) if "lr" in e] for size in ("1", "6"))
    assert one == six
    assert len(one) == 6


def test_each_example_draws_its_own_coins() -> None:
    """Whether it builds on a first answer, and whether its prompt is withheld: never a batch at once."""
    of = family(self_conditioning=0.5, withheld=0.5, context=1.0).at(0)
    task = of.task(batch(200), draws(200))
    withheld_B = (task.symbols_BN == of.withheld).any(dim=1)
    for coin_B in (task.twice_B, withheld_B):
        assert 40 < int(coin_B.sum()) < 160
    assert 20 < int((task.twice_B & withheld_B).sum()) < 80, "and one says nothing of the other"


@pytest.mark.parametrize("reading", ["prefix", "cross"])
@pytest.mark.parametrize("prediction", ["tokens", "x0", "eps", "v"])
def test_every_weight_is_trained(reading: str, prediction: str) -> None:
    """No head without a loss: in one version, that of x0 had none."""
    of = family(prompt=4, reading=reading, prediction=prediction).at(0)
    network = network_of(of)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5)
    rows = batch(64, prompt=4)
    rows["prompt_real"][::2] = True
    for _ in range(3):  # behind gates that start at zero, gradients come one step later
        optimizer.zero_grad()
        of.loss(network, of.task(rows, draws(64)), {}).total_B.mean().backward()
        optimizer.step()
    idle = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    assert idle == []


# ---- prompts --------------------------------------------------------------------------------------------------


def test_a_file_s_first_window_has_no_prompt_and_no_window_is_given_its_own_text(tmp_path: Path) -> None:
    """Of the older system's first chunks the prompt was the target."""
    corpus = run_of(tmp_path / "files").data.load()
    of = Embedding(context=0.0, withheld=0.0).build(corpus.assets)
    firsts = 0
    for ids in ([index] for index in range(len(corpus.train))):
        rows = corpus.train.batch(ids)
        task = of.at(0).task(rows, draws(1))
        shown = task.symbols_BN[0, :8]
        if int(rows["tokens"][0, 0]) == of.end_of_text:  # it stands before a document's first token
            firsts += 1
            assert (shown == of.withheld).all()
        else:
            given = shown[shown != of.withheld]
            assert len(given) == 8
            assert int(given[-1]) == int(rows["tokens"][0, 0]), "what stands just before"
        window = task.symbols_BN[0, 8:]
        assert not ((window != of.open) & task.real_BN[0, 8:]).any(), "nothing of the target is shown"
    assert firsts == corpus.splits["train"]["documents"]


@pytest.mark.parametrize("reading", ["prefix", "cross"])
def test_a_prompt_of_which_nothing_is_there_is_finite_and_a_learned_null(reading: str) -> None:
    """A memory that is masked as a whole gave NaN."""
    of = family(prompt=4, reading=reading)
    network = network_of(of)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        total_B = of.loss(network, of.task(batch(16, prompt=4), draws(16)), {}).total_B
        assert torch.isfinite(total_B).all()
        total_B.mean().backward()
        optimizer.step()
    slope = network.transformer.tokens.weight.grad
    assert slope is not None
    assert slope[of.withheld].any()


# ---- noise and samplers ---------------------------------------------------------------------------------------


def test_embeddings_can_neither_outgrow_the_noise_nor_vanish_in_it() -> None:
    network = network_of(family())
    for scale in (1e-4, 1.0, 1e4):
        with torch.no_grad():
            network.vectors.weight.mul_(scale)
        assert torch.allclose(network.embeddings().square().mean(dim=1), torch.ones(9), rtol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++2m", "heun"])
def test_a_sampler_ends_with_x0_and_not_at_the_first_noise_level(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = family()
    network = network_of(of).eval()
    estimates: list[Tensor] = []
    whole = Denoiser.__call__

    def remembered(self: Denoiser, *inputs: Any) -> Tensor:
        estimates.append(whole(self, *inputs))
        return estimates[-1]

    monkeypatch.setattr(Denoiser, "__call__", remembered)
    request = EmbeddingRequest(sampler=sampler, steps=5)  # type: ignore[arg-type]
    page = Page.of(of.canvases(request) * 3, of, torch.device("cpu"))
    with torch.no_grad():
        *_, last = sampling.vectors(Denoiser(network, page, request), request, draws(3), 12)
    # DPM-Solver++ extrapolates x0 from the last two estimates, unless its last step is infinitely long.
    assert torch.allclose(last.float(), estimates[-1].float(), atol=1e-4)


def test_a_text_longer_than_the_model_was_trained_on_is_refused(finished: Path, tmp_path: Path) -> None:
    checkpoint = trained.find(finished)
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    for request, message in (
        (EmbeddingRequest(tokens=17), "trained on 16 tokens at most"),
        (EmbeddingRequest(prompt=("123456789",)), "9 tokens, but this model was trained with 8 at most"),
        (EmbeddingRequest(infill="a<gap:16>"), "17 tokens with its gaps"),
    ):
        with pytest.raises(UserError, match=message):
            model.sample(request, seed=1)
    run = run_of(tmp_path / "files")
    train_in(tmp_path / "run", run)
    with pytest.raises(UserError, match=r"data\.context = 16, and now 32 is asked for"):
        train_in(tmp_path / "run", replace(run, data=replace(run.data, context=32)))


# ---- what is measured -----------------------------------------------------------------------------------------


def test_what_validates_was_never_trained_on_and_is_measured_in_bits_per_byte(finished: Path) -> None:
    records = [e["validation"] for e in journal.read(finished) if "validation" in e]
    assert len(records) == 2
    for record, weights in product(records, ("raw", "ema")):
        assert 0 < record[weights]["bits_per_byte"] < 20
        assert record[weights]["standard_error"] > 0
    assert json.loads((finished / "best.json").read_text())["ema"]["step"] in (3, 6)


@pytest.mark.parametrize(
    ("schedule", "prediction", "loss"),
    [
        each
        for each in product(("learned", "linear", "cosine"), ("tokens", "x0", "eps", "v"), ("bound", "weighted"))
        if each[::2] != ("learned", "weighted")
    ],
)
def test_every_objective_is_learned(schedule: str, prediction: str, loss: str) -> None:
    of = family(schedule=schedule, prediction=prediction, loss=loss, self_conditioning=0.5)
    network, training = network_of(of), of.at(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    rows = batch(64)

    def measured() -> float:
        with torch.no_grad():
            terms = of.loss(network, of.task(batch(256), draws(256, "eval")), {})
        total, weight = terms.diagnostics["nelbo"] if loss == "weighted" else (terms.total_B.sum(), 256 * 12)
        return float(total) / float(weight)

    before = measured()
    for step in range(60):
        at = Draws(seed=1, scope="train", positions_B=torch.arange(step * 64, step * 64 + 64), group=64)
        optimizer.zero_grad()
        task = training.task(rows, at)
        (training.loss(network, task, {}).total_B.sum() / task.weight_B.sum()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert measured() < 0.98 * before  # by the same texts, times and noises
