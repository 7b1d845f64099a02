"""Sampling from embedding diffusion: from noise to vectors with the samplers of `diffusion/`, then to tokens.

Shapes: B canvases, L window, P prompt, N = P + L, V vocabulary, D channels of an embedding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from torch import Tensor

from seedfast.data.text.tokenizers import Tokenizer
from seedfast.diffusion import samplers
from seedfast.diffusion.grids import Spacing, table_grid, timesteps
from seedfast.diffusion.guidance import guided
from seedfast.diffusion.levels import NoiseLevel
from seedfast.families.text.categorical import sample, shape
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.embedding.network import EmbeddingNetwork, EmbeddingShape
from seedfast.families.text.embedding.noise_schedule import TIMES
from seedfast.families.text.request import Canvas, TextRequest
from seedfast.families.text.written import Written
from seedfast.keys import Draws
from seedfast.options import Between, OnlyWith, check

GUIDANCE = 2.0
"""The default decoding: DDIM with η = 1 in 50 steps, guided by given text: 100 network evaluations, 50 without text.

By a judge, a guidance of 2 gains 0.11 nats per character at the same variety, and η = 1 a tenth; 1000 steps gain
nothing that three seeds resolve (`bench/embedding_samplers.py`, docs/embedding.md)."""

LOGITS = 1 << 24
"""Largest number of logits in memory at once, unless one text alone has more."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest(TextRequest):
    """A request to an embedding diffusion model."""

    sampler: Literal["ddim", "ddpm", "dpm++2m", "dpm++2s", "heun"] = "ddim"
    """DDIM, ancestral sampling, DPM-Solver++(2M) or (2S), or Heun's method (twice the evaluations)."""
    steps: Annotated[int, Between(1, TIMES)] = 50
    """Steps from noise to text, along the schedule's 1000 times."""
    eta: Annotated[float | None, Between(0, 1), OnlyWith(sampler="ddim")] = None
    """DDIM's noise: 0 adds none, 1 (the default) as much as ancestral sampling."""
    spacing: Spacing = "trailing"
    """Which of the schedule's times the steps use."""
    guidance: Annotated[float | None, Between(0, float("inf"), open_high=True)] = None
    """Classifier-free guidance scale: above 1 follows the given text more closely (twice the evaluations); 0 ignores
    it (default 2; 1 for a model that was trained with objective.condition_dropout 0)."""
    clamp: bool = False
    """Replace every estimate by the nearest embeddings (the clamping trick of Li et al. 2022)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self)

    @property
    def why_no_likelihood(self) -> str | None:
        """Tokens are read off vectors."""
        return (
            "Embedding diffusion reads all tokens off vectors at once, and the probability of the vectors has no "
            "closed form, so there is nothing to explain: leave --explain out."
        )

    @property
    def decoding(self) -> str:
        """How the text is decoded, in words, with the number of network evaluations."""
        noise = f" with η = {1.0 if self.eta is None else self.eta:g}" if self.sampler == "ddim" else ""
        guidance = [f"guidance {self._scale:g}"] if self._has_text else []
        way = [f"{self.sampler}{noise} in {self.steps} steps", *guidance, f"{self.evaluations(0)} network evaluations"]
        return ", ".join([*way, *(["clamped"] if self.clamp else []), *self.shaping])

    def evaluations(self, tokens: int) -> int:
        """One for each step, whatever the number of tokens; Heun's method has two, and guidance doubles them."""
        of_sampler = 2 * self.steps - 1 if self.sampler == "heun" else self.steps
        return of_sampler * (1 if self._scale in (0, 1) else 2)

    @property
    def _has_text(self) -> bool:
        is_begun = self.canvas is not None and bool(self.canvas.fixed_L.any())
        return any(self.prompt) or bool(self.infill) or is_begun

    @property
    def _scale(self) -> float:
        return 1.0 if self.guidance is None or not self._has_text else self.guidance


