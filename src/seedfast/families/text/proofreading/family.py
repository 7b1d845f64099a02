"""The proofreading family: one network that names missing words and points at wrong ones.

It is a masked diffusion model that answers with a few symbols more. Of what it inherits (`masked.py`), filling gaps is
the same and the likelihood bound is that of its unmasking part, with the special answers ruled out. What it is trained
on is another thing: a weighted cross-entropy over texts in which words are missing and others are wrong, which is no
likelihood and is never called one.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.text.config import TextAssets
from seedfast.errors import UserError
from seedfast.families.family import State, Task, Terms
from seedfast.families.profile import Profile
from seedfast.families.text.masked import Masked, MaskedDiffusion, MaskedTask
from seedfast.families.text.preview import Exercise
from seedfast.families.text.proofreading import diagnostics
from seedfast.families.text.proofreading.corruption import NOTHING, UNMASK, Corruption, Symbols, Version, corrupt
from seedfast.families.text.proofreading.curriculum import moving, resolved
from seedfast.families.text.proofreading.loss_weights import Answers, Weights, answer_weights, task_weights
from seedfast.families.text.proofreading.mask_bias import Bias
from seedfast.families.text.proofreading.sampling import ProofreadingRequest, doubted, moved
from seedfast.families.text.request import TextRequest, TextSamples
from seedfast.families.text.unmask_sampler import MaskedRequest, NoiseSchedule, Page, Unmasking
from seedfast.keys import Draws


@dataclass(frozen=True, kw_only=True)
class Proofreading:
    """Proofreading diffusion."""

    version: Version = "mask-wrong"
    """`mask`: a wrong word is to be answered with [MASK], the symbol of a gap; `mask-wrong`: with a symbol of its own;
    `edit`: words may be missing or superfluous as well, to be answered with [INSERT] and [DELETE]."""
    corruption: Corruption = field(default_factory=Corruption)
    weights: Weights = field(default_factory=Weights)
    bias: Bias = field(default_factory=Bias)
    schedule: NoiseSchedule = "linear"
    """α(t): how many tokens each of a sampler's steps decides."""
    evaluation_draws: int = 8
    """Corruptions of each validation example: as many degrees of difficulty, the same at every validation."""
    document_mask: bool = False
    """Let tokens see only their own document where a window holds several."""
    diagnostics_every: int = 100
    """Steps between full diagnostics in training; validations always have them."""

    def __post_init__(self) -> None:
        for key in ("evaluation_draws", "diagnostics_every"):
            if getattr(self, key) < 1:
                raise UserError(f"objective.{key} must be at least 1, not {getattr(self, key)}.")
        if self.bias.kind != "none" and self.version != "mask":
            raise UserError(
                f"objective.bias is that of [MASK] as an answer, which only the version 'mask' has, not "
                f"'{self.version}'; leave bias.kind at 'none'."
            )
        if self.corruption.edits is not None and self.version != "edit":
            raise UserError(
                f"objective.corruption.edits belongs to the version 'edit', not to '{self.version}'; leave it out."
            )

    def build(self, assets: TextAssets) -> "ProofreadingDiffusion":
        """The family, for this tokenizer and context."""
        return ProofreadingDiffusion(self, assets)


@dataclass(frozen=True, kw_only=True)
class ProofreadingTask(Task):
    """Texts to be completed and corrected.

    inputs_BL: what is seen. targets_BL: the right answers. kind_BL: what is asked (corruption.UNMASK …).
    weights_BL: what the task alone makes each answer weigh. real_BL: false at padding, or None without any.
    unmasking: in validation, a task of the masked family besides, for the bound.
    """

    inputs_BL: Tensor
    targets_BL: Tensor
    kind_BL: Tensor
    weights_BL: Tensor
    documents_BL: Tensor | None = None
    real_BL: Tensor | None = None
    unmasking: MaskedTask | None = None


