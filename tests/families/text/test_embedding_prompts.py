"""Prompts of embedding diffusion on known distributions: conditional, unconditional and guided samples."""

from pathlib import Path
from typing import cast

import pytest
import torch
from tests.helpers.quick import slow_but
from tests.helpers.runs import small_run, train_in
from torch import Tensor

from seedfast import keys, recipes
from seedfast.data.text.config import TextData
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Characters
from seedfast.evaluate import trained
from seedfast.families.family import Family
from seedfast.families.text.embedding import Embedding, EmbeddingNetwork, EmbeddingObjective, EmbeddingRequest
from seedfast.families.text.request import TextSamples
from seedfast.keys import Draws
from seedfast.models.transformer import Transformer
from seedfast.run_folder.choice import find

LENGTH, PROMPT = 4, 3
LIKELY = 0.8
"""After a prompt of a's each token is x with this probability, otherwise y; after b's the other way round."""
CONDITIONINGS = ("prefix", "cross")


def draws(step: int, count: int) -> Draws:
    positions_B = torch.arange(step * count, (step + 1) * count)
    return Draws(seed=3, scope="toy", positions_B=positions_B, group=count)


def batch(step: int, count: int) -> dict[str, Tensor]:
    keyed = draws(step, count)
    letter_B1 = keyed.randint("letter", 1, high=2)
    unlikely_BL = (keyed.uniform("text", LENGTH) >= LIKELY).long()
    targets_BL = 2 + (letter_B1 ^ unlikely_BL)
    return {
        "tokens": torch.cat([letter_B1, targets_BL], dim=1),
        "scored": torch.ones(count, LENGTH, dtype=torch.bool),
        "prompt": letter_B1.expand(-1, PROMPT).clone(),
        "prompt_real": torch.ones(count, PROMPT, dtype=torch.bool),
    }


Model = tuple[Family, EmbeddingNetwork]


def family_of(**options: object) -> Family:
    """The family over the alphabet abxy with prompts of three tokens."""
    assets = TextAssets(Characters("abxy"), LENGTH, validation_tokens=1, validation_bytes=1, prompt=PROMPT)
    return Embedding(channels=4, clean_context=0.0, **options).build(assets)  # type: ignore[arg-type]


