"""Embedding diffusion: Gaussian diffusion over token embeddings, trained by its own likelihood bound.

With x the text, E its embeddings, z_t = a_t E + s_t ε and γ = -log(a²/s²), the negative evidence lower bound in
continuous time (Kingma et al. 2021, "Variational Diffusion Models"; Gulrajani & Hashimoto 2023, "Likelihood-Based
Diffusion Language Models", Plaid) is

    -log p(x)  ≤  E[-log p(x | z₀)]  +  ½ ∫₀¹ γ'(t) SNR(t) E‖E - Ê(z_t)‖² dt  +  KL(q(z₁ | x) ‖ N(0, I))
                  reconstruction        diffusion                                 prior

With the exact posterior it is H(x) + KL(q(z₁) ‖ N(0, I)) at any end points of γ (identity 13). The embeddings are
learned by the same bound: reconstruction keeps them apart, and their length is fixed.

Where documents are kept apart (`data.apart`), a window holds as many tokens n as are left of one, at most the context.
Padding is seen by nothing and costs nothing, and the bound gains -log p(n), so that it is one of the whole text.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.text.config import TextAssets
from seedfast.diffusion.parameterisation import x0_weight
from seedfast.errors import UserError
from seedfast.families.family import State, Task, Terms
from seedfast.families.text.base import TextFamily
from seedfast.families.text.categorical import draw, shape
from seedfast.families.text.embedding.network import Bound, EmbeddingNetwork, Reading
from seedfast.families.text.embedding.noise_schedule import Kind
from seedfast.families.text.embedding.sampling import EmbeddingRequest, Page, write
from seedfast.families.text.preview import Exercise
from seedfast.families.text.request import Canvas, Show
from seedfast.keys import Draws


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Embedding diffusion."""

    channels: int = 32
    """Of a token's embedding."""
    schedule: Kind = "learned"
    """γ(t): learned with the bound, or that of a table of 1000 β, linear or cosine."""
    prediction: Literal["tokens", "x0", "eps", "v"] = "tokens"
    """What the network answers with: a distribution over tokens, whose mean is the estimate of x0, or a vector."""
    loss: Literal["bound", "weighted"] = "bound"
    """What is minimised: the likelihood bound, or the squared error of the prediction and a rounding cross-entropy."""
    rounding: float | None = None
    """The rounding cross-entropy's part of the weighted loss, from 0 to 1 (default 0.5)."""
    self_conditioning: float = 0.5
    """The part of training examples whose answer builds on a first answer; 0: none is ever built upon."""
    context: float = 0.5
    """The part of training windows that have clean tokens around what is noisy, as a sampler's given text is."""
    reading: Reading = "prefix"
    """How a prompt (`data.prompt`) is read: in front of the window, or by cross-attention."""
    withheld: float = 0.1
    """The part of training examples whose prompt and clean tokens are withheld, for classifier-free guidance."""
    evaluation_draws: int = 8
    """Noises drawn for each validation example; more lower the standard error of the estimated bound."""

    def __post_init__(self) -> None:
        for key in ("channels", "evaluation_draws"):
            if getattr(self, key) < 1:
                raise UserError(f"objective.{key} must be at least 1, not {getattr(self, key)}.")
        for key in ("rounding", "self_conditioning", "context", "withheld"):
            value = getattr(self, key)
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"objective.{key} is a part, from 0 to 1, not {value}.")
        if self.loss == "bound" and self.rounding is not None:
            raise UserError(
                "objective.rounding belongs to the loss weighted; the bound needs no weights: leave it out."
            )
        if self.loss == "weighted" and self.schedule == "learned":
            raise UserError(
                "A schedule is learned from the bound, and objective.loss weighted is none: "
                "set objective.schedule to linear or cosine."
            )

    def build(self, assets: TextAssets) -> "EmbeddingDiffusion":
        """The family, for this tokenizer and context."""
        return EmbeddingDiffusion(self, assets)


@dataclass(frozen=True, kw_only=True)
class EmbeddingTask(Task):
    """Texts whose open positions are to be denoised.

    targets_BL: the texts. symbols_BN: what is shown of the prompt and the window. noise_BLD: ε. time_B: t, float64.
    twice_B: whether a first answer is built upon. real_BN: false at padding, which nothing sees.
    """

    targets_BL: Tensor
    symbols_BN: Tensor
    noise_BLD: Tensor
    time_B: Tensor
    twice_B: Tensor
    real_BN: Tensor


