"""The proofreading family: one network that predicts masked words and detects wrong ones.

It is a masked diffusion model with a few more answers. It unmasks like one (`unmask_sampler.py`), and its likelihood
bound is that of masked diffusion with the special answers ruled out. It is trained on a weighted cross-entropy over
texts in which words are masked and others are wrong, which is no likelihood.
"""

from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.families.family import Family, Task, Terms
from seedfast.families.generator import State
from seedfast.families.measure import Curve, Measure
from seedfast.families.text.base import TextObjective
from seedfast.families.text.mask_counts import MEASURED
from seedfast.families.text.masked import Masked, MaskedObjective, MaskedTask, documents
from seedfast.families.text.preview import TaskPreview
from seedfast.families.text.proofreading import diagnostics
from seedfast.families.text.proofreading.corruption import NOTHING, UNMASK, Corruption, Symbols, Version, corrupt
from seedfast.families.text.proofreading.curriculum import ramps, resolved
from seedfast.families.text.proofreading.generator import ProofreadingGenerator
from seedfast.families.text.proofreading.loss_weights import Answers, Weights, answer_weights, task_weights
from seedfast.families.text.proofreading.mask_bias import Bias, answer_logits
from seedfast.families.text.unmask_policy import NoiseSchedule
from seedfast.keys import Draws
from seedfast.options import Affects, AtLeast, Example, check

_LARGEST_LOGIT_GAP = 50.0


@dataclass(frozen=True, kw_only=True)
class Proofreading:
    """Proofreading diffusion."""

    version: Version = "mask-wrong"
    """`mask`: the answer to a wrong word is [MASK], the symbol of a gap; `mask-wrong`: a symbol of its own, [WRONG];
    `edit`: words may be missing or superfluous as well, with the answers [INSERT] and [DELETE]."""
    corruption: Corruption = field(default_factory=Corruption)
    weights: Weights = field(default_factory=Weights)
    bias: Bias = field(default_factory=Bias)
    schedule: Annotated[NoiseSchedule, Affects("sampling")] = "linear"
    """The noise schedule α(t) of how many tokens each sampling step unmasks."""
    evaluation_draws: Annotated[int, AtLeast(1)] = 8
    """Corruptions of each validation example: a fixed grid of difficulties, the same at every validation."""
    document_mask: bool = False
    """Restrict attention to a token's own document where a window holds several."""
    diagnostics_every: Annotated[int, AtLeast(1), Example(1)] = 100
    """Steps between full diagnostics in training; validations always have them."""

    def __post_init__(self) -> None:
        check(self, "objective.")
        if self.bias.kind != "none" and self.version != "mask":
            raise UserError(
                f"objective.bias.kind ({self.bias.kind}) is about [MASK] as an answer, which only "
                f"objective.version mask has, not {self.version}: leave it at none."
            )
        if self.corruption.edits is not None and self.version != "edit":
            raise UserError(
                f"objective.corruption.edits ({self.corruption.edits}) has no effect without objective.version edit: "
                "leave it out."
            )

    def build(self, assets: TextAssets) -> Family:
        """The family for this tokenizer and context."""
        objective = ProofreadingObjective(self, assets)
        return Family(
            objective,
            ProofreadingGenerator(assets, objective.symbols, self.schedule),
            likelihood=objective.likelihood,
            adaptive=self.bias,
            preview=objective.preview,
        )


@dataclass(frozen=True, kw_only=True)
class ProofreadingTask(Task):
    """Texts to be completed and corrected.

    inputs_BL: the corrupted texts. targets_BL: the right answers. kind_BL: the kind of each position
    (`corruption.UNMASK` …). weights_BL: the weights that depend on the task alone. documents_BL: the document of each
    position, or None where tokens attend to the whole window. real_BL: false at padding, or None without any.
    masked: at validation, also the task of masked diffusion, for the likelihood bound.
    """

    inputs_BL: Tensor
    targets_BL: Tensor
    kind_BL: Tensor
    weights_BL: Tensor
    documents_BL: Tensor | None = None
    real_BL: Tensor | None = None
    masked: MaskedTask | None = None