class ProofreadingDiffusion(Unmasking):
    """The proofreading family."""

    is_bound = False
    quantity = "weighted_nats"
    request = ProofreadingRequest
    limits: Mapping[str, tuple[float, str]] = {
        "logit_gap": (50.0, "the special answers are out of the network's reach, so it will hardly ever give them")
    }
    profiles: Mapping[str, Profile] = {
        "calibration: accuracy at gaps": Profile(
            axis="probability of the likeliest symbol", points=diagnostics.CALIBRATION, identity=True
        )
    }

    def __init__(self, options: Proofreading, assets: TextAssets) -> None:
        super().__init__(options, assets)
        self.options = options
        self.evaluation_draws = options.evaluation_draws
        self.symbols = Symbols(self.vocabulary, options.version)
        self.mask = self.symbols.mask
        bound = Masked(evaluation_draws=options.evaluation_draws, document_mask=options.document_mask)
        self.unmasking = MaskedDiffusion(bound, assets)  # the same network as a masked diffusion model
        self.unmasking.mask = self.mask
        self.units = {}  # a weighted loss is no number of bits
        self.training_step: int | None = None  # None: the end of every curriculum
        self.curriculum: dict[str, float] = {}
        self.state: State = {}

    def at(self, step: int) -> Self:
        """The family whose curricula stand where they stand at this step."""
        family = copy(self)
        family.options, family.training_step = resolved(self.options, step), step
        family.curriculum = {name: ramp.at(step) for name, ramp in moving(self.options).items()}
        return family

    @property
    def likelihood(self) -> MaskedDiffusion:
        """The network as a masked diffusion model, whose loss is a bound."""
        return self.unmasking

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
        """Corrupt each window's scored tokens; those that are not scored stay as they are, and nothing is asked."""
        options = self.options
        tokens_BL, scored_BL = batch["tokens"][:, 1:], batch["scored"]
        corrupted = corrupt(tokens_BL, scored_BL, options.corruption, self.symbols, draws)
        weights_BL = task_weights(corrupted.kind_BL, options.weights)
        documents_BL, real_BL = self.documents(batch), corrupted.real_BL
        if documents_BL is not None and corrupted.source_BL is not None:
            documents_BL = documents_BL.gather(1, corrupted.source_BL)
        return ProofreadingTask(
            weight_B=weights_BL.double().sum(dim=1),
            inputs_BL=corrupted.inputs_BL,
            targets_BL=corrupted.targets_BL,
            kind_BL=corrupted.kind_BL,
            weights_BL=weights_BL,
            documents_BL=documents_BL,
            real_BL=None if real_BL is None or bool(real_BL.all()) else real_BL,
            unmasking=self.unmasking.task(batch, draws) if self.training_step is None else None,
        )

    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        """Each example's weighted cross-entropy: Σ w_task · w_answer · KL(target ‖ q), in weighted nats."""
        assert isinstance(task, ProofreadingTask)
        options, symbols = self.options.weights, self.symbols
        logits_BLV = network(task.inputs_BL, documents_BL=task.documents_BL, real_BL=task.real_BL).float()
        log_q_BLV = self.biased(logits_BLV, state).log_softmax(dim=-1)
        ce_BL = -log_q_BLV.gather(2, task.targets_BL.unsqueeze(2)).squeeze(2)
        kl_BL = soften(ce_BL, log_q_BLV, options.label_smoothing.end)
        weight_BL = task.weights_BL
        answers = Answers(options, symbols.words, task.kind_BL, task.targets_BL, log_q_BLV.detach())
        factor_BL = answer_weights(answers)
        if factor_BL is not None:
            weight_BL = weight_BL * factor_BL
        asked_BL = task.kind_BL > 0
        found = {
            "plain_cross_entropy": diagnostics.mean(ce_BL.detach(), asked_BL),
            "mean_weight": diagnostics.mean(weight_BL, asked_BL),
        }
        if self.options.bias.kind != "none":
            found["mask_bias"] = diagnostics.ratio(state["mask_bias"], torch.ones_like(state["mask_bias"]))
            found["mask_probability"] = diagnostics.mean(
                answers.log_q_BLV[..., symbols.mask].exp(), task.kind_BL == UNMASK
            )
        if self._watches():
            found |= self._watch(logits_BLV[..., : symbols.answers].detach(), answers)
        if task.unmasking is not None and not network.training:
            found |= self._bound(network, task.unmasking, state)
        return Terms(total_B=(kl_BL * weight_BL).sum(dim=1), diagnostics=found)

    def biased(self, logits_BLV: Tensor, state: State) -> Tensor:
        """The logits of all answers, with the bias of [MASK] where it is one."""
        logits_BLV = logits_BLV[..., : self.symbols.answers]
        if "mask_bias" not in state:
            return logits_BLV
        is_mask_V = torch.arange(self.symbols.answers, device=logits_BLV.device) == self.mask
        return logits_BLV + state["mask_bias"] * is_mask_V

    def answers(self, logits_BLV: Tensor, state: State) -> Tensor:
        """The probabilities of all answers."""
        return self.biased(logits_BLV, state).softmax(dim=-1)

    def _watches(self) -> bool:
        return self.training_step is None or self.training_step % self.options.diagnostics_every == 0

    def _watch(self, logits_BLV: Tensor, answers: Answers) -> diagnostics.Diagnostics:
        asked = (answers.targets_BL, answers.kind_BL, self.symbols)
        found = diagnostics.gaps(answers.log_q_BLV, *asked)
        found |= diagnostics.doubts(answers.log_q_BLV, answers.kind_BL, self.symbols)
        found |= diagnostics.logits(logits_BLV, *asked)
        if self.training_step is not None:
            found |= diagnostics.curriculum(self.curriculum, logits_BLV)
        return found

    def _bound(self, network: nn.Module, task: MaskedTask, state: State) -> diagnostics.Diagnostics:
        terms = self.unmasking.loss(network, task, state)
        nats, weight = terms.total_B.sum(), task.weight_B.sum()
        bits = {
            f"nelbo_{unit}": diagnostics.ratio(nats * factor, weight) for unit, factor in self.unmasking.units.items()
        }
        return {"nelbo": diagnostics.ratio(nats, weight), **bits}

    def exercises(self, batch: Batch, task: Task) -> list[Exercise]:
        """Gaps are to be filled, wrong words pointed at; nothing is asked of what is not scored."""
        assert isinstance(task, ProofreadingTask)
        found = []
        sources, columns = batch["tokens"][:, 1:].tolist(), (task.inputs_BL, task.targets_BL, task.kind_BL)
        for row, source in enumerate(sources):
            inputs, targets, kinds = (column[row].tolist() for column in columns)
            answers = [self._role(target, kind) for target, kind in zip(targets, kinds, strict=True)]
            seen = [self._seen(*each) for each in zip(inputs, answers, strict=True)]
            found.append(Exercise(self.signs(source), self.signs(inputs, seen), self.signs(targets, answers)))
        return found

    def _role(self, target: int, kind: int) -> str:
        """What a position is to answer."""
        if kind == NOTHING:
            return "nothing"
        return self.symbols.names[target] if target >= self.vocabulary else "filled" if kind == UNMASK else "word"

    def _seen(self, token: int, answer: str) -> str:
        """What a position shows."""
        if token == self.mask:
            return "mask"
        return "changed" if answer in ("wrong", "delete", "mask") else "word"

    def sample(self, network: nn.Module, request: TextRequest, draws: Draws, state: State) -> TextSamples:
        """Write texts, with the bias that the loss has used."""
        family = copy(self)
        family.state = state
        return super(ProofreadingDiffusion, family).sample(network, request, draws, state)

    def showcase(self, validation: Dataset) -> ProofreadingRequest:
        """Held-out text with a gap, which is filled and then gone over again."""
        gap = super().showcase(validation)
        return ProofreadingRequest(canvas=gap.canvas, passes=8)

    def evaluations(self, request: MaskedRequest, steps: int) -> int:
        """The steps of the draft, and one evaluation for each pass over it."""
        assert isinstance(request, ProofreadingRequest)
        return steps + request.rounds

    def revised(
        self,
        before: Page,
        after: Page,
        logits_BLV: Tensor,
        request: MaskedRequest,
        draws: Draws,
        step: int,
        left: int,
    ) -> Page:
        """Hide what this pass doubts; in the version `edit`, also move words to where some are missing."""
        assert isinstance(request, ProofreadingRequest)
        if left > request.rounds:
            return super().revised(before, after, logits_BLV, request, draws, step, left)
        if left == 0:
            return after
        q_BLV = self.answers(logits_BLV, self.state)
        doubt_BL = q_BLV[..., self.symbols.wrong]
        page = after.hide(doubted(before, doubt_BL, request, request.rounds - left, draws), self.mask)
        return moved(before, page, q_BLV, self.symbols) if self.options.version == "edit" else page

    @torch.no_grad()
    def self_score(self, network: nn.Module, tokens_BL: Tensor) -> Tensor:
        """The mean log-probability that each of a text's words is right, by the network's own account, float64 [B].

        No measure of quality: a model is quite sure of its own repetitions, and less sure of real text.
        """
        q_BLV = self.answers(network(tokens_BL).double(), self.state)
        return torch.log1p(-q_BLV[..., self.vocabulary :].sum(dim=-1).clamp(max=1 - 1e-9)).mean(dim=1)

    def initial_state(self) -> State:
        """The bias of [MASK], where there is one."""
        return self.options.bias.initial_state()

    def adapt(self, state: State, diagnostics: Mapping[str, float]) -> State:
        """The bias after a step."""
        return self.options.bias.adapt(state, diagnostics)


def soften(ce_BL: Tensor, log_q_BLV: Tensor, smoothing: float) -> Tensor:
    """KL(target ‖ q) of a target that keeps 1 - `smoothing` and spreads the rest over all symbols, [B, L].

    The divergence and not the cross-entropy, so that the right answer costs 0 however soft the target.
    """
    if smoothing == 0:
        return ce_BL
    symbols = log_q_BLV.shape[-1]
    rest = torch.tensor(smoothing / symbols, dtype=torch.float64)
    top = 1 - smoothing + rest
    entropy = -float(torch.xlogy(top, top) + (symbols - 1) * torch.xlogy(rest, rest))
    return (1 - smoothing) * ce_BL - smoothing * log_q_BLV.mean(dim=-1) - entropy
