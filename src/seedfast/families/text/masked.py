"""Masked diffusion language models: MDLM's objective (Sahoo et al. 2024).

A text of n scored tokens loses some of them to [MASK]; the network, which attends to both sides, predicts them. With
x the text, S the masked set, q the network and CE(x, S) = -Σ_{i∈S} log q(x_i | x_{¬S}), the negative evidence lower
bound has three equal forms (docs/identities.md#nelbo-forms):

    ∫₀¹ (1/t) E_{S~Bernoulli(t)} CE dt  =  E_{k~q} 1/(k q(k)) E_{|S|=k} CE  =  E_π Σ_j -log q(x_{π_j} | x_{π_<j})

The first, under any noise schedule α (the weight is -α'/(1-α), and the bound does not depend on α), is the usual
estimator. The second, for any probabilities q(k) of masking k tokens (`mask_counts`), needs no cut-off near t = 0,
where the variance of the first diverges, and k is stratified over the batch: it is the default.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.text.corpus import TextAssets
from seedfast.families.family import Family, Task, Terms
from seedfast.families.generator import State
from seedfast.families.text.base import TextGenerator, TextObjective, likelihood_measure
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.mask_counts import CountLaw, counts, most_masked
from seedfast.families.text.positions import first
from seedfast.families.text.preview import TaskPreview
from seedfast.families.text.request import DEMO_TEXTS, Canvas
from seedfast.families.text.unmask_policy import MaskedRequest, NoiseSchedule, Policy, alpha
from seedfast.families.text.unmask_sampler import unmask
from seedfast.families.text.unmask_step import MaskedVocabulary
from seedfast.keys import Draws
from seedfast.options import AtLeast, Example, check

Estimator = Literal[CountLaw, "continuous"]


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Masked diffusion."""

    estimator: Estimator = "root-k"
    """Masked are k of n tokens with a probability ∝ 1/√k (root-k: least gradient noise) or uniform k (fixed-k), or each
    token with probability 1-α(t) (continuous). k is stratified over the batch."""
    schedule: Annotated[NoiseSchedule, Example("cosine", estimator="continuous")] = "linear"
    """The noise schedule α(t) of the continuous estimator, and of how many tokens each sampling step unmasks."""
    evaluation_draws: Annotated[int, AtLeast(1)] = 8
    """Masks drawn for each validation example; more lower the standard error of the estimated bound."""
    document_mask: bool = False
    """Restrict attention to a token's own document where a window holds several."""

    def __post_init__(self) -> None:
        check(self, "objective.")

    def build(self, assets: TextAssets) -> Family:
        """The family for this tokenizer and context."""
        objective = MaskedObjective(self, assets)
        return Family(objective, MaskedGenerator(self, assets), preview=objective.preview)


