"""Embedding diffusion as a family: what training asks, how samplers are conditioned, what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seedfast import keys
from seedfast.data.text.config import TextAssets
from seedfast.data.text.tokenizers import Characters
from seedfast.errors import UserError
from seedfast.families.text.embedding import Embedding, EmbeddingDiffusion
from seedfast.families.text.embedding.network import EmbeddingNetwork
from seedfast.families.text.embedding.noise_schedule import TIMES, Given, Kind, Learned, build, prior_kl
from seedfast.families.text.embedding.sampling import Denoiser, EmbeddingRequest, Page
from seedfast.families.text.request import Canvas
from seedfast.keys import Draws
from seedfast.models.transformer import Transformer

LENGTH, LETTERS = 12, "abcdefgh"


def family(prompt: int = 0, apart: bool = False, **options: Any) -> EmbeddingDiffusion:
    assets = TextAssets(
        Characters(LETTERS),
        LENGTH,
        validation_tokens=1,
        validation_bytes=1,
        prompt=prompt,
        one_document_per_window=apart,
    )
    return Embedding(**{"channels": 8, **options}).build(assets)


def network(of: EmbeddingDiffusion) -> EmbeddingNetwork:
    """A network whose every weight does something."""
    keys.seed_torch(0, "test")
    built = of.network(Transformer(layers=2, heads=2, width=16)).eval()
    assert isinstance(built, EmbeddingNetwork)
    with torch.no_grad():
        for parameter in built.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
    return built


def draws(count: int, scope: str = "x") -> Draws:
    return Draws(seed=1, scope=scope, positions_B=torch.arange(count), group=count)


def batch(count: int, prompt: int = 0, apart: bool = False) -> dict[str, Tensor]:
    tokens_BL = draws(count, "text").randint("tokens", LENGTH + 1, high=len(LETTERS) + 1)
    found = {"tokens": tokens_BL, "scored": torch.ones(count, LENGTH, dtype=torch.bool)}
    if apart:
        real_BL = torch.arange(LENGTH) < draws(count, "size").randint("size", 1, high=LENGTH) + 1
        found |= {"scored": real_BL, "real": real_BL}
    if prompt:
        real_BP = torch.arange(prompt) >= draws(count, "real").randint("real", 1, high=prompt + 1)
        found |= {"prompt": draws(count, "before").randint("p", prompt, high=len(LETTERS)), "prompt_real": real_BP}
    return found


# ---- what is asked --------------------------------------------------------------------------------------------


def test_validation_asks_for_whole_windows_and_always_answers_twice() -> None:
    of = family()
    task = of.task(batch(50), draws(50))
    assert (task.symbols_BN == of.open).all()
    assert task.twice_B.all()
    assert (task.weight_B == LENGTH).all()
    assert not family(self_conditioning=0.0).task(batch(50), draws(50)).twice_B.any()


def test_training_varies_its_conditions_in_the_parts_that_were_asked_for() -> None:
    of = family(context=0.5, withheld=0.2, self_conditioning=0.3).at(0)
    count = 4000
    task = of.task(batch(count), draws(count))
    open_BL = task.symbols_BN == of.open
    surrounded_B = ~open_BL.all(dim=1)
    # Of the spans, some are whole windows.
    assert 0.4 < float(surrounded_B.float().mean()) < 0.5
    withheld_B = (task.symbols_BN == of.withheld).any(dim=1)
    assert abs(float(withheld_B[surrounded_B].float().mean()) - 0.2) < 0.03
    assert abs(float(task.twice_B.float().mean()) - 0.3) < 0.03
    assert torch.equal(task.weight_B, open_BL.sum(dim=1))
    assert open_BL.any(dim=1).all()
    shown_BL = ~open_BL & ~withheld_B.unsqueeze(1)
    assert torch.equal(task.symbols_BN[shown_BL], task.targets_BL[shown_BL])
    edges_B = (open_BL[:, 1:] & ~open_BL[:, :-1]).sum(dim=1) + open_BL[:, 0].long()
    assert (edges_B == 1).all(), "one span is open"
    to_the_end = open_BL[surrounded_B, -1].float().mean()
    assert 0.5 < float(to_the_end) < 0.8


def test_tokens_that_are_not_scored_are_given_and_cost_nothing() -> None:
    of, rows = family(context=0.0, withheld=0.0), batch(20)
    rows["scored"][:, :5] = False
    for asked in (of, of.at(0)):
        task = asked.task(rows, draws(20))
        assert torch.equal(task.symbols_BN[:, :5], task.targets_BL[:, :5])
        assert (task.weight_B == LENGTH - 5).all()
        built = network(of)
        whole = of.loss(built, task, {}).total_B
        other = replace(task, noise_BLD=task.noise_BLD.index_fill(1, torch.arange(5), 7.0))
        assert torch.equal(of.loss(built, other, {}).total_B, whole), "no noise stands where a token is given"


def test_times_are_stratified_over_the_global_batch() -> None:
    time_B = family().task(batch(8), draws(8)).time_B
    assert sorted((time_B * 8).long().tolist()) == list(range(8))


@pytest.mark.parametrize("reading", ["prefix", "cross"])
def test_a_prompt_is_read_withheld_and_never_the_target(reading: str) -> None:
    of = family(prompt=6, reading=reading)
    rows = batch(30, prompt=6)
    task = of.task(rows, draws(30))
    assert torch.equal(task.symbols_BN[:, :6] == of.withheld, ~rows["prompt_real"]), (
        "what is missing is the null prompt"
    )
    changed = of.task({**rows, "tokens": (rows["tokens"] + 1) % 8}, draws(30))
    assert torch.equal(changed.symbols_BN, task.symbols_BN), "nothing of the target is shown"
    built = network(of)
    first = of.loss(built, task, {}).total_B
    other = replace(task, symbols_BN=task.symbols_BN.index_fill(1, torch.tensor([5]), 3))
    changed_B = (of.loss(built, other, {}).total_B != first)[rows["prompt"][:, 5] != 3]
    assert float(changed_B.float().mean()) > 0.7, "all but those that have almost no noise"
    in_training = of.at(0).task(rows, draws(30))
    hidden_B = (in_training.symbols_BN[:, :6] == of.withheld).all(dim=1) & rows["prompt_real"].any(dim=1)
    assert 0 < int(hidden_B.sum()) < 15, "each example by itself"


def test_no_gradient_flows_through_the_first_answer() -> None:
    of = family()
    built = network(of)
    task = of.task(batch(6), draws(6))
    total = of.loss(built, task, {}).total_B.sum()
    slopes = torch.autograd.grad(total, list(built.parameters()), allow_unused=True)
    constant = built._recalled(
        _noisy(built, task), task.symbols_BN, built.schedule.level(task.time_B), task.twice_B
    ).detach()
    built._recalled = lambda *_: constant  # type: ignore[method-assign]
    again = torch.autograd.grad(of.loss(built, task, {}).total_B.sum(), list(built.parameters()), allow_unused=True)
    for one, other in zip(slopes, again, strict=True):
        assert one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def _noisy(built: EmbeddingNetwork, task: Any) -> Tensor:
    from seedfast.diffusion.levels import add_noise

    return add_noise(built.embeddings()[task.targets_BL], task.noise_BLD, built.schedule.level(task.time_B))


def test_a_first_answer_changes_the_second() -> None:
    of = family()
    built, task = network(of), of.task(batch(6), draws(6))
    once = replace(task, twice_B=torch.zeros(6, dtype=torch.bool))
    assert (of.loss(built, task, {}).total_B != of.loss(built, once, {}).total_B).all()


# ---- padding --------------------------------------------------------------------------------------------------


def other_padding(task: Any) -> Any:
    """The same task with other tokens, noise and symbols where there is nothing."""
    padded_BL = ~task.real_BN[:, -LENGTH:]
    return replace(
        task,
        targets_BL=torch.where(padded_BL, 3, task.targets_BL),
        noise_BLD=torch.where(padded_BL.unsqueeze(2), 7.0, task.noise_BLD),
        symbols_BN=torch.where(~task.real_BN, 5, task.symbols_BN),
    )


@pytest.mark.parametrize(("prompt", "reading"), [(0, "prefix"), (4, "prefix"), (4, "cross")])
def test_nothing_sees_padding_and_it_costs_nothing_to_the_last_bit(prompt: int, reading: str) -> None:
    of = family(prompt=prompt, apart=True, reading=reading)
    built = network(of)
    for asked in (of, of.at(0)):
        task = asked.task(batch(20, prompt, apart=True), draws(20))
        assert not task.real_BN.all()
        assert (task.weight_B <= task.real_BN[:, prompt:].sum(dim=1)).all(), "padding is in no weight"
        other = other_padding(task)
        found = [of.loss(built, each, {}) for each in (task, other)]
        assert torch.equal(found[0].total_B, found[1].total_B)
        for name, value in found[0].diagnostics.items():
            assert torch.equal(value, found[1].diagnostics[name]), name
        slopes = [torch.autograd.grad(each.total_B.sum(), list(built.parameters())) for each in found]
        for one, two in zip(*slopes, strict=True):
            assert torch.equal(one, two)


def test_twin_attention_that_does_not_know_of_padding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    of = family(apart=True)
    built, task = network(of), of.task(batch(20, apart=True), draws(20))
    whole = EmbeddingNetwork.answer
    monkeypatch.setattr(
        EmbeddingNetwork, "answer", lambda self, z, symbols, *rest, **_: whole(self, z, symbols, *rest[:2])
    )
    first, second = (of.loss(built, each, {}).total_B for each in (task, other_padding(task)))
    assert not torch.equal(first, second)


def test_a_padded_text_is_answered_as_if_it_stood_alone() -> None:
    of = family(apart=True)
    built, task = network(of), of.task(batch(30, apart=True), draws(30))
    whole_B = of.loss(built, task, {}).total_B
    for row in range(30):
        size = int(task.real_BN[row].sum())
        alone = replace(
            task, weight_B=task.weight_B[row : row + 1], time_B=task.time_B[row : row + 1],
            twice_B=task.twice_B[row : row + 1], targets_BL=task.targets_BL[row : row + 1, :size],
            symbols_BN=task.symbols_BN[row : row + 1, :size], noise_BLD=task.noise_BLD[row : row + 1, :size],
            real_BN=task.real_BN[row : row + 1, :size],
        )  # fmt: skip
        assert float(of.loss(built, alone, {}).total_B[0].detach()) == pytest.approx(float(whole_B[row]), rel=1e-5)


def test_how_long_texts_are_is_part_of_the_bound_and_of_what_is_written() -> None:
    of = family(apart=True)
    built = network(of)
    assert built.lengths is not None
    task = of.task(batch(4000, apart=True), draws(4000))
    terms = of.loss(built, task, {})
    size_B = task.real_BN.sum(dim=1)
    cost_B = torch.nn.functional.cross_entropy(built.lengths.expand(4000, -1), size_B - 1, reduction="none")
    assert torch.allclose(terms.diagnostics["length"][0], cost_B.sum(), rtol=1e-5)
    parts = [float(terms.diagnostics[name][0]) for name in ("reconstruction", "diffusion", "prior", "length")]
    assert float(terms.total_B.detach().sum()) == pytest.approx(sum(parts), rel=1e-5)
    with torch.no_grad():
        built.lengths.copy_(torch.full((LENGTH,), -1e9).index_fill(0, torch.tensor([4]), 0.0))
    for prompt, found in {"": 5, "abc": 5, "abcde": LENGTH}.items():  # what is impossible is never asked for
        rows = of.canvases(EmbeddingRequest(prompt=(prompt,)))
        sized = of._shortened(built.lengths, rows * 50, draws(50))
        if found == 5:
            assert {len(row.tokens_L) for row in sized} == {5}
        assert all(row.tokens_L[: len(prompt)].equal(rows[0].tokens_L[: len(prompt)]) for row in sized)
    apart_prompt = family(apart=True, prompt=4)
    rows = apart_prompt.canvases(EmbeddingRequest(prompt=("abc",)))
    assert {len(row.tokens_L) for row in apart_prompt._shortened(built.lengths, rows * 9, draws(9))} == {3 + 5}


def test_lengths_are_drawn_as_often_as_they_are_likely() -> None:
    of = family(apart=True)
    lengths = torch.randn(LENGTH, generator=torch.Generator().manual_seed(0))
    rows = of.canvases(EmbeddingRequest()) * 4000
    drawn = torch.tensor([len(row.tokens_L) for row in of._shortened(lengths, rows, draws(4000))])
    found = torch.bincount(drawn - 1, minlength=LENGTH) / 4000
    assert float((found - lengths.softmax(dim=0)).abs().max()) < 0.03


@pytest.mark.parametrize("loss", ["bound", "weighted"])
def test_lengths_are_learned_with_every_loss(loss: str) -> None:
    of = family(apart=True, schedule="linear", loss=loss)
    built = network(of)
    assert built.lengths is not None
    of.loss(built, of.task(batch(20, apart=True), draws(20)), {}).total_B.sum().backward()
    assert built.lengths.grad is not None
    assert built.lengths.grad.abs().sum() > 0


# ---- schedules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["learned", "linear", "cosine"])
def test_gamma_rises_and_its_slope_is_its_derivative(kind: Kind) -> None:
    schedule = build(kind)
    if isinstance(schedule, Learned):
        torch.nn.init.constant_(schedule.centre, 1.3)
    time_T = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    gamma_T, slope_T = schedule(time_T)
    assert (gamma_T.diff() > 0).all()
    ahead_T, behind_T = schedule(time_T + 1e-9)[0], schedule(time_T - 1e-9)[0]
    agree_T = ((ahead_T - behind_T) / 2e-9 - slope_T).abs() / slope_T < 1e-4
    assert float(agree_T.float().mean()) > 0.97, "everywhere but at the corners between pieces"
    assert bool((schedule.table().alpha_bar_T.diff() < 0).all())


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_given_schedules_are_their_tables(kind: Any) -> None:
    from seedfast.diffusion.schedules import betas, table

    assert torch.allclose(Given(kind).table().alpha_bar_T, table(kind, TIMES).alpha_bar_T, rtol=1e-9)
    beta_T = betas(kind, TIMES)
    assert float(beta_T.min()) >= 1e-5
    assert float(beta_T.max()) <= 0.999


@given(gamma=st.floats(-8, 12), channels=st.integers(1, 64))
def test_the_prior_is_the_divergence_of_a_normal_distribution(gamma: float, channels: int) -> None:
    a2 = torch.sigmoid(torch.tensor(-gamma).double())
    s2 = 1 - a2
    by_channel = (a2 + s2 - 1 - s2.log()) / 2  # of mean square 1, as embeddings are
    assert float(prior_kl(torch.tensor(gamma).double(), channels)) == pytest.approx(
        float(channels * by_channel), rel=1e-6, abs=1e-9
    )


def hump(gamma_B: torch.Tensor, centre: float) -> torch.Tensor:
    """An error e(γ) like a model's: steep at the clean side, falling with the SNR at the noisy one; of integral 1."""
    x_B = gamma_B - centre
    return 1.3163 / ((-2 * x_B).exp() + 2 * x_B.exp())