@dataclass(frozen=True)
class CanvasBatch:
    """Canvases as one batch, padded on the right.

    condition_BN: the network's condition ids of prompt and window. real_BN: false at padding, None where there is none.
    forbidden_BV: true for tokens that must not be generated. starts: where each canvas's window begins, behind its
    prompt.
    """

    canvases: list[Canvas]
    condition_BN: Tensor
    real_BN: Tensor | None
    forbidden_BV: Tensor
    starts: list[int]

    @classmethod
    def of(
        cls, canvases: list[Canvas], network_shape: EmbeddingShape, tokenizer: Tokenizer, device: torch.device
    ) -> "CanvasBatch":
        """Place each canvas: its fixed beginning is the prompt if the network's prompt has room for it."""
        prompt = network_shape.prompt
        fixed = [int(canvas.fixed_L.long().cumprod(dim=0).sum()) for canvas in canvases]
        starts = [count if count <= prompt else 0 for count in fixed]
        sizes = [len(canvas.tokens_L) - start for canvas, start in zip(canvases, starts, strict=True)]
        condition_BN = torch.full((len(canvases), prompt + max(sizes)), network_shape.null_id)
        forbidden_BV = torch.zeros(len(canvases), tokenizer.size, dtype=torch.bool)
        forbidden_BV[:, list(tokenizer.never_generate)] = True
        for row, (canvas, start, size) in enumerate(zip(canvases, starts, sizes, strict=True)):
            condition_L = canvas.tokens_L.masked_fill(~canvas.fixed_L, network_shape.noised_id)
            condition_BN[row, prompt - start : prompt + size] = condition_L
            forbidden_BV[row, tokenizer.end_of_text] |= canvas.is_infill  # text follows its gaps
        real_BN = torch.arange(prompt + max(sizes)) < prompt + torch.tensor(sizes).unsqueeze(1)
        return cls(
            canvases=canvases,
            condition_BN=condition_BN.to(device),
            real_BN=None if bool(real_BN.all()) else real_BN.to(device),
            forbidden_BV=forbidden_BV.to(device),
            starts=starts,
        )

    def filled(self, window_BL: Tensor) -> list[list[int]]:
        """The token ids of each canvas, with those of the window at its open positions."""
        rows = []
        for canvas, start, window_L in zip(self.canvases, self.starts, window_BL.cpu(), strict=True):
            tokens_L = canvas.tokens_L.clone()
            tokens_L[start:] = window_L[: len(tokens_L) - start]
            rows.append(torch.where(canvas.fixed_L, canvas.tokens_L, tokens_L).tolist())
        return rows


