"""Embedding diffusion: Gaussian diffusion over token embeddings, trained by its own likelihood bound.

With x the text, E its embeddings, z_t = a_t E + s_t ε and γ = -log(a²/s²), the negative evidence lower bound in
continuous time (Kingma et al. 2021, "Variational Diffusion Models"; Gulrajani & Hashimoto 2023, "Likelihood-Based
Diffusion Language Models", Plaid) is

    -log p(x)  ≤  E[-log p(x | z₀)]  +  ½ ∫₀¹ γ'(t) SNR(t) E‖E - Ê(z_t)‖² dt  +  KL(q(z₁ | x) ‖ N(0, I))
                  reconstruction        diffusion                                 prior

With the exact posterior it equals H(x) + KL(q(z₁) ‖ N(0, I)) at any end points of γ
(docs/identities.md#embedding-nelbo). The embeddings are learned by the same bound: reconstruction separates them, and
their length is fixed.

Where windows hold one document each (`data.one_document_per_window`), a window holds the next n tokens of a document,
at most the context. Attention is masked at padding, the loss leaves it out, and the bound gains -log p(n), so that it
bounds the likelihood of the whole text, its length included.
"""

from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.data.dataset import Batch
from seedfast.data.text.corpus import TextAssets
from seedfast.diffusion.parameterisation import x0_weight
from seedfast.errors import UserError
from seedfast.families.family import Family, Terms
from seedfast.families.generator import State
from seedfast.families.measure import Measure
from seedfast.families.text.base import TextObjective, likelihood_conversions, likelihood_measure
from seedfast.families.text.embedding.generator import EmbeddingGenerator
from seedfast.families.text.embedding.network import (
    DiffusionOutput,
    EmbeddingNetwork,
    EmbeddingShape,
    Prediction,
    PromptConditioning,
)
from seedfast.families.text.embedding.noise_schedule import ScheduleKind
from seedfast.families.text.embedding.task import ConditioningRates, EmbeddingTask, noised_spans
from seedfast.families.text.preview import TaskPreview
from seedfast.keys import Draws
from seedfast.options import AtLeast, Between, Example, Formerly, OnlyWith, check


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Embedding diffusion."""

    channels: Annotated[int, AtLeast(1)] = 32
    """Channels of a token's embedding."""
    schedule: ScheduleKind = "learned"
    """γ(t): learned with the bound, or a table of 1000 β, linear or cosine."""
    prediction: Prediction = "tokens"
    """The network's output: a distribution over tokens, whose mean embedding estimates x0, or x0, ε or v itself."""
    loss: Annotated[Literal["bound", "weighted"], Example("weighted", schedule="linear")] = "bound"
    """The likelihood bound, or the squared error of the prediction and a rounding cross-entropy."""
    rounding: Annotated[float | None, Between(0, 1), OnlyWith(loss="weighted"), Example(0.9, schedule="linear")] = None
    """Weight of the rounding cross-entropy in the weighted loss (default 0.5)."""
    self_conditioning: Annotated[float, Between(0, 1)] = 0.5
    """Fraction of training examples whose estimate builds on a first estimate; 0: the network takes none."""
    clean_context: Annotated[float, Between(0, 1), Formerly("context")] = 0.5
    """Fraction of training windows with clean tokens around the noised ones, as in a sampler's infill or prompt."""
    prompt_conditioning: Annotated[
        PromptConditioning, Formerly("reading"), Example("cross", **{"run.data.prompt": 8})
    ] = "prefix"
    """How the network reads a prompt (`data.prompt`): as a prefix of the window, or by cross-attention."""
    condition_dropout: Annotated[float, Between(0, 1), Formerly("withheld"), Example(0.9)] = 0.1
    """Fraction of training examples without prompt and clean tokens, for classifier-free guidance."""
    evaluation_draws: Annotated[int, AtLeast(1)] = 8
    """Noises drawn for each validation example; more lower the standard error of the estimated bound."""

    def __post_init__(self) -> None:
        check(self, "objective.")
        if self.loss == "weighted" and self.schedule == "learned":
            raise UserError(
                "objective.schedule learned needs the likelihood bound, which objective.loss weighted is not: "
                "set objective.schedule to linear or cosine."
            )

    def build(self, assets: TextAssets) -> Family:
        """The family, for this tokenizer and context."""
        objective = EmbeddingObjective(self, assets)
        return Family(
            objective, EmbeddingGenerator(assets, guides=self.condition_dropout > 0), preview=objective.preview
        )


