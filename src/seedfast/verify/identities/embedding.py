"""Embedding diffusion: its bound with the exact posterior, and the loss of a perfect network (docs/identities.md).

The objective's own `task` and `loss` are evaluated at the nodes of quadratures over noise and time, in float64: this
compares the exact expectation of what training and validation compute.

Shapes: N texts, G nodes of the noise, T nodes of the time.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from seedfast.data.text.corpus import TextAssets
from seedfast.diffusion.levels import NoiseLevel, eps_from_x0
from seedfast.diffusion.parameterisation import target
from seedfast.families.text.embedding import Embedding, EmbeddingNetwork, EmbeddingObjective
from seedfast.families.text.embedding.network import Prediction
from seedfast.families.text.embedding.noise_schedule import (
    ANGLE_SCALE,
    GammaSchedule,
    LearnedSchedule,
    ScheduleKind,
    TabulatedSchedule,
)
from seedfast.families.text.embedding.task import EmbeddingTask
from seedfast.keys import Draws
from seedfast.verify.identities.check import Check, relative_error
from seedfast.verify.identities.toys import all_texts, assets, numbers, windows_of

BuildObjective = Callable[[Embedding, TextAssets], EmbeddingObjective]
PREDICTIONS: tuple[Prediction, ...] = ("tokens", "x0", "eps", "v")
END_POINTS = ((-6.0, 5.0), (-1.0, 1.5), (0.5, 2.0))
_ROWS = 1 << 14  # of a quadrature at once


@dataclass(frozen=True)
class Exact:
    """Replaces a transformer's configuration: builds a network that knows the distribution of all texts of two tokens.

    p_N: the probability of each text, [2^L]. The tokens' embeddings are +1 and -1, in one channel.
    """

    p_N: Tensor
    prediction: Prediction = "tokens"
    width: int = 1
    tied: bool = False

    def build(self, *, vocabulary: int, context: int, **_: Any) -> nn.Module:
        """The network that replaces the transformer."""
        return Posterior(self, vocabulary, context)


class Posterior(nn.Module):
    """Predicts each token's log-probability from the other positions, or the vector of the exact estimate of x0."""

    def __init__(self, exact: Exact, symbols: int, context: int) -> None:
        super().__init__()
        self.exact = exact
        self.tokens = nn.Embedding(symbols, 1, _weight=torch.zeros(symbols, 1))
        self.head = nn.Identity()
        self.texts_NL = all_texts(2, context)

    def forward(self, *, embeddings_BLD: Tensor, time_B: Tensor, **_: Any) -> Tensor:
        """Logits [B, L, V], or vectors [B, L, 1], about z = `embeddings_BLD` at the angle `time_B`."""
        angle_B = math.pi / 2 * ANGLE_SCALE * time_B
        level = NoiseLevel(angle_B.cos(), angle_B.sin(), time_B)
        signs_NL = 1.0 - 2.0 * self.texts_NL.double()
        z_BL = embeddings_BLD[..., 0]
        scale_B11 = (level.a / level.s.square()).view(-1, 1, 1)
        likelihood_BNL = scale_B11 * z_BL.unsqueeze(1) * signs_NL
        others_BNL = likelihood_BNL.sum(dim=2, keepdim=True) - likelihood_BNL + self.exact.p_N.log().unsqueeze(1)
        is_V = [self.texts_NL == token for token in (0, 1)]
        logits_BLV = torch.stack([others_BNL.masked_fill(~is_NL, -torch.inf).logsumexp(dim=1) for is_NL in is_V], dim=2)
        if self.exact.prediction == "tokens":
            return logits_BLV
        own_BL1 = 2 * scale_B11 * z_BL.unsqueeze(2)
        x0_BL1 = torch.tanh((logits_BLV[..., :1] - logits_BLV[..., 1:] + own_BL1) / 2)
        return target(self.exact.prediction, x0_BL1, eps_from_x0(z_BL.unsqueeze(2), x0_BL1, level), level)


def exact_world(
    p_N: Tensor,
    length: int,
    *,
    prediction: Prediction = "tokens",
    ends: tuple[float, float] = END_POINTS[0],
    schedule: ScheduleKind = "learned",
    padded: bool = False,
    build: BuildObjective = EmbeddingObjective,
) -> tuple[EmbeddingObjective, EmbeddingNetwork]:
    """An objective over texts of two tokens, and the network that knows their distribution.

    ends: end points of a learned schedule. padded: whether windows hold one document each.
    """
    options = Embedding(channels=1, prediction=prediction, schedule=schedule, self_conditioning=0.0)
    objective = build(options, replace(assets(2, length), one_document_per_window=padded))
    network = cast("EmbeddingNetwork", objective.network(Exact(p_N, prediction))).double()
    marginal_V = torch.stack([p_N[all_texts(2, length)[:, 0] == token].sum() for token in (0, 1)])
    with torch.no_grad():
        network.vectors.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        network.read.weight.fill_(1.0)
        network.frequency.copy_(marginal_V.log())
        if isinstance(network.schedule, LearnedSchedule):
            network.schedule.ends.copy_(torch.tensor(ends))
            network.schedule.centre.fill_(0.5)
    return objective, network