class EmbeddingDiffusion(TextFamily):
    """The embedding diffusion family.

    Training (`at`) varies the conditions: clean text around what is noisy, prompts withheld, no first answer. The
    family itself, which validates, asks the one question of the bound: all of a window, with what is known before it.
    """

    request = EmbeddingRequest
    takes_prompts = True
    learns_lengths = True
    training = False

    def __init__(self, options: Embedding, assets: TextAssets) -> None:
        super().__init__(assets)
        self.options = options
        self.is_bound = options.loss == "bound"
        self.bound_units = self.units
        if not self.is_bound:
            self.quantity, self.units = "weighted_loss", {}
        self.evaluation_draws = options.evaluation_draws
        self.open, self.withheld = self.vocabulary, self.vocabulary + 1

    def at(self, step: int) -> Self:
        """The family in training."""
        family = copy(self)
        family.training = True
        return family

    def network(self, model: Any) -> nn.Module:
        """A bidirectional transformer with token embeddings and a noise schedule."""
        options = self.options
        return EmbeddingNetwork(
            model,
            vocabulary=self.vocabulary,
            context=self.assets.context,
            prompt=self.assets.prompt,
            reading=options.reading,
            channels=options.channels,
            schedule=options.schedule,
            prediction=options.prediction,
            self_conditioned=options.self_conditioning > 0,
            ragged=self.assets.one_document_per_window,
        )

    def task(self, batch: Batch, draws: Draws) -> EmbeddingTask:
        """Choose times, noise and conditions. Tokens that are not scored are given."""
        options = self.options
        targets_BL, open_BL = batch["tokens"][:, 1:], batch["scored"]
        real_BL = batch.get("real", torch.ones_like(open_BL))
        withheld_B = torch.zeros(len(targets_BL), dtype=torch.bool)
        twice_B = torch.full_like(withheld_B, options.self_conditioning > 0)
        if self.training:
            open_BL = self._surrounded(open_BL, real_BL.sum(dim=1), draws)
            withheld_B = draws.uniform("withheld", 1)[:, 0] < options.withheld
            twice_B = draws.uniform("self-conditioning", 1)[:, 0] < options.self_conditioning
        hidden_BL = withheld_B.unsqueeze(1) | ~real_BL
        parts = [targets_BL.masked_fill(hidden_BL, self.withheld).masked_fill(open_BL, self.open)]
        if self.assets.prompt:
            missing_BP = ~batch["prompt_real"] | withheld_B.unsqueeze(1)
            parts.insert(0, batch["prompt"].masked_fill(missing_BP, self.withheld))
        return EmbeddingTask(
            weight_B=open_BL.sum(dim=1),
            targets_BL=targets_BL,
            symbols_BN=torch.cat(parts, dim=1),
            noise_BLD=draws.normal("noise", targets_BL.shape[1], options.channels),
            time_B=draws.stratified("time"),
            twice_B=twice_B,
            real_BN=F.pad(real_BL, (self.assets.prompt, 0), value=True),
        )

    def _surrounded(self, scored_BL: Tensor, size_B: Tensor, draws: Draws) -> Tensor:
        """Leave one span of some windows open, of which half end with their text: gaps and continuations."""
        u_B4 = draws.uniform("context", 4, dtype=torch.float64)
        cuts_B2 = (u_B4[:, :2] * size_B.unsqueeze(1)).long().sort(dim=1).values
        stop_B = torch.where(u_B4[:, 2] < 0.5, size_B, cuts_B2[:, 1] + 1)
        place_L = torch.arange(scored_BL.shape[1])
        span_BL = (place_L >= cuts_B2[:, :1]) & (place_L < stop_B.unsqueeze(1)) & scored_BL
        chosen_B = (u_B4[:, 3] < self.options.context) & span_BL.any(dim=1)
        return torch.where(chosen_B.unsqueeze(1), span_BL, scored_BL)

    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        """Each example's estimate of its bound in nats (or its weighted loss), over its open positions."""
        assert isinstance(task, EmbeddingTask)
        length = task.targets_BL.shape[1]
        open_BL = task.symbols_BN[:, -length:] == self.open
        bound: Bound = network(
            task.targets_BL, task.symbols_BN, task.noise_BLD, task.time_B, task.twice_B, task.real_BN
        )
        error_BL = (bound.x0_BLD - bound.answer.estimate_BLD).square().sum(dim=2) * open_BL
        terms = {
            "reconstruction": (_cross_entropy(bound.decoded_BLV, task.targets_BL) * open_BL).sum(dim=1),
            "diffusion": (bound.slope_B * bound.level.snr / 2).to(error_BL.dtype) * error_BL.sum(dim=1),
            "prior": bound.prior.to(error_BL.dtype) * task.weight_B,
        }
        if bound.length_B is not None:
            terms["length"] = bound.length_B.to(error_BL.dtype)
        nelbo_B = torch.stack(list(terms.values())).sum(dim=0)
        total_B = nelbo_B
        if self.options.loss == "weighted":
            terms |= {"nelbo": nelbo_B} | {
                f"nelbo_{unit}": nelbo_B * factor for unit, factor in self.bound_units.items()
            }
            total_B = self._weighted(bound, error_BL, task.targets_BL, open_BL) + terms.get("length", 0.0)
        elif bound.surprise_B is not None:
            # Fits the density of noise levels to the errors there (`Learned`), and adds nothing to the loss itself.
            fit_B = terms["diffusion"].detach() * bound.surprise_B
            total_B = total_B + (fit_B - fit_B.detach()).to(total_B.dtype)
        weight = task.weight_B.sum()
        return Terms(
            total_B=total_B,
            diagnostics={name: torch.stack([each_B.detach().sum(), weight]) for name, each_B in terms.items()},
        )

    def _weighted(self, bound: Bound, error_BL: Tensor, targets_BL: Tensor, open_BL: Tensor) -> Tensor:
        """(1 - r) · mean squared error of the prediction + r · cross-entropy of rounding (Li et al. 2022)."""
        options = self.options
        rounding = 0.5 if options.rounding is None else options.rounding
        scale_B = x0_weight("x0" if options.prediction == "tokens" else options.prediction, bound.level)
        mse_B = scale_B.to(error_BL.dtype) * error_BL.sum(dim=1) / options.channels
        ce_BL = _cross_entropy(bound.answer.logits_BLV, targets_BL)
        return (1 - rounding) * mse_B + rounding * (ce_BL * open_BL).sum(dim=1)

    def exercises(self, batch: Batch, task: Task) -> list[Exercise]:
        """Prompt and window: what is noisy is asked, and what is withheld, or was never there, is nothing."""
        assert isinstance(task, EmbeddingTask)
        tokens_BN, there_BN = task.targets_BL, task.real_BN
        if self.assets.prompt:
            tokens_BN = torch.cat([batch["prompt"], tokens_BN], dim=1)
            there_BN = torch.cat([batch["prompt_real"], there_BN[:, self.assets.prompt :]], dim=1)
        found = []
        for row, real_N in enumerate(task.real_BN):
            tokens, symbols = tokens_BN[row, real_N].tolist(), task.symbols_BN[row, real_N].tolist()
            source = ["word" if there else "nothing" for there in there_BN[row, real_N].tolist()]
            shown = [{self.open: "mask", self.withheld: "nothing"}.get(symbol, "word") for symbol in symbols]
            asked = ["word" if symbol == self.open else "nothing" for symbol in symbols]
            found.append(Exercise(*(self.signs(tokens, roles) for roles in (source, shown, asked))))
        return found

    def room(self, prompt: int) -> int:
        """How many tokens can be written after a prompt of so many: a prompt of its own leaves the window free.

        Raises UserError if it is longer than prompts were in training.
        """
        if not self.assets.prompt:
            return super().room(prompt)
        if prompt > self.assets.prompt:
            raise UserError(
                f"The prompt has {prompt} tokens, but this model was trained with {self.assets.prompt} at most "
                "before its window; shorten the prompt."
            )
        return self.assets.context

    def showcase(self, validation: Dataset) -> EmbeddingRequest:
        """The first half of some held-out text, to be continued."""
        tokens_L = self.excerpt(validation)
        return EmbeddingRequest(canvas=Canvas(tokens_L, torch.arange(len(tokens_L)) < len(tokens_L) // 2))

    @torch.no_grad()
    def fill(
        self,
        network: nn.Module,
        canvases: list[Canvas],
        request: EmbeddingRequest,
        draws: Draws,
        show: Show | None,
    ) -> list[list[int]]:
        """Denoise all open positions together, then read the tokens off; given ones condition every step.

        Raises UserError where the options shape a distribution that the network does not predict.
        """
        if self.options.prediction != "tokens" and (request.top_k, request.top_p) != (None, None):
            raise UserError("This model predicts vectors, not a distribution over tokens: leave out top-k and top-p.")
        network = cast("EmbeddingNetwork", network)
        if network.lengths is not None and (request.tokens, request.canvas, request.infill) == (None, None, None):
            canvases = self._shortened(network.lengths, canvases, draws)
        page = Page.of(canvases, self, draws.positions_B.device)
        filled = write(network, page, canvases, request, draws, show)
        return [
            tokens if canvas.is_infill else self.until_end(tokens, canvas)
            for tokens, canvas in zip(filled, canvases, strict=True)
        ]

    def _shortened(self, lengths: Tensor, canvases: list[Canvas], draws: Draws) -> list[Canvas]:
        """Continuations as long as texts are: how much there is of a window is drawn, and comes before its words."""
        u_B = draws.uniform("length", 1, dtype=torch.float64)[:, 0]
        shortened = []
        for canvas, u in zip(canvases, u_B, strict=True):
            size = len(canvas.tokens_L)
            fewest = int(canvas.given_L.sum()) + self.assets.context - size
            at_least = torch.arange(self.assets.context, device=lengths.device) >= fewest
            drawn = draw(shape(lengths.masked_fill(~at_least, -torch.inf), temperature=1.0), u)
            kept = size - (self.assets.context - 1 - int(drawn))
            shortened.append(Canvas(canvas.tokens_L[:kept], canvas.given_L[:kept]))
        return shortened


def _cross_entropy(logits_BLV: Tensor, targets_BL: Tensor) -> Tensor:
    return F.cross_entropy(logits_BLV.flatten(0, 1), targets_BL.flatten(), reduction="none").view_as(targets_BL)