@dataclass(frozen=True, kw_only=True)
class MaskedTask(Task):
    """Texts with masked tokens.

    inputs_BL: token ids with [MASK]. targets_BL: the texts. masked_BL: the positions whose cross-entropy is summed.
    scale_BL: the factor of that sum for each of the K blocks of a text (one, without blocks) in the estimate of its
        NELBO: 1/(k q(k)), or -α'/(1-α).
    documents_BL: the document of each token, or None where tokens attend to the whole window.
    most: the largest number of masked tokens that so many texts of a global batch can have.

    The others are derived from these, for the N masked positions of the whole batch: where_N, their index in the
    flattened [B · L]; targets_N, their tokens; rows_N, their example; scale_N, their factor. In fixed shapes they are
    of `most` positions, of which those that are not masked have the factor 0.
    """

    inputs_BL: Tensor
    targets_BL: Tensor
    masked_BL: Tensor
    scale_BL: Tensor
    documents_BL: Tensor | None
    most: int
    where_N: Tensor
    targets_N: Tensor
    rows_N: Tensor
    scale_N: Tensor

    @classmethod
    def of(
        cls,
        *,
        weight_B: Tensor,
        inputs_BL: Tensor,
        targets_BL: Tensor,
        masked_BL: Tensor,
        scale_BL: Tensor,
        documents_BL: Tensor | None = None,
        most: int | None = None,
    ) -> "MaskedTask":
        """The task with the fields that are derived from these. most: default all positions."""
        where_N = masked_BL.flatten().nonzero().squeeze(1)
        return cls(
            weight_B=weight_B,
            inputs_BL=inputs_BL,
            targets_BL=targets_BL,
            masked_BL=masked_BL,
            scale_BL=scale_BL,
            documents_BL=documents_BL,
            most=masked_BL.numel() if most is None else most,
            where_N=where_N,
            targets_N=targets_BL.flatten()[where_N],
            rows_N=torch.div(where_N, targets_BL.shape[1], rounding_mode="floor"),
            scale_N=scale_BL.flatten()[where_N],
        )

    def with_fixed_shapes(self) -> "MaskedTask":
        """The task in which `most` positions are predicted; behind the masked ones come visible ones, of factor 0.

        No position is repeated: on a GPU, gradients of repeated indices are added one after the other.
        """
        is_masked = self.masked_BL.flatten()
        assert len(self.where_N) <= self.most, "more tokens are masked than the estimator can mask"
        where_N = torch.argsort(~is_masked, stable=True)[: self.most]
        return replace(
            self,
            where_N=where_N,
            targets_N=self.targets_BL.flatten()[where_N],
            rows_N=torch.div(where_N, self.targets_BL.shape[1], rounding_mode="floor"),
            scale_N=(self.scale_BL.flatten() * is_masked)[where_N],
        )


def weight(schedule: str, t: Tensor) -> Tensor:
    """-α'(t) / (1 - α(t)): the NELBO's weight of the cross-entropy at time t (Sahoo et al. 2024, equation 10)."""
    match schedule:
        case "linear":
            return 1 / t
        case "cosine":
            return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t))
        case "polynomial":
            return 2 / t
    raise ValueError(f"no noise schedule is called {schedule}")


def documents(batch: Batch, end_of_text: int) -> Tensor:
    """The document of each target token in its window, int64 [B, L]; an end-of-text belongs to the one it ends."""
    if "documents" in batch:
        return batch["documents"][:, 1:]
    ends_BL = batch["tokens"][:, 1:] == end_of_text
    return ends_BL.cumsum(dim=1) - ends_BL.long()