def _noise_nodes(length: int, count: int) -> tuple[Tensor, Tensor]:
    """Noises [G, L] and their weights [G]: the trapezoidal rule, exact up to rounding for a normal density."""
    line = torch.linspace(-6.5, 6.5, count, dtype=torch.float64)
    density = (-line.square() / 2).exp()
    nodes_GL = torch.cartesian_prod(*[line] * length).view(-1, length)
    weights_GL = torch.cartesian_prod(*[density / density.sum()] * length).view(-1, length)
    return nodes_GL, weights_GL.prod(dim=1)


def _time_nodes(schedule: GammaSchedule, each: int) -> tuple[Tensor, Tensor]:
    """Times [T] and weights [T] of Gauss-Legendre quadrature on pieces where γ or its inverse is smooth."""
    points, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(each))
    if isinstance(schedule, TabulatedSchedule):
        table_T = schedule.gamma_T
        edges_K = torch.linspace(float(table_T[0]), float(table_T[-1]), 101, dtype=torch.float64)
        gamma_T = (edges_K[:-1].unsqueeze(1) + edges_K.diff().unsqueeze(1) * (points + 1) / 2).flatten()
        below_T = (torch.searchsorted(table_T, gamma_T, right=True) - 1).clamp(max=len(table_T) - 2)
        step_T = table_T[below_T + 1] - table_T[below_T]
        time_T = (below_T + (gamma_T - table_T[below_T]) / step_T) / (len(table_T) - 1)
        return time_T, (edges_K.diff().unsqueeze(1) * weights / 2).flatten() / (step_T * (len(table_T) - 1))
    assert isinstance(schedule, LearnedSchedule)
    density_K = schedule._probabilities().detach()
    starts_K1 = (density_K.cumsum(dim=0) - density_K).unsqueeze(1)
    times_KE = starts_K1 + density_K.unsqueeze(1) * (points + 1) / 2
    return times_KE.flatten(), (density_K.unsqueeze(1) * weights / 2).flatten()


@dataclass(frozen=True, kw_only=True)
class _Nodes(Draws):
    """Draws that return the nodes of a quadrature."""

    times_B: Tensor
    noise_BLD: Tensor

    def stratified(self, stream: str) -> Tensor:
        return self.times_B

    def normal(self, stream: str, *shape: int) -> Tensor:
        return self.noise_BLD