def second_moment(schedule: Learned, centre: float) -> float:
    """E[(e/p)²] over times. The least there can be is (∫ e)² = 1."""
    gamma_B, slope_B = schedule((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)
    return float((slope_B * hump(gamma_B, centre)).detach().square().mean())


def learn(schedule: Learned, *, steps: int = 1500, sign: float = 1.0) -> None:
    """As training does, twelve examples in a step, while the hump moves from γ = 4.5 to γ = 0.5."""
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.01, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        time_B = (torch.arange(12, dtype=torch.float64) + offset) / 12
        gamma_B, slope_B = schedule(time_B)
        estimate_B = (slope_B * hump(gamma_B, 4.5 - 4 * min(1.0, 2 * step / steps))).detach()
        optimizer.zero_grad()
        (sign * estimate_B * schedule.surprise(time_B)).mean().backward()
        optimizer.step()


def test_the_learned_density_follows_the_errors() -> None:
    schedule = Learned()
    gamma_B = torch.linspace(-3, 8, 10001, dtype=torch.float64)
    assert float(torch.trapezoid(hump(gamma_B, 2.5), gamma_B)) == pytest.approx(1, abs=0.02)
    assert second_moment(schedule, 0.5) > 2.5
    learn(schedule)
    assert second_moment(schedule, 0.5) < 1.3


def test_twin_a_density_that_flees_the_errors_scatters() -> None:
    schedule = Learned()
    learn(schedule, sign=-1.0, steps=300)
    assert second_moment(schedule, 0.5) > 4


def test_learning_the_density_adds_nothing_to_the_loss_and_moves_nothing_else() -> None:
    of = family()
    built, task = network(of), of.task(batch(6), draws(6))
    terms = of.loss(built, task, {})
    parts = sum(float(terms.diagnostics[name][0]) for name in ("reconstruction", "diffusion", "prior"))
    assert float(terms.total_B.detach().sum()) == pytest.approx(parts, rel=1e-6)
    terms.total_B.sum().backward()
    schedule = built.schedule
    assert isinstance(schedule, Learned)
    for parameter in (schedule.centre, schedule.log_width):
        assert parameter.grad is not None
        assert parameter.grad.abs() > 0


# ---- sampling -------------------------------------------------------------------------------------------------


def canvas(text: str) -> Canvas:
    """A canvas whose dots are open."""
    tokens = [max(0, LETTERS.find(letter)) for letter in text]
    return Canvas(torch.tensor(tokens), torch.tensor([letter != "." for letter in text]))


def write(of: EmbeddingDiffusion, texts: list[str], **options: Any) -> list[str]:
    request = EmbeddingRequest(**{"steps": 6, **options})
    filled = of.fill(network(of), [canvas(text) for text in texts], request, draws(len(texts), "sample"), None)
    return [of.assets.tokenizer.decode(tokens) for tokens in filled]


TEXTS = ["............", "abc....", "ab...cd..e"]


@pytest.mark.parametrize("prediction", ["tokens", "x0", "eps", "v"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++2m", "dpm++2s", "heun"])
def test_given_text_stays_and_no_gap_ends_the_text(prediction: str, sampler: str) -> None:
    of = family(prediction=prediction)
    for found, text in zip(write(of, TEXTS * 3, sampler=sampler), TEXTS * 3, strict=True):
        assert len(found) == len(text) or ("e" not in text and len(found) < len(text))
        assert all(letter in (".", written) for letter, written in zip(text, found, strict=False))


def test_a_sample_does_not_depend_on_those_beside_it() -> None:
    of = family()
    alone = write(of, TEXTS[:1])
    assert write(of, TEXTS)[:1] == alone
    together = write(of, ["............", "abc.........", "abc...."])
    assert together[2] == write(of, ["............", "abc.........", "abc....", "abcdefgh...."])[2]


def test_every_option_of_a_request_matters() -> None:
    of = family()
    base = write(of, ["abc........."] * 8, eta=0.0)
    for options in ({"steps": 3}, {"spacing": "linspace"}, {"guidance": 4.0}, {"guidance": 0.0}, {"clamp": True},
                    {"temperature": 0.2}, {"top_k": 2}, {"top_p": 0.5}):  # fmt: skip
        assert write(of, ["abc........."] * 8, eta=0.0, **options) != base, options
    for options in ({"sampler": "ddpm"}, {"sampler": "heun"}, {"sampler": "dpm++2m"}, {"sampler": "dpm++2s"},
                    {"eta": 0.5}, {}):  # fmt: skip
        assert write(of, ["abc........."] * 8, **options) != base, options


def test_guidance_of_one_and_of_equal_branches_changes_nothing() -> None:
    of = family(prompt=4)
    built = network(of)
    x_BLD = draws(2).normal("x", LENGTH, 8)
    level = built.schedule.level(torch.tensor(0.5).double())

    def estimate(text: str, guidance: float) -> tuple[Tensor, int]:
        page = Page.of([canvas(text)] * 2, of, torch.device("cpu"))
        denoiser = Denoiser(built, page, EmbeddingRequest(guidance=guidance))
        return denoiser(x_BLD, level).detach(), denoiser.evaluations

    prompted, blank = "abc" + "." * LENGTH, "." * LENGTH
    assert estimate(prompted, 1.0)[1] == estimate(prompted, 0.0)[1] == 1
    assert estimate(prompted, 2.0)[1] == 2
    assert torch.equal(estimate(blank, 3.0)[0], estimate(blank, 1.0)[0])
    assert torch.equal(estimate(prompted, 0.0)[0], estimate(blank, 1.0)[0]), "no prompt is the null prompt"
    u, c, w = (estimate(prompted, scale)[0] for scale in (0.0, 1.0, 3.0))
    assert torch.allclose(w, u + 3 * (c - u), atol=1e-5)


def test_a_prompt_leaves_the_window_free_and_has_a_limit() -> None:
    of = family(prompt=4)
    (row,) = of.canvases(EmbeddingRequest(prompt=("abc",)))
    assert len(row.tokens_L) == 3 + LENGTH
    with pytest.raises(UserError, match="trained with 4 at most before its window"):
        of.canvases(EmbeddingRequest(prompt=("abcde",)))
    with pytest.raises(UserError, match="12 tokens at most"):
        family().canvases(EmbeddingRequest(prompt=("abcdefgh",), tokens=5))


# ---- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, r"objective\.channels must be at least 1"),
        ({"context": 1.5}, r"objective\.context is a part"),
        ({"rounding": 0.5}, r"objective\.rounding belongs to the loss weighted"),
        ({"loss": "weighted"}, r"objective\.schedule to linear or cosine"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Embedding(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be 1 to 1000"),
        ({"steps": 1001}, "steps must be 1 to 1000"),
        ({"eta": 2.0}, "eta is a part"),
        ({"eta": 0.5, "sampler": "heun"}, "eta belongs to the sampler ddim"),
        ({"guidance": -1.0}, "guidance must be 0 or positive"),
        ({"guidance": float("nan")}, "guidance must be 0 or positive"),
    ],
    ids=str,
)
def test_requests_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EmbeddingRequest(**options)


def test_shaping_needs_a_distribution() -> None:
    with pytest.raises(UserError, match="predicts vectors"):
        write(family(prediction="eps"), ["..."], top_k=3)
