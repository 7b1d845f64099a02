"""Masked diffusion language models: MDLM's objective (Sahoo et al. 2024) and its samplers.

A text of n scored tokens loses some of them to [MASK]; the network, which sees both sides, predicts them. With
x the text, S the masked set, q the network and CE(x, S) = -Σ_{i∈S} log q(x_i | x_{¬S}), the negative evidence lower
bound has three equal forms (identity 2):

    ∫₀¹ (1/t) E_{S~Bernoulli(t)} CE dt  =  E_{k~U{1..n}} (n/k) E_{|S|=k} CE  =  E_π Σ_j -log q(x_{π_j} | x_{π_<j})

The first, under any noise schedule α (the weight is -α'/(1-α), and the bound does not depend on α), is the usual
estimator. The second needs no cut-off near t = 0 (where the first's variance diverges) and, with k stratified over the
batch, has a sixth to two thirds of its standard deviation, less where the text is less predictable: it is the default.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.data.text.config import TextAssets
from seedfast.errors import UserError
from seedfast.families.family import State, Task, Terms
from seedfast.families.text.positions import first
from seedfast.families.text.preview import Exercise
from seedfast.families.text.unmask_sampler import MaskedRequest, NoiseSchedule, Unmasking, alpha
from seedfast.keys import Draws
from seedfast.models.transformer_block import Inputs


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Masked diffusion."""

    estimator: Literal["fixed-k", "continuous"] = "fixed-k"
    """How many tokens are masked: k uniform in 1 … n, stratified over the batch; or each with probability 1-α(t)."""
    schedule: NoiseSchedule = "linear"
    """α(t): of the continuous estimator, and how many tokens each of a sampler's steps decides."""
    evaluation_draws: int = 8
    """Masks drawn for each validation example; more lower the standard error of the estimated bound."""
    document_mask: bool = False
    """Let tokens see only their own document where a window holds several."""

    def __post_init__(self) -> None:
        if self.evaluation_draws < 1:
            raise UserError(f"objective.evaluation_draws must be at least 1, not {self.evaluation_draws}.")

    def build(self, assets: TextAssets) -> "MaskedDiffusion":
        """The family, for this tokenizer and context."""
        return MaskedDiffusion(self, assets)


@dataclass(frozen=True, kw_only=True)
class MaskedTask(Task):
    """Texts with tokens missing.

    inputs_BL: token ids with [MASK]. targets_BL: the texts. masked_BL: where CE counts.
    scale_BK: what the sums of CE over the K blocks of each text (one, without blocks) are multiplied by to estimate
        their NELBO (n/k, or n/(n·t)).
    documents_BL: which document each token is of, or None where tokens see the whole window.
    """

    inputs_BL: Tensor
    targets_BL: Tensor
    masked_BL: Tensor
    scale_BK: Tensor
    documents_BL: Tensor | None = None


def weight(schedule: str, t: Tensor) -> Tensor:
    """-α'(t) / (1 - α(t)): the NELBO's weight of CE at time t (Sahoo et al. 2024, equation 10)."""
    match schedule:
        case "linear":
            return 1 / t
        case "cosine":
            return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t))
        case "polynomial":
            return 2 / t
    raise ValueError(f"no noise schedule is called {schedule}")


class MaskedDiffusion(Unmasking):
    """The masked diffusion family. Its one extra input symbol, [MASK], has the id after the vocabulary's last."""

    is_bound = True
    block: int | None = None
    """How many tokens are masked on their own, and seen together; None: the whole window."""
    request = MaskedRequest

    def __init__(self, options: Masked, assets: TextAssets) -> None:
        super().__init__(options, assets)
        self.options = options
        self.mask = self.vocabulary
        self.evaluation_draws = options.evaluation_draws

    def network(self, model: Any) -> nn.Module:
        """A bidirectional transformer that reads V + 1 symbols and predicts V: p([MASK]) = 0 by its very shape."""
        outputs = self.vocabulary + 1 if model.tied else self.vocabulary
        network: nn.Module = model.build(
            vocabulary=self.vocabulary + 1, outputs=outputs, context=self.assets.context, causal=False, block=self.block
        )
        return network

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        """Mask a part of the scored tokens of each window (tokens that are not scored stay visible)."""
        targets_BL, scored_BL = batch["tokens"][:, 1:], batch["scored"]
        parts = 1 if self.block is None else targets_BL.shape[1] // self.block
        # Each block has a time of its own. One number, spread evenly over the blocks, stays uniform for each of them.
        spread_K = torch.arange(parts, dtype=torch.float64) / parts
        u_P = ((draws.stratified("time").unsqueeze(1) + spread_K) % 1).flatten()
        order_PL = draws.uniform("mask", targets_BL.shape[1], dtype=torch.float64).view(len(u_P), -1)
        scored_PL = scored_BL.reshape(len(u_P), -1)
        if self.options.estimator == "fixed-k":
            # k = 1 + floor(u n): uniform in 1 … n for every n, and stratified over the global batch like u is.
            count_P = scored_PL.sum(dim=1)
            k_P = 1 + (u_P * count_P).long()
            masked_PL = first(order_PL, scored_PL, k_P)
            scale_P = count_P / k_P
        else:
            t_P = 1 - u_P  # in (0, 1], so that the weight is finite
            masked_PL = scored_PL & (order_PL < 1 - alpha(self.options.schedule, t_P).unsqueeze(1))
            scale_P = weight(self.options.schedule, t_P)
        masked_BL = masked_PL.view_as(targets_BL)
        return MaskedTask(
            weight_B=scored_BL.sum(dim=1),
            inputs_BL=targets_BL.masked_fill(masked_BL, self.mask),
            targets_BL=targets_BL,
            masked_BL=masked_BL,
            scale_BK=scale_P.view(-1, parts).float(),
            documents_BL=self.documents(batch),
        )

    def inputs(self, task: MaskedTask) -> Inputs:
        """What the network is given beside the tokens."""
        return {"documents_BL": task.documents_BL}

    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        """Each example's estimate of its NELBO in nats. Visible tokens contribute exactly 0 (SUBS's carry-over)."""
        assert isinstance(task, MaskedTask)
        where_M = task.masked_BL.flatten().nonzero().squeeze(1)  # the output layer is needed nowhere else
        length, inputs = task.inputs_BL.shape[1], self.inputs(task)
        targets_M = task.targets_BL.flatten()[where_M]
        scores = network(task.inputs_BL, where_N=where_M, targets_N=targets_M, outputs=self.vocabulary, **inputs)
        rows_M = torch.div(where_M, length, rounding_mode="floor")
        scale_M = task.scale_BK.repeat_interleave(length // task.scale_BK.shape[1], dim=1).flatten()[where_M]
        total_B = torch.zeros_like(task.scale_BK[:, 0]).index_add(0, rows_M, scores.nats_N * scale_M)
        diagnostics = {}
        if scores.hits_N is not None:
            diagnostics["unmask_accuracy"] = torch.stack([scores.hits_N.sum(), torch.ones_like(targets_M).sum()])
        return Terms(total_B=total_B, diagnostics=diagnostics)

    def exercises(self, batch: Batch, task: Task) -> list[Exercise]:
        """Only what is masked is asked."""
        assert isinstance(task, MaskedTask)
        rows = zip(task.targets_BL.tolist(), task.masked_BL.tolist(), strict=True)
        return [
            Exercise(
                source=self.signs(targets),
                inputs=self.signs(targets, ["mask" if is_masked else "word" for is_masked in masked]),
                targets=self.signs(targets, ["word" if is_masked else "nothing" for is_masked in masked]),
            )
            for targets, masked in rows
        ]