class EmbeddingObjective(TextObjective[EmbeddingTask]):
    """The objective of embedding diffusion.

    Training (`for_step`) varies the conditions of each example: clean tokens around the noised ones, dropped prompts,
    no self-conditioning. The objective itself, which validation uses, is the bound of whole windows given their
    prompts.
    """

    takes_prompts = True
    learns_lengths = True
    has_fixed_shapes = True
    holds_all_logits = True
    varies = "the number of self-conditioned examples differs"

    def __init__(self, options: Embedding, assets: TextAssets) -> None:
        super().__init__(assets)
        self.options = options
        self.shape = EmbeddingShape(
            vocabulary=self.vocabulary,
            context=assets.context,
            prompt=assets.prompt,
            channels=options.channels,
            prompt_conditioning=options.prompt_conditioning,
            schedule=options.schedule,
            prediction=options.prediction,
            self_conditioned=options.self_conditioning > 0,
            padded=assets.one_document_per_window,
        )
        always = 1.0 if options.self_conditioning > 0 else 0.0
        self.rates = ConditioningRates(clean_context=0.0, dropout=0.0, self_conditioning=always)
        if options.loss == "bound":
            self.measure = likelihood_measure(assets, is_bound=True, draws=options.evaluation_draws)
        else:
            self.measure = Measure(loss_unit="weighted_loss", draws=options.evaluation_draws)

    def for_step(self, step: int) -> Self:
        """The objective in training, at every step."""
        options, training = self.options, copy(self)
        training.rates = ConditioningRates(
            clean_context=options.clean_context,
            dropout=options.condition_dropout,
            self_conditioning=options.self_conditioning,
        )
        return training

    def network(self, model: Any) -> nn.Module:
        """A bidirectional transformer with token embeddings and a noise schedule."""
        return EmbeddingNetwork(model, self.shape)

    def task(self, batch: Batch, draws: Draws) -> EmbeddingTask:
        """Choose times, noise and conditions. Tokens that are not scored are given, without noise."""
        shape, rates = self.shape, self.rates
        targets_BL, scored_BL = batch["tokens"][:, 1:], batch["scored"]
        real_BL = batch.get("real", torch.ones_like(scored_BL))
        size_B = real_BL.sum(dim=1)
        noised_BL = noised_spans(scored_BL, size_B, rates.clean_context, draws)
        dropped_B1 = draws.uniform("withheld", 1) < rates.dropout
        condition_BN = targets_BL.masked_fill(dropped_B1 | ~real_BL, shape.null_id)
        condition_BN = condition_BN.masked_fill(noised_BL, shape.noised_id)
        if shape.prompt:
            prompt_BP = batch["prompt"].masked_fill(dropped_B1 | ~batch["prompt_real"], shape.null_id)
            condition_BN = torch.cat([prompt_BP, condition_BN], dim=1)
        self_conditioned_B = draws.uniform("self-conditioning", 1)[:, 0] < rates.self_conditioning
        rows_S = self_conditioned_B.nonzero()[:, 0]
        is_padded = shape.padded and not bool(real_BL.all())
        return EmbeddingTask(
            weight_B=noised_BL.sum(dim=1),
            targets_BL=targets_BL,
            noised_BL=noised_BL,
            condition_BN=condition_BN,
            noise_BLD=draws.normal("noise", targets_BL.shape[1], shape.channels),
            time_B=draws.stratified("time"),
            size_B=size_B,
            real_BN=F.pad(real_BL, (shape.prompt, 0), value=True) if is_padded else None,
            self_conditioned_S=rows_S if len(rows_S) else None,
        )

    def loss(self, network: nn.Module, task: EmbeddingTask, state: State) -> Terms:
        """Each example's estimate of its bound in nats (or its weighted loss), over its noised positions."""
        output: DiffusionOutput = network(task)
        error_BL = (output.x0_BLD - output.denoised.estimate_BLD).square().sum(dim=2) * task.noised_BL
        terms = self._bound(output, error_BL, task)
        nelbo_B = torch.stack(list(terms.values())).sum(dim=0)
        total_B = nelbo_B
        if self.options.loss == "weighted":
            total_B = self._weighted(output, error_BL, task) + terms.get("length", 0.0)
            units = likelihood_conversions(self.assets)
            terms |= {"nelbo": nelbo_B} | {f"nelbo_{unit}": nelbo_B * factor for unit, factor in units.items()}
        elif output.negative_log_density_B is not None:
            # Fits the density of noise levels to the errors there (`LearnedSchedule`); its value in the loss is zero.
            fit_B = terms["diffusion"].detach() * output.negative_log_density_B
            total_B = total_B + (fit_B - fit_B.detach()).to(total_B.dtype)
        weight = task.weight_B.sum()
        return Terms(
            total_B=total_B,
            diagnostics={name: torch.stack([each_B.detach().sum(), weight]) for name, each_B in terms.items()},
        )

    def _bound(self, output: DiffusionOutput, error_BL: Tensor, task: EmbeddingTask) -> dict[str, Tensor]:
        """The terms of the bound in nats, each [B]. error_BL: squared error of x0, zero outside noised positions."""
        terms = {
            "reconstruction": (_cross_entropy(output.decoded_BLV, task.targets_BL) * task.noised_BL).sum(dim=1),
            "diffusion": (output.slope_B * output.level.snr / 2).to(error_BL.dtype) * error_BL.sum(dim=1),
            "prior": output.prior.to(error_BL.dtype) * task.weight_B,
        }
        if output.length_B is not None:
            terms["length"] = output.length_B.to(error_BL.dtype)
        return terms

    def _weighted(self, output: DiffusionOutput, error_BL: Tensor, task: EmbeddingTask) -> Tensor:
        """(1 - r) · mean squared error of the prediction + r · cross-entropy of rounding (Li et al. 2022), [B]."""
        options = self.options
        rounding = 0.5 if options.rounding is None else options.rounding
        scale_B = x0_weight("x0" if options.prediction == "tokens" else options.prediction, output.level)
        mse_B = scale_B.to(error_BL.dtype) * error_BL.sum(dim=1) / options.channels
        ce_BL = _cross_entropy(output.denoised.logits_BLV, task.targets_BL)
        return (1 - rounding) * mse_B + rounding * (ce_BL * task.noised_BL).sum(dim=1)

    def preview(self, batch: Batch, task: EmbeddingTask) -> list[TaskPreview]:
        """Prompt and window: noised positions as masks; dropped, absent and unscored ones as nothing."""
        tokens_BN, exists_BN = task.targets_BL, torch.ones_like(task.condition_BN, dtype=torch.bool)
        real_BN = exists_BN if task.real_BN is None else task.real_BN
        if self.shape.prompt:
            tokens_BN = torch.cat([batch["prompt"], tokens_BN], dim=1)
            exists_BN = torch.cat([batch["prompt_real"], exists_BN[:, self.shape.prompt :]], dim=1)
        kind_of = {self.shape.noised_id: "mask", self.shape.null_id: "nothing"}
        previews = []
        for row, real_N in enumerate(real_BN):  # padding is left out
            tokens, condition = tokens_BN[row, real_N].tolist(), task.condition_BN[row, real_N].tolist()
            source = ["word" if exists else "nothing" for exists in exists_BN[row, real_N].tolist()]
            inputs = [kind_of.get(symbol, "word") for symbol in condition]
            targets = ["word" if symbol == self.shape.noised_id else "nothing" for symbol in condition]
            previews.append(TaskPreview(*(self.spans(tokens, kinds) for kinds in (source, inputs, targets))))
        return previews


def _cross_entropy(logits_BLV: Tensor, targets_BL: Tensor) -> Tensor:
    return F.cross_entropy(logits_BLV.flatten(0, 1), targets_BL.flatten(), reduction="none").view_as(targets_BL)