@torch.no_grad()
def expected_loss(
    objective: EmbeddingObjective,
    network: EmbeddingNetwork,
    p_N: Tensor,
    length: int,
    *,
    noises: int,
    times: int,
    real_L: Tensor | None = None,
) -> float:
    """The exact expectation of the loss over texts, noises and times. real_L: false at padding."""
    noise_GL, noise_weights_G = _noise_nodes(length, noises)
    time_T, time_weights_T = _time_nodes(network.schedule, times)
    texts_NL = all_texts(2, length)
    total = 0.0
    size = max(1, _ROWS // (len(texts_NL) * len(noise_GL)))
    for some_T in torch.split(torch.arange(len(time_T)), size):
        time_B, text_B, node_B = torch.cartesian_prod(
            some_T, torch.arange(len(texts_NL)), torch.arange(len(noise_GL))
        ).unbind(dim=1)
        draws = _Nodes(
            seed=0,
            scope="nodes",
            positions_B=torch.arange(len(time_B)),
            times_B=time_T[time_B],
            noise_BLD=noise_GL[node_B].unsqueeze(2),
        )
        batch = windows_of(texts_NL[text_B], end_of_text=1, scored_L=real_L)
        task = objective.task(batch if real_L is None else batch | {"real": batch["scored"]}, draws)
        weight_B = p_N[text_B] * noise_weights_G[node_B] * time_weights_T[time_B]
        total += float((objective.loss(network, task, {}).total_B * weight_B).sum())
    return total


def exact_bound(p_N: Tensor, length: int, gamma_1: float, *, noises: int) -> float:
    """H(x) + KL(q(z₁) ‖ N(0, I)), where q(z₁) is a mixture of normal distributions around each text's embeddings."""
    noise_GL, weights_G = _noise_nodes(length, noises)
    a, s = math.sqrt(1 / (1 + math.exp(gamma_1))), math.sqrt(1 / (1 + math.exp(-gamma_1)))
    signs_NL = 1.0 - 2.0 * all_texts(2, length).double()
    z_NGL = a * signs_NL.unsqueeze(1) + s * noise_GL
    distance_NGM = (z_NGL.unsqueeze(2) - a * signs_NL).square().sum(dim=3)
    log_q_NG = (p_N.log() - distance_NGM / (2 * s * s)).logsumexp(dim=2) - length * math.log(s)
    log_normal_NG = -z_NGL.square().sum(dim=2) / 2
    divergence = float(((log_q_NG - log_normal_NG) * weights_G).sum(dim=1) @ p_N)
    return float(-(p_N * p_N.log()).sum()) + divergence


def variational_bound(build: BuildObjective = EmbeddingObjective) -> Check:
    """With the exact posterior, reconstruction + diffusion + prior = H(x) + KL(q(z₁) ‖ N(0, I)) at any end points.

    For one token, whose decoder is exact, at any γ₀; for two dependent tokens at a γ₀ with almost no noise. The density
    of times is arbitrary, and the exact estimate may come as tokens, x0, ε or v (docs/identities.md#embedding-nelbo).
    The first setting with another bound ends the check.
    """
    name, worst, cases = "embedding bound with the exact posterior", 0.0, 0
    for error in _errors_of_one_token(build):
        worst, cases = max(worst, error), cases + 1
        if not worst < 1e-7:
            return Check("embedding-nelbo", name, False, f"one token in setting {cases}: relative error {worst:.0e}")
    two = torch.tensor([0.45, 0.15, 0.1, 0.3]).double()
    objective, network = exact_world(two, 2, ends=(-6.0, 3.0), build=build)
    found = expected_loss(objective, network, two, 2, noises=33, times=2)
    pair = relative_error(found, exact_bound(two, 2, 3.0, noises=33))
    detail = f"one token in {cases} settings to {worst:.0e}, two dependent tokens to {pair:.0e}"
    return Check("embedding-nelbo", name, pair < 1e-5, detail)


def _errors_of_one_token(build: BuildObjective) -> Iterator[float]:
    """The relative error of the bound of one token at each end point, with each prediction and fixed schedule."""
    one = torch.tensor([0.7, 0.3]).double()
    for ends, prediction in [(ends, "tokens") for ends in END_POINTS] + [(END_POINTS[1], p) for p in PREDICTIONS[1:]]:
        objective, network = exact_world(one, 1, prediction=cast("Prediction", prediction), ends=ends, build=build)
        found = expected_loss(objective, network, one, 1, noises=121, times=2)
        yield relative_error(found, exact_bound(one, 1, ends[1], noises=121))
    for schedule in ("linear", "cosine"):
        objective, network = exact_world(one, 1, schedule=schedule, build=build)
        found = expected_loss(objective, network, one, 1, noises=121, times=3)
        last = float(network.schedule(torch.ones(1, dtype=torch.float64))[0].detach())
        yield relative_error(found, exact_bound(one, 1, last, noises=121))


class _Oracle(nn.Module):
    """A network whose output is set from outside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, channels, _weight=torch.zeros(9, channels))
        self.head = nn.Identity()
        self.output = torch.empty(0)

    def forward(self, **_: Any) -> Tensor:
        return self.output


@dataclass(frozen=True)
class _OracleConfig:
    """Replaces a transformer's configuration."""

    width: int = 32
    tied: bool = False

    def build(self, **_: Any) -> nn.Module:
        return _Oracle(self.width)


def oracle(build: BuildObjective = EmbeddingObjective) -> Check:
    """The diffusion term and the weighted loss of a perfect network are zero (docs/identities.md#oracle)."""
    worst = 0.0
    for prediction, schedule, loss in itertools.product(PREDICTIONS, ("linear", "cosine"), ("bound", "weighted")):
        options = Embedding(prediction=prediction, schedule=schedule, loss=loss, self_conditioning=0.0)  # type: ignore[arg-type]
        objective = build(options, assets(7, 5))
        network = cast("EmbeddingNetwork", objective.network(_OracleConfig())).double()
        with torch.no_grad():
            network.vectors.weight.copy_(numbers("vectors", 7, 32))
        draws = Draws(seed=0, scope="oracle", positions_B=torch.arange(64), group=64)
        texts_BL = draws.randint("text", 5, high=7)
        task = objective.task(windows_of(texts_BL, end_of_text=6), draws)
        task = replace(task, noise_BLD=task.noise_BLD.double())
        network.transformer.output = _perfect(network, task, prediction)
        terms = objective.loss(network, task, {})
        each_B = terms.total_B if loss == "weighted" else terms.diagnostics["diffusion"][:1]
        worst = max(worst, float(each_B.detach().abs().max()))
    return Check(
        "oracle", "oracle, embedding diffusion", worst < 1e-6, f"4 predictions, 2 schedules, 2 losses: {worst:.0e}"
    )


def _perfect(network: EmbeddingNetwork, task: EmbeddingTask, prediction: Prediction) -> Tensor:
    if prediction == "tokens":
        return 1e3 * nn.functional.one_hot(task.targets_BL, 7).double()
    x0_BLD = network.embeddings()[task.targets_BL]
    return target(prediction, x0_BLD, task.noise_BLD, network.schedule.level(task.time_B))