def trained_model(conditioning: str, *, dropout: float = 0.3, steps: int = 160) -> Model:
    """A small network after some training."""
    family = family_of(prompt_conditioning=conditioning, condition_dropout=dropout)
    objective = cast("EmbeddingObjective", family.objective)
    keys.seed_torch(0, "toy")
    network = cast("EmbeddingNetwork", objective.network(Transformer(layers=1, heads=2, width=16)))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    training = objective.for_step(0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        task = training.task(batch(step, 64), draws(step, 64))
        optimizer.zero_grad()
        (training.loss(network, task, {}).total_B.sum() / task.weight_B.sum()).backward()
        optimizer.step()
    return family, network.eval()


@pytest.fixture(scope="module", params=slow_but(["prefix"], CONDITIONINGS))
def model(request: pytest.FixtureRequest) -> Model:
    return trained_model(request.param)


def fraction_of_x(model: Model, prompt: str, guidance: float, num: int = 300) -> float:
    """The fraction of x among the generated tokens."""
    family, network = model
    assert family.generator is not None
    request = EmbeddingRequest(prompt=(prompt,), num=num, guidance=guidance, steps=20)
    samples = cast("TextSamples", family.generator.generate(network, request, draws(0, num), {}))
    written = "".join(text[len(prompt) :] for text in samples.texts)
    assert set(written) <= set("abxy")
    return written.count("x") / len(written)


def test_samples_follow_the_conditional_distribution(model: Model) -> None:
    assert fraction_of_x(model, "aaa", 1.0) == pytest.approx(LIKELY, abs=0.06)
    assert fraction_of_x(model, "bbb", 1.0) == pytest.approx(1 - LIKELY, abs=0.06)


def test_guidance_of_zero_samples_the_unconditional_distribution(model: Model) -> None:
    for prompt in ("aaa", "bbb", ""):
        assert fraction_of_x(model, prompt, 0.0) == pytest.approx(0.5, abs=0.08)
    assert fraction_of_x(model, "", 1.0) == fraction_of_x(model, "", 0.0), "no prompt is the learned null prompt"


def test_more_guidance_follows_the_prompt_more_closely(model: Model) -> None:
    fractions = [fraction_of_x(model, "aaa", guidance) for guidance in (0.0, 0.5, 1.0, 3.0)]
    assert fractions == sorted(fractions)
    assert fractions[-1] > 0.93
    assert fraction_of_x(model, "bbb", 3.0) < 0.07


def test_the_bound_of_a_prompted_text_is_near_its_entropy_and_higher_with_the_wrong_prompt(model: Model) -> None:
    objective, network = cast("EmbeddingObjective", model[0].objective), model[1]
    count = 4000
    rows = batch(10**6, count)
    wrong = rows | {"prompt": 1 - rows["prompt"]}
    with torch.no_grad():
        right, other = (
            float(objective.loss(network, objective.task(each, draws(7, count)), {}).total_B.sum()) / (count * LENGTH)
            for each in (rows, wrong)
        )
    likely = torch.tensor([LIKELY, 1 - LIKELY])
    entropy = float(-(likely * likely.log()).sum())
    assert entropy - 0.02 < right < entropy + 0.08
    assert other > right + 0.4


def test_twin_a_model_trained_without_dropout_has_no_unconditional_distribution() -> None:
    model = trained_model("prefix", dropout=0.0, steps=80)
    assert max(abs(fraction_of_x(model, prompt, 0.0) - 0.5) for prompt in ("aaa", "bbb")) > 0.1


def test_each_example_drops_its_prompt_by_itself() -> None:
    objective = cast("EmbeddingObjective", family_of(condition_dropout=0.3).objective).for_step(0)
    count, dropped = 64, []
    for step in range(20):
        task = objective.task(batch(step, count), draws(step, count))
        dropped.append(int((task.condition_BN[:, :PROMPT] == objective.shape.null_id).all(dim=1).sum()))
    assert all(0 < number < count for number in dropped), "never a whole batch at once"
    assert sum(dropped) / (20 * count) == pytest.approx(0.3, abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_run_on_files_learns_what_follows_their_beginnings(conditioning: str, tmp_path: Path) -> None:
    """Each file is a letter eight times and then the next letter's capital: the prompt determines the window."""
    (tmp_path / "files").mkdir()
    for number in range(400):
        first, then = "abcd"[number % 4], "BCDA"[number % 4]
        (tmp_path / f"files/{number}.txt").write_text(first * 8 + then * 8)
    run = small_run(
        "text-embedding",
        tmp_path,
        data=TextData(
            path=str(tmp_path / "files"), tokenizer="characters", context=8, prompt=8, one_document_per_window=True
        ),
        model=Transformer(layers=2, heads=2, width=32),
        objective=Embedding(channels=8, prompt_conditioning=conditioning),  # type: ignore[arg-type]
        steps=600, batch_size=32, micro_batch=None, eval_every=0, save_every=600,
    )  # fmt: skip
    train_in(tmp_path / "run", run)
    checkpoint = find(tmp_path / "run", at="newest")
    model = trained.load(recipes.stored(checkpoint.folder), checkpoint)
    for first, then in ("aB", "bC", "cD", "dA"):
        request = EmbeddingRequest(prompt=(first * 8,), num=20, tokens=8, guidance=2.0)
        samples = model.sample(request, seed=1)
        assert isinstance(samples, TextSamples)
        right = sum(text == first * 8 + then * 8 for text in samples.texts)
        assert right >= 17, samples.texts