class MaskedObjective(TextObjective[MaskedTask]):
    """An upper bound of the negative log-likelihood.

    mask: the id of [MASK] (default: the one after the vocabulary's last). block: tokens that are masked with a time of
        their own and attend to the clean text before them (block diffusion); None: the whole window.
    """

    has_fixed_shapes = True

    def __init__(
        self, options: Masked, assets: TextAssets, *, mask: int | None = None, block: int | None = None
    ) -> None:
        super().__init__(assets)
        self.options, self.block = options, block
        self.mask = self.vocabulary if mask is None else mask
        self.measure = likelihood_measure(assets, is_bound=True, draws=options.evaluation_draws)

    def network(self, model: Any) -> nn.Module:
        """A bidirectional transformer that reads V + 1 symbols and predicts V: p([MASK]) = 0 by construction."""
        outputs = self.vocabulary + 1 if model.tied else self.vocabulary
        network: nn.Module = model.build(
            vocabulary=self.vocabulary + 1, outputs=outputs, context=self.assets.context, causal=False, block=self.block
        )
        return network

    def task(self, batch: Batch, draws: Draws) -> MaskedTask:
        """Mask a part of the scored tokens of each window; tokens that are not scored stay visible."""
        targets_BL, scored_BL = batch["tokens"][:, 1:], batch["scored"]
        length = targets_BL.shape[1]
        size = self.block or length
        blocks = -(-length // size)
        rest = blocks * size - length  # the last block of a short text is shorter
        # Each block has a time of its own. One number, spread evenly over the blocks, stays uniform for each of them.
        spread_K = torch.arange(blocks, dtype=torch.float64) / blocks
        u_P = ((draws.stratified("time").unsqueeze(1) + spread_K) % 1).flatten()  # P = B · K parts
        order_BL = draws.uniform("mask", length, dtype=torch.float64)
        order_PL = F.pad(order_BL, (0, rest)).view(len(u_P), size)
        scored_PL = F.pad(scored_BL, (0, rest)).reshape(len(u_P), size)
        law, most = self.options.estimator, None
        if law == "continuous":
            t_P = 1 - u_P  # in (0, 1], so that the weight is finite
            masked_PL = scored_PL & (order_PL < 1 - alpha(self.options.schedule, t_P).unsqueeze(1))
            scale_P = weight(self.options.schedule, t_P)
        else:
            k_P, scale_P = counts(law, u_P, scored_PL.sum(dim=1))
            masked_PL = first(order_PL, scored_PL, k_P)
            most = most_masked(law, len(targets_BL), blocks, size, draws.group)
        masked_BL = masked_PL.view(len(targets_BL), -1)[:, :length]
        return MaskedTask.of(
            weight_B=scored_BL.sum(dim=1),
            inputs_BL=targets_BL.masked_fill(masked_BL, self.mask),
            targets_BL=targets_BL,
            masked_BL=masked_BL,
            scale_BL=scale_P.view(-1, blocks).float().repeat_interleave(size, dim=1)[:, :length],
            documents_BL=documents(batch, self.end_of_text) if self.options.document_mask else None,
            most=most,
        )

    def inputs(self, task: MaskedTask) -> dict[str, Tensor | None]:
        """The network's inputs besides the tokens, fields of `SequenceInputs`."""
        return {
            "documents_BL": task.documents_BL,
            "clean_BL": None if self.block is None else task.targets_BL,
        }

    def loss(self, network: nn.Module, task: MaskedTask, state: State) -> Terms:
        """Each example's estimate of its NELBO in nats. Visible tokens contribute exactly 0 (SUBS's carry-over)."""
        scores = network(
            task.inputs_BL,
            where_N=task.where_N,  # the output layer is evaluated only there
            targets_N=task.targets_N,
            outputs=self.vocabulary,
            **self.inputs(task),
        )
        total_B = torch.zeros_like(task.scale_BL[:, 0]).index_add(0, task.rows_N, scores.nats_N * task.scale_N)
        diagnostics = {}
        if scores.hits_N is not None:
            diagnostics["unmask_accuracy"] = torch.stack([scores.hits_N.sum(), torch.ones_like(task.targets_N).sum()])
        return Terms(total_B=total_B, diagnostics=diagnostics)

    def preview(self, batch: Batch, task: MaskedTask) -> list[TaskPreview]:
        """Masked tokens are the target."""
        return [
            TaskPreview(
                source=self.spans(tokens),
                inputs=self.spans(tokens, ["mask" if is_masked else "word" for is_masked in masked]),
                targets=self.spans(tokens, ["word" if is_masked else "nothing" for is_masked in masked]),
            )
            for tokens, masked in zip(task.targets_BL.tolist(), task.masked_BL.tolist(), strict=True)
        ]


class MaskedGenerator(TextGenerator[MaskedRequest]):
    """Unmasks the open positions of a text in parallel steps, from both sides."""

    Request = MaskedRequest

    def __init__(self, options: Masked, assets: TextAssets) -> None:
        super().__init__(assets)
        self.schedule, self.symbols = options.schedule, MaskedVocabulary.of(assets)

    def demo(self, validation: Dataset) -> MaskedRequest:
        """Held-out text with a gap of up to twenty tokens in its middle."""
        return MaskedRequest(canvas=Canvas.with_gap(self.excerpt(validation)), num=DEMO_TEXTS)

    def fill(self, decoding: Decoding[MaskedRequest], canvases: list[Canvas]) -> list[list[int]]:
        """Unmask all canvases together."""
        filled = unmask(decoding, canvases, vocabulary=self.symbols, policy=self.policy(decoding.request))
        return [self.until_end(tokens, canvas) for tokens, canvas in zip(filled, canvases, strict=True)]

    def policy(self, request: MaskedRequest) -> Policy:
        """How the steps of a request go."""
        return Policy(request, self.schedule)
