"""Generation by embedding diffusion: from noise to vectors, by any of the samplers of `diffusion/`, and to tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from seedfast.data.text.config import TextAssets
from seedfast.diffusion import samplers
from seedfast.diffusion.grids import Spacing, table_grid, timesteps
from seedfast.diffusion.guidance import guided
from seedfast.diffusion.levels import NoiseLevel
from seedfast.errors import UserError
from seedfast.families.text.categorical import draw, shape
from seedfast.families.text.embedding.network import Answer, EmbeddingNetwork
from seedfast.families.text.embedding.noise_schedule import TIMES
from seedfast.families.text.request import Canvas, Show, TextRequest
from seedfast.keys import Draws


@dataclass(frozen=True, kw_only=True)
class EmbeddingRequest(TextRequest):
    """What is wanted of an embedding diffusion model."""

    sampler: Literal["ddim", "ddpm", "dpm++2m", "dpm++2s", "heun"] = "ddim"
    """DDIM, ancestral sampling, DPM-Solver++(2M) or (2S), or Heun's method (twice the evaluations)."""
    steps: int = 50
    """Steps from noise to text, of the schedule's 1000 times."""
    eta: float | None = None
    """DDIM's noise: 0 draws none, 1 (the default) as much as ancestral sampling."""
    spacing: Spacing = "trailing"
    """Which of the schedule's times are stepped on."""
    guidance: float = 1.0
    """Above 1 the given text counts for more than it was trained to (twice the evaluations); 0 withholds it."""
    clamp: bool = False
    """Replace every estimate by the nearest embeddings, so that no step goes towards what is no token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.steps <= TIMES:
            raise UserError(f"The schedule has {TIMES} times, so steps must be 1 to {TIMES}, not {self.steps}.")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise UserError(f"eta is a part of ancestral sampling's noise, from 0 to 1, not {self.eta}.")
        if self.eta is not None and self.sampler != "ddim":
            raise UserError(f"eta belongs to the sampler ddim, not to {self.sampler}: leave it out.")
        if not 0 <= self.guidance < float("inf"):
            raise UserError(f"guidance must be 0 or positive, not {self.guidance}.")


class Writer(Protocol):
    """What of a family its sampler needs."""

    assets: TextAssets
    open: int
    withheld: int
    end_of_text: int


@dataclass(frozen=True)
class Page:
    """Texts that are being written, as a batch.

    symbols_BN: what is given of prompt and window, padded on the right. real_BN: false at padding, None without any.
    forbidden_BV: tokens that may not be written. starts: where each canvas's window begins, behind its prompt.
    """

    symbols_BN: Tensor
    real_BN: Tensor | None
    forbidden_BV: Tensor
    starts: list[int]

    @classmethod
    def of(cls, canvases: list[Canvas], family: Writer, device: torch.device) -> "Page":
        """The beginning of a canvas is a prompt where the model reads those apart; the rest is its window."""
        prompt = family.assets.prompt
        given = [int(canvas.given_L.long().cumprod(dim=0).sum()) for canvas in canvases]
        starts = [count if count <= prompt else 0 for count in given]
        sizes = [len(canvas.tokens_L) - start for canvas, start in zip(canvases, starts, strict=True)]
        symbols_BN = torch.full((len(canvases), prompt + max(sizes)), family.withheld)
        forbidden_BV = torch.zeros(len(canvases), family.assets.tokenizer.size, dtype=torch.bool)
        forbidden_BV[:, list(family.assets.tokenizer.silent)] = True
        for row, (canvas, start, size) in enumerate(zip(canvases, starts, sizes, strict=True)):
            symbols_L = canvas.tokens_L.masked_fill(~canvas.given_L, family.open)
            symbols_BN[row, prompt - start : prompt + size] = symbols_L
            forbidden_BV[row, family.end_of_text] |= canvas.is_infill  # it goes on after its gaps
        real_BN = torch.arange(prompt + max(sizes)) < prompt + torch.tensor(sizes).unsqueeze(1)
        ragged = None if bool(real_BN.all()) else real_BN.to(device)
        return cls(symbols_BN.to(device), ragged, forbidden_BV.to(device), starts)


class Denoiser:
    """A network as the samplers call it: (x, level) → the estimate of x0, guided, shaped and clamped as requested.

    Each estimate is handed to the next call (self-conditioning). `evaluations` counts the network's forward passes.
    """

    def __init__(self, network: EmbeddingNetwork, page: Page, request: EmbeddingRequest) -> None:
        self.network, self.page, self.request = network, page, request
        self.estimate_BLD: Tensor | None = None
        self.evaluations = 0
        given_BN = page.symbols_BN != network.open
        self.withheld_BN = page.symbols_BN.masked_fill(given_BN, network.withheld)

    def __call__(self, x_BLD: Tensor, level: NoiseLevel) -> Tensor:
        """The estimate of x0, [B, L, D]."""
        scale = self.request.guidance
        if scale == 1 or torch.equal(self.withheld_BN, self.page.symbols_BN):
            estimate_BLD = self._estimate(x_BLD, self.page.symbols_BN, level)
        elif scale == 0:
            estimate_BLD = self._estimate(x_BLD, self.withheld_BN, level)
        else:
            unconditional_BLD = self._estimate(x_BLD, self.withheld_BN, level)
            estimate_BLD = guided(unconditional_BLD, self._estimate(x_BLD, self.page.symbols_BN, level), scale)
        if self.request.clamp:
            estimate_BLD = self.network.mean(_onehot(self._allowed(estimate_BLD @ self.network.embeddings().T)))
        self.estimate_BLD = estimate_BLD
        return estimate_BLD

    def _estimate(self, x_BLD: Tensor, symbols_BN: Tensor, level: NoiseLevel) -> Tensor:
        answer: Answer = self.network.answer(x_BLD, symbols_BN, level, self.estimate_BLD, self.page.real_BN)
        self.evaluations += 1
        if self.network.prediction != "tokens":
            return answer.estimate_BLD
        return self.network.mean(_shaped(self._allowed(answer.logits_BLV), self.request))

    def _allowed(self, logits_BLV: Tensor) -> Tensor:
        return logits_BLV.masked_fill(self.page.forbidden_BV.unsqueeze(1), -torch.inf)

    def tokens(self, x_BLD: Tensor, level: NoiseLevel, u_BL: Tensor) -> Tensor:
        """The tokens of finished vectors, int64 [B, L], drawn from the decoder p(x | z₀) at quantiles u."""
        logits_BLV = self._allowed(self.network.decode(x_BLD, level))
        return draw(shape(logits_BLV, temperature=0.0 if self.request.temperature == 0 else 1.0), u_BL)


def _shaped(logits_BLV: Tensor, request: EmbeddingRequest) -> Tensor:
    if (request.temperature, request.top_k, request.top_p) == (1.0, None, None):
        return logits_BLV.softmax(dim=-1)  # the same as float64 has, to rounding, in a third of the time
    return shape(logits_BLV, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)


def _onehot(logits_BLV: Tensor) -> Tensor:
    return shape(logits_BLV, temperature=0.0)


@torch.no_grad()
def write(
    network: EmbeddingNetwork,
    page: Page,
    canvases: list[Canvas],
    request: EmbeddingRequest,
    draws: Draws,
    show: Show | None,
) -> list[list[int]]:
    """Denoise the open positions of all canvases together and read their tokens off."""
    denoiser = Denoiser(network, page, request)
    length = page.symbols_BN.shape[1] - network.prompt
    u_BL = draws.uniform("token", network.context, dtype=torch.float64)[:, :length]
    first = network.schedule.level(torch.zeros((), dtype=torch.float64, device=u_BL.device))
    for x_BLD in vectors(denoiser, request, draws, length):
        if show:
            for row, tokens in enumerate(_filled(canvases, page, denoiser.tokens(x_BLD, first, u_BL))):
                show(row, tokens, [False] * len(tokens))
    return _filled(canvases, page, denoiser.tokens(x_BLD, first, u_BL))


def _filled(canvases: list[Canvas], page: Page, window_BL: Tensor) -> list[list[int]]:
    """The canvases with the window's tokens at their open positions."""
    rows = []
    for canvas, start, window_L in zip(canvases, page.starts, window_BL.cpu(), strict=True):
        written_L = canvas.tokens_L.clone()
        written_L[start:] = window_L[: len(written_L) - start]
        rows.append(torch.where(canvas.given_L, canvas.tokens_L, written_L).tolist())
    return rows


def vectors(denoiser: Denoiser, request: EmbeddingRequest, draws: Draws, length: int) -> Iterator[Tensor]:
    """The vectors [B, L, D] after each step, from keyed noise; the last are free of it."""
    network = denoiser.network
    grid = table_grid(network.schedule.table(), timesteps(TIMES, request.steps, request.spacing))

    def normal(stream: str, at: Draws) -> Tensor:
        # Of the whole context, whatever is needed: a sample does not depend on the lengths of those beside it.
        return at.normal(stream, network.context, network.vectors.embedding_dim)[:, :length]

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