class ProofreadingObjective(TextObjective[ProofreadingTask]):
    """The weighted cross-entropy of right answers, in which every curriculum is at its end unless `for_step` is used.

    likelihood: the same network as a masked diffusion model, whose loss is a bound.
    """

    has_fixed_shapes = True
    holds_all_logits = True
    varies = "its curricula change the loss"

    def __init__(self, options: Proofreading, assets: TextAssets) -> None:
        super().__init__(assets)
        self.options, self.symbols = options, Symbols(self.vocabulary, options.version)
        bound = Masked(
            estimator=MEASURED, evaluation_draws=options.evaluation_draws, document_mask=options.document_mask
        )
        self.likelihood = MaskedObjective(bound, assets, mask=self.symbols.mask)
        self.measure = Measure(
            loss_unit="weighted_nats",
            weight_unit="tokens",
            draws=options.evaluation_draws,
            alarms={
                "logit_gap": (
                    _LARGEST_LOGIT_GAP,
                    "the special answers are out of the network's reach, so it will hardly ever give them",
                )
            },
            curves={
                "calibration: accuracy at gaps": Curve(
                    axis="probability of the likeliest symbol", points=diagnostics.CALIBRATION, identity=True
                )
            },
        )
        self.ramps = ramps(options)
        self.training_step: int | None = None  # None: validation
        self.curriculum: dict[str, float] = {}
        # A step needs its options several times, and after the last ramp they are always the same.
        self._options_at = lru_cache(maxsize=8)(partial(resolved, options))

    def for_step(self, step: int) -> Self:
        """The objective with every curriculum at this step."""
        objective = copy(self)
        objective.training_step = step
        if self.ramps:
            objective.options = self._options_at(min(step, max(ramp.steps for ramp in self.ramps.values())))
            objective.curriculum = {name: ramp.value(step) for name, ramp in self.ramps.items()}
            objective.ramps = {}
        return objective

    def network(self, model: Any) -> nn.Module:
        """A bidirectional transformer that reads words and [MASK] and answers with words and the special answers."""
        symbols = self.symbols
        network: nn.Module = model.build(
            vocabulary=symbols.inputs,
            outputs=symbols.inputs if model.tied else symbols.answers,
            context=self.assets.context,
            causal=False,
        )
        return network

    def task(self, batch: Batch, draws: Draws) -> ProofreadingTask:
        """Corrupt each window's scored tokens; those that are not scored stay as they are, without a loss."""
        options = self.options
        tokens_BL, scored_BL = batch["tokens"][:, 1:], batch["scored"]
        corrupted = corrupt(tokens_BL, scored_BL, options.corruption, self.symbols, draws)
        weights_BL = task_weights(corrupted.kind_BL, options.weights)
        documents_BL = documents(batch, self.end_of_text) if options.document_mask else None
        if documents_BL is not None and corrupted.source_BL is not None:
            documents_BL = documents_BL.gather(1, corrupted.source_BL)
        real_BL = corrupted.real_BL
        return ProofreadingTask(
            weight_B=weights_BL.double().sum(dim=1),
            inputs_BL=corrupted.inputs_BL,
            targets_BL=corrupted.targets_BL,
            kind_BL=corrupted.kind_BL,
            weights_BL=weights_BL,
            documents_BL=documents_BL,
            real_BL=None if real_BL is None or bool(real_BL.all()) else real_BL,
            masked=self.likelihood.task(batch, draws) if self.training_step is None else None,
        )

    def loss(self, network: nn.Module, task: ProofreadingTask, state: State) -> Terms:
        """Each example's weighted cross-entropy: Σ w_task · w_answer · KL(target ‖ q), in weighted nats."""
        options, symbols = self.options.weights, self.symbols
        logits_BLV = network(task.inputs_BL, documents_BL=task.documents_BL, real_BL=task.real_BL).float()
        log_q_BLV = answer_logits(logits_BLV, state, symbols).log_softmax(dim=-1)
        ce_BL = -log_q_BLV.gather(2, task.targets_BL.unsqueeze(2)).squeeze(2)
        kl_BL = soften(ce_BL, log_q_BLV, options.label_smoothing.end)
        weight_BL = task.weights_BL
        answers = Answers(options, symbols.words, task.kind_BL, task.targets_BL, log_q_BLV.detach())
        factor_BL = answer_weights(answers)
        if factor_BL is not None:
            weight_BL = weight_BL * factor_BL
        has_target_BL = task.kind_BL != NOTHING
        found = {
            "plain_cross_entropy": diagnostics.mean(ce_BL.detach(), has_target_BL),
            "mean_weight": diagnostics.mean(weight_BL, has_target_BL),
        }
        if self.options.bias.kind != "none":
            found["mask_bias"] = diagnostics.ratio(state["mask_bias"], torch.ones_like(state["mask_bias"]))
            found["mask_probability"] = diagnostics.mean(
                answers.log_q_BLV[..., symbols.mask].exp(), task.kind_BL == UNMASK
            )
        if self.training_step is None or self.training_step % self.options.diagnostics_every == 0:
            found |= self._diagnostics(logits_BLV[..., : symbols.answers].detach(), answers)
        if task.masked is not None and not network.training:
            found |= self._bound(network, task.masked, state)
        return Terms(total_B=(kl_BL * weight_BL).sum(dim=1), diagnostics=found)

    def _diagnostics(self, logits_BLV: Tensor, answers: Answers) -> diagnostics.Diagnostics:
        where = (answers.targets_BL, answers.kind_BL, self.symbols)
        found = diagnostics.gaps(answers.log_q_BLV, *where)
        found |= diagnostics.doubts(answers.log_q_BLV, answers.kind_BL, self.symbols)
        found |= diagnostics.logits(logits_BLV, *where)
        if self.training_step is not None:
            found |= diagnostics.curriculum(self.curriculum, logits_BLV)
        return found

    def _bound(self, network: nn.Module, task: MaskedTask, state: State) -> diagnostics.Diagnostics:
        terms = self.likelihood.loss(network, task, state)
        nats, weight = terms.total_B.sum(), task.weight_B.sum()
        conversions = self.likelihood.measure.conversions
        bits = {f"nelbo_{unit}": diagnostics.ratio(nats * factor, weight) for unit, factor in conversions.items()}
        return {"nelbo": diagnostics.ratio(nats, weight), **bits}

    def preview(self, batch: Batch, task: ProofreadingTask) -> list[TaskPreview]:
        """The target of a gap is its word, that of a wrong word a special answer; unscored tokens have none."""
        rows = zip(
            batch["tokens"][:, 1:].tolist(),
            task.inputs_BL.tolist(),
            task.targets_BL.tolist(),
            task.kind_BL.tolist(),
            strict=True,
        )
        found = []
        for source, inputs, targets, kinds in rows:
            answers = [self._target_kind(target, kind) for target, kind in zip(targets, kinds, strict=True)]
            shown = [self._input_kind(token, answer) for token, answer in zip(inputs, answers, strict=True)]
            found.append(TaskPreview(self.spans(source), self.spans(inputs, shown), self.spans(targets, answers)))
        return found

    def _target_kind(self, target: int, kind: int) -> str:
        """The kind of a position's target in a preview."""
        if kind == NOTHING:
            return "nothing"
        return self.symbols.names[target] if target >= self.vocabulary else "filled" if kind == UNMASK else "word"

    def _input_kind(self, token: int, target_kind: str) -> str:
        """The kind of a position's input in a preview."""
        if token == self.symbols.mask:
            return "mask"
        return "changed" if target_kind in ("wrong", "delete", "mask") else "word"


def soften(ce_BL: Tensor, log_q_BLV: Tensor, smoothing: float) -> Tensor:
    """KL(target ‖ q) of a target that keeps 1 - `smoothing` and spreads the rest over all symbols, [B, L].

    The divergence and not the cross-entropy, so that the right answer costs 0 however soft the target.
    """
    if smoothing == 0:
        return ce_BL
    entropy = _soft_entropy(smoothing, log_q_BLV.shape[-1])
    return (1 - smoothing) * ce_BL - smoothing * log_q_BLV.mean(dim=-1) - entropy


def _soft_entropy(smoothing: float, symbols: int) -> float:
    """The entropy of a softened target in nats."""
    rest = torch.tensor(smoothing / symbols, dtype=torch.float64)
    top = 1 - smoothing + rest
    return -float(torch.xlogy(top, top) + (symbols - 1) * torch.xlogy(rest, rest))
