"""The network of embedding diffusion: token embeddings, their noise schedule, and a transformer that denoises them.

Shapes: B examples, L window, P prompt, N = P + L, S self-conditioned examples, V vocabulary, D channels of an
embedding, W width of the transformer, O its outputs.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.diffusion.levels import NoiseLevel, add_noise, from_gamma, match_dims
from seedfast.diffusion.parameterisation import to_x0
from seedfast.errors import UserError
from seedfast.families.text.embedding import noise_schedule
from seedfast.families.text.embedding.noise_schedule import ScheduleKind
from seedfast.families.text.embedding.task import EmbeddingTask
from seedfast.models.network import CompiledInTraining, Network

Prediction = Literal["tokens", "x0", "eps", "v"]
PromptConditioning = Literal["prefix", "cross"]


@dataclass(frozen=True, kw_only=True)
class EmbeddingShape:
    """The sizes and choices that data and options fix for an `EmbeddingNetwork`.

    vocabulary: tokens of the tokenizer. context: L. prompt: P. channels: D. prompt_conditioning: how the prompt is
    read. schedule, prediction: as in the options. self_conditioned: whether the network takes an earlier estimate.
    padded: whether windows may be padded; the network then learns how long texts are.
    """

    vocabulary: int
    context: int
    prompt: int = 0
    channels: int
    prompt_conditioning: PromptConditioning = "prefix"
    schedule: ScheduleKind
    prediction: Prediction
    self_conditioned: bool
    padded: bool = False

    @property
    def noised_id(self) -> int:
        """The condition id of a position whose embedding is noised."""
        return self.vocabulary

    @property
    def null_id(self) -> int:
        """The condition id of padding and of a dropped or absent condition: the learned null prompt."""
        return self.vocabulary + 1

    @property
    def ids(self) -> int:
        """Number of condition ids: the tokens, `noised_id` and `null_id`."""
        return self.vocabulary + 2

    @property
    def outputs(self) -> int:
        """Outputs of the transformer at each position."""
        return self.vocabulary if self.prediction == "tokens" else self.channels

    @property
    def cross_attends(self) -> bool:
        """Whether the prompt is read by cross-attention."""
        return self.prompt_conditioning == "cross" and self.prompt > 0


@dataclass(frozen=True)
class Denoised:
    """What the network predicts from noisy embeddings.

    estimate_BLD: the expected clean embeddings. logits_BLV: which tokens they are.
    """

    estimate_BLD: Tensor
    logits_BLV: Tensor


@dataclass(frozen=True)
class DiffusionOutput:
    """Everything that the bound of -log p(text) is computed from.

    x0_BLD: the clean embeddings. denoised: the prediction from z at time t. level, slope_B: t's noise level and dγ/dt.
    decoded_BLV: log p(x | z₀). prior: KL(q(z₁|x) ‖ N(0, I)) of each token, a scalar. length_B: -log p(length of the
    text), None where windows are always full. negative_log_density_B: of the noise level; None without a learned one.
    """

    x0_BLD: Tensor
    denoised: Denoised
    level: NoiseLevel
    slope_B: Tensor
    decoded_BLV: Tensor
    prior: Tensor
    length_B: Tensor | None
    negative_log_density_B: Tensor | None


class EmbeddingNetwork(Network):
    """A bidirectional transformer from noisy embeddings and their condition to distributions over tokens, or vectors.

    model: the transformer's configuration. The condition id of a position is its token where that is given,
    `shape.noised_id` where its embedding is noised, and `shape.null_id` where there is no condition.
    """

    def __init__(self, model: Any, shape: EmbeddingShape) -> None:
        super().__init__()
        if getattr(model, "ngrams", ()):
            raise UserError("model.ngrams embeds tokens, and this network reads noisy embeddings: leave it out.")
        self.shape = shape
        channels = shape.channels
        self.transformer = model.build(
            vocabulary=shape.ids,
            outputs=shape.ids if model.tied and shape.prediction == "tokens" else shape.outputs,
            context=shape.context if shape.cross_attends else shape.prompt + shape.context,
            causal=False,
            time_conditioned=True,
            memory_width=model.width if shape.cross_attends else None,
        )
        self.vectors = nn.Embedding(shape.vocabulary, channels)
        self.frequency = nn.Parameter(torch.zeros(shape.vocabulary))
        self.lengths = nn.Parameter(torch.zeros(shape.context)) if shape.padded else None
        self.schedule = noise_schedule.build_schedule(shape.schedule)
        self.read = nn.Linear(channels, model.width, bias=False)
        self.recall = nn.Linear(channels, model.width, bias=False) if shape.self_conditioned else None
        self.places = nn.Embedding(shape.prompt, model.width) if shape.cross_attends else None
        for linear in (self.read, self.recall):
            if linear is not None:
                nn.init.normal_(linear.weight, std=channels**-0.5)

    @property
    def blocks_in_order(self) -> list[nn.Module]:
        """The blocks of the transformer."""
        blocks: list[nn.Module] = self.transformer.blocks_in_order
        return blocks

    @property
    def compiled_parts(self) -> list[CompiledInTraining]:
        """The blocks of the transformer."""
        parts: list[CompiledInTraining] = self.transformer.compiled_parts
        return parts

    @property
    def output_layer(self) -> nn.Linear:
        """The output layer of the transformer."""
        head: nn.Linear = self.transformer.head
        return head

    def embeddings(self) -> Tensor:
        """All embeddings, [V, D], each of length √D: the mean square of a channel is 1, as a schedule assumes.

        With a fixed length they can neither vanish in the noise nor outgrow it.
        """
        embeddings_VD: Tensor = F.normalize(self.vectors.weight, dim=1) * self.vectors.embedding_dim**0.5
        return embeddings_VD

    def forward(self, task: EmbeddingTask) -> DiffusionOutput:
        """Noise the embeddings of texts to their times t and denoise them."""
        with _in_float32(task.noise_BLD):
            vectors_VD = self.embeddings()
            x0_BLD = F.embedding(task.targets_BL, vectors_VD)
            gamma_B, slope_B = self.schedule(task.time_B)
            level = from_gamma(gamma_B, task.time_B)
            z_BLD = add_noise(x0_BLD, task.noise_BLD, level)
            # γ at t = 0 and t = 1, the end points.
            ends = self.schedule(torch.arange(2, dtype=torch.float64, device=task.time_B.device))[0]
            # The same noise serves both times: each expectation is over it alone.
            first = from_gamma(ends[0], ends[0])
            decoded_BLV = self.decode(add_noise(x0_BLD, task.noise_BLD, first), first)
        previous_BLD = self._first_estimates(z_BLD, task, level)
        return DiffusionOutput(
            x0_BLD=x0_BLD,
            denoised=self.denoise(z_BLD, task.condition_BN, level, previous_BLD, task.real_BN),
            level=level,
            slope_B=slope_B,
            decoded_BLV=decoded_BLV,
            prior=noise_schedule.prior_kl(ends[1], vectors_VD.shape[1]),
            length_B=None if self.lengths is None else -self.lengths.log_softmax(dim=0)[task.size_B - 1],
            negative_log_density_B=self.schedule.negative_log_density(task.time_B),
        )

    @torch.no_grad()
    def _first_estimates(self, z_BLD: Tensor, task: EmbeddingTask, level: NoiseLevel) -> Tensor:
        """First estimates of self-conditioned examples, and zero for the others, [B, L, D].

        No gradient flows through them (self-conditioning, Chen et al. 2023, "Analog Bits").
        """
        first_BLD = torch.zeros_like(z_BLD)
        rows_S = task.self_conditioned_S
        if rows_S is None and self.same_passes and self.training:  # other processes may have self-conditioned examples
            self.denoise(z_BLD[:1], task.condition_BN[:1], NoiseLevel(level.a[:1], level.s[:1], level.time[:1]),
                         real_BN=None if task.real_BN is None else task.real_BN[:1])  # fmt: skip
        if rows_S is not None:
            denoised = self.denoise(
                z_BLD[rows_S],
                task.condition_BN[rows_S],
                NoiseLevel(level.a[rows_S], level.s[rows_S], level.time[rows_S]),
                real_BN=None if task.real_BN is None else task.real_BN[rows_S],
            )
            first_BLD[rows_S] = denoised.estimate_BLD
            torch.clear_autocast_cache()  # it holds weights that were cast under no_grad
        return first_BLD

    def denoise(
        self,
        z_BLD: Tensor,
        condition_BN: Tensor,
        level: NoiseLevel,
        previous_BLD: Tensor | None = None,
        real_BN: Tensor | None = None,
    ) -> Denoised:
        """Predict the clean embeddings from noisy ones at noised positions and condition ids everywhere.

        previous_BLD: an earlier estimate, zero or None where there is none. real_BN: false at padding.
        """
        prompt = self.shape.prompt
        # Vectors at given positions are not read: in sampling they mean nothing.
        noised_BL1 = (condition_BN[:, prompt:] == self.shape.noised_id).unsqueeze(2)
        with _in_float32(z_BLD):
            likelihood_BLV = self.log_likelihood(z_BLD, level)
            alone_BLV = (likelihood_BLV + self.frequency).softmax(dim=-1)
        # A noisy token is embedded as the mixture of the tokens that its own vector makes likely.
        x_BLW = torch.where(noised_BL1, alone_BLV @ self.transformer.tokens.weight[: self.shape.vocabulary], 0)
        x_BLW = x_BLW + self.read(torch.where(noised_BL1, z_BLD, 0))
        if self.recall is not None and previous_BLD is not None:
            x_BLW = x_BLW + self.recall(torch.where(noised_BL1, previous_BLD, 0))
        x_BNW = self.transformer.tokens(condition_BN)
        memory_BPW = None
        if self.places is not None:
            memory_BPW, x_BNW = x_BNW[:, :prompt] + self.places.weight, x_BNW[:, prompt:]
            real_BN = None if real_BN is None else real_BN[:, prompt:]
        x_BNW = x_BNW + F.pad(x_BLW, (0, 0, x_BNW.shape[1] - x_BLW.shape[1], 0))
        time_B = noise_schedule.angle(level).to(z_BLD.device).expand(len(z_BLD))
        y_BNO = self.transformer(embeddings_BLD=x_BNW, time_B=time_B, memory_BMD=memory_BPW, real_BL=real_BN)
        y_BLO = y_BNO[:, -z_BLD.shape[1] :, : self.shape.outputs].to(z_BLD.dtype)
        with _in_float32(z_BLD):
            if self.shape.prediction == "tokens":
                logits_BLV = y_BLO + likelihood_BLV
                return Denoised(self.expected_embedding(logits_BLV.softmax(dim=-1)), logits_BLV)
            estimate_BLD = to_x0(self.shape.prediction, y_BLO, z_BLD, level)
            return Denoised(estimate_BLD, estimate_BLD @ self.embeddings().T)

    def log_likelihood(self, z_BLD: Tensor, level: NoiseLevel) -> Tensor:
        """log N(z; a E_v, s² I) of every token v up to a constant that all tokens share: a/s² · z·E_v, [B, L, V].

        Added to the network's logits it makes them a posterior by Bayes' rule: the network only has to predict what
        the other positions say about a token (the "output prior" of Gulrajani & Hashimoto 2023, section 3.2).
        """
        return match_dims(level.a / level.s.square(), z_BLD) * (z_BLD @ self.embeddings().T)

    def decode(self, z_BLD: Tensor, level: NoiseLevel) -> Tensor:
        """log p(x | z₀), [B, L, V], each position by itself: the posterior from its likelihood and token frequency."""
        return (self.log_likelihood(z_BLD, level) + self.frequency).log_softmax(dim=-1)

    def expected_embedding(self, probabilities_BLV: Tensor) -> Tensor:
        """The expected embedding, [B, L, D]."""
        embeddings_VD = self.embeddings()
        return probabilities_BLV.to(embeddings_VD.dtype) @ embeddings_VD


def _in_float32(tensor: Tensor) -> AbstractContextManager[object]:
    """The context without autocast, which the meta device, where only shapes are computed, does not have."""
    device = tensor.device.type
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