class Denoiser:
    """The network as a sampler's function (x, level) → estimate of x0, with the request's guidance and shaping.

    Each estimate conditions the next call (self-conditioning). `evaluations` counts the network's forward passes.
    """

    def __init__(self, network: EmbeddingNetwork, batch: CanvasBatch, request: EmbeddingRequest) -> None:
        self.network, self.batch, self.request = network, batch, request
        self.estimate_BLD: Tensor | None = None
        self.evaluations = 0
        given_BN = batch.condition_BN != network.shape.noised_id
        self.null_BN = batch.condition_BN.masked_fill(given_BN, network.shape.null_id)
        self.is_unconditional = torch.equal(self.null_BN, batch.condition_BN)

    def __call__(self, x_BLD: Tensor, level: NoiseLevel) -> Tensor:
        """The estimate of x0, [B, L, D]."""
        scale, condition_BN = self.request.guidance, self.batch.condition_BN
        scale = 1.0 if scale is None else scale
        if scale == 1 or self.is_unconditional:
            estimate_BLD = self._estimate(x_BLD, condition_BN, level)
        elif scale == 0:
            estimate_BLD = self._estimate(x_BLD, self.null_BN, level)
        else:
            unconditional_BLD = self._estimate(x_BLD, self.null_BN, level)
            estimate_BLD = guided(unconditional_BLD, self._estimate(x_BLD, condition_BN, level), scale)
        if self.request.clamp:
            free_BLD = estimate_BLD

            def nearest(rows: slice) -> Tensor:
                logits_BLV = self._allowed(free_BLD[rows] @ self.network.embeddings().T, rows)
                return self.network.embeddings()[logits_BLV.argmax(dim=-1)]

            estimate_BLD = self._by_rows(free_BLD, nearest)
        self.estimate_BLD = estimate_BLD
        return estimate_BLD

    def _estimate(self, x_BLD: Tensor, condition_BN: Tensor, level: NoiseLevel) -> Tensor:
        self.evaluations += 1
        return self._by_rows(x_BLD, lambda rows: self._estimate_of(rows, x_BLD, condition_BN, level))

    def _by_rows(self, x_BLD: Tensor, compute: Callable[[slice], Tensor]) -> Tensor:
        """`compute` of all texts, of so many at once that no tensor has more than `LOGITS` logits, or of one."""
        count = max(1, LOGITS // (x_BLD.shape[1] * self.network.shape.vocabulary))
        return torch.cat([compute(slice(start, start + count)) for start in range(0, len(x_BLD), count)])

    def _estimate_of(self, rows: slice, x_BLD: Tensor, condition_BN: Tensor, level: NoiseLevel) -> Tensor:
        previous_BLD, real_BN = self.estimate_BLD, self.batch.real_BN
        denoised = self.network.denoise(
            x_BLD[rows],
            condition_BN[rows],
            level,
            None if previous_BLD is None else previous_BLD[rows],
            None if real_BN is None else real_BN[rows],
        )
        if self.network.shape.prediction != "tokens":
            return denoised.estimate_BLD
        return self.network.expected_embedding(_shaped(self._allowed(denoised.logits_BLV, rows), self.request))

    def _allowed(self, logits_BLV: Tensor, rows: slice = slice(None)) -> Tensor:
        return logits_BLV.masked_fill(self.batch.forbidden_BV[rows].unsqueeze(1), -torch.inf)

    def tokens(self, x_BLD: Tensor, level: NoiseLevel, u_BL: Tensor) -> Tensor:
        """The tokens of finished vectors, int64 [B, L], drawn from the decoder p(x | z₀) at quantiles u."""
        temperature = 0.0 if self.request.temperature == 0 else 1.0

        def of(rows: slice) -> Tensor:
            logits_BLV = self._allowed(self.network.decode(x_BLD[rows], level), rows)
            return sample(logits_BLV, u_BL[rows], temperature=temperature)

        return self._by_rows(x_BLD, of)

    def written(
        self, tokens_BL: Tensor, x_BLD: Tensor, level: NoiseLevel, u_BL: Tensor, draws: Draws
    ) -> Iterator[Written]:
        """The tokens at the open positions of each text, with the probabilities of the decoder."""
        open_BN = self.batch.condition_BN == self.network.shape.noised_id
        for row, open_L in enumerate(open_BN[:, self.network.shape.prompt :]):
            where_N = open_L.nonzero()[:, 0]
            rows = slice(row, row + 1)
            logits_NV = self._allowed(self.network.decode(x_BLD[rows], level), rows)[0, where_N]
            yield Written.of(
                logits_NV.double().softmax(dim=-1),
                tokens_N=tokens_BL[row, where_N],
                rows_N=torch.full_like(where_N, row),
                places_N=where_N + self.batch.starts[row],
                u_N=u_BL[row, where_N],
                index_N=where_N,
                step=self.evaluations,
                draws=draws,
            )


def _shaped(logits_BLV: Tensor, request: EmbeddingRequest) -> Tensor:
    if (request.temperature, request.top_k, request.top_p) == (1.0, None, None):
        return logits_BLV.softmax(dim=-1)  # equal to the float64 result up to rounding, in a third of the time
    return shape(logits_BLV, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)


@torch.no_grad()
def denoise_canvases(decoding: Decoding[EmbeddingRequest], batch: CanvasBatch) -> list[list[int]]:
    """Denoise the open positions of all canvases together and decode them to tokens."""
    network, draws = cast("EmbeddingNetwork", decoding.network), decoding.draws
    denoiser = Denoiser(network, batch, decoding.request)
    length = batch.condition_BN.shape[1] - network.shape.prompt
    u_BL = draws.uniform("token", network.shape.context, dtype=torch.float64)[:, :length]
    first = network.schedule.level(torch.zeros((), dtype=torch.float64, device=u_BL.device))
    before = decoding.evaluations.count
    for x_BLD in sample_vectors(denoiser, draws, length):
        decoding.evaluations.count = before + denoiser.evaluations
        if decoding.trace:
            tokens_BL = denoiser.tokens(x_BLD, first, u_BL)
            if decoding.record:
                for written in denoiser.written(tokens_BL, x_BLD, first, u_BL, draws):
                    decoding.record(written)
            for row, tokens in enumerate(batch.filled(tokens_BL)):
                decoding.trace(row, tokens, [False] * len(tokens))
    return batch.filled(denoiser.tokens(x_BLD, first, u_BL))


def sample_vectors(denoiser: Denoiser, draws: Draws, length: int) -> Iterator[Tensor]:
    """The vectors [B, L, D] after each step of the requested sampler; the last have no noise."""
    network, request = denoiser.network, denoiser.request
    grid = table_grid(network.schedule.table(), timesteps(TIMES, request.steps, request.spacing))

    def normal(stream: str, at: Draws) -> Tensor:
        # Drawn for the whole context: a sample does not depend on the lengths of the others in its batch.
        return at.normal(stream, network.shape.context, network.shape.channels)[:, :length]

    def noise(step: int) -> Tensor:
        return normal("noise", draws.at(step))

    x_BLD = normal("start", draws)
    match request.sampler:
        case "ddim":
            return samplers.ddim(denoiser, x_BLD, grid, noise, eta=1.0 if request.eta is None else request.eta)
        case "ddpm":
            return samplers.ddpm(denoiser, x_BLD, grid, noise)
        case "dpm++2m":
            return samplers.dpm_solver_2m(denoiser, x_BLD, grid)
        case "dpm++2s":
            return samplers.dpm_solver_2s(denoiser, x_BLD, grid)
        case "heun":
            return samplers.heun(denoiser, x_BLD, grid)
