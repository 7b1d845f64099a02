"""The objective of captioning: tasks, and the losses of validation, likelihood training and self-critical training.

Shapes: B images, P captions, R references of an image, K sampled captions of an image, L positions, N tokens that
count, M patches, U the encoder's width, V vocabulary.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.data.caption.dataset import CaptionAssets, CaptionCorpus
from seedfast.data.dataset import Batch, Corpus
from seedfast.errors import UserError
from seedfast.families.caption.decoding import captioner_of
from seedfast.families.caption.feature_cache import with_features
from seedfast.families.caption.metrics import CiderScorer, Words, words
from seedfast.families.caption.options import SELF_CRITICAL_SAMPLES, CaptionOptions
from seedfast.families.caption.self_critical import self_critical_terms
from seedfast.families.caption.teacher_forcing import TeacherForcing
from seedfast.families.caption.validation_metrics import greedy_metrics
from seedfast.families.family import Objective, Task, Terms
from seedfast.families.generator import State
from seedfast.families.measure import Measure
from seedfast.keys import Draws
from seedfast.models.captioner import Captioner, CaptionerNetwork

Phase = Literal["validation", "likelihood", "self-critical"]


@dataclass(frozen=True, kw_only=True)
class CaptionTask(Task):
    """Captions to predict, each of one of the images.

    images: uint8 pixels [B, C, S, S], or float32 features of a frozen encoder [B, M, U].
    inputs_PL, targets_PL, loss_mask_PL: see `TeacherForcing`. image_P: the image of each caption.
    where_N, targets_N, image_N: the flattened position, the target and the image of each target that counts.
    metric_rows_B: the images whose greedy captions are measured; None where there are none.
    u_BKL: the quantiles that self-critical samples are drawn by; None in the other phases.
    references: the words of all references: of the images in metric_rows_B, or of all images for self-critical samples.
    """

    images: Tensor
    inputs_PL: Tensor
    targets_PL: Tensor
    loss_mask_PL: Tensor
    image_P: Tensor
    where_N: Tensor
    targets_N: Tensor
    image_N: Tensor
    metric_rows_B: Tensor | None = None
    u_BKL: Tensor | None = None
    references: tuple[tuple[Words, ...], ...] = ()


class CaptionObjective(Objective[CaptionTask]):
    """The negative log-likelihood of captions given their images; from a step on, the CIDEr-D of sampled captions.

    phase: validation takes all captions, measures greedy ones and smooths no labels.
    """

    varies = "captions differ in number and length"

    def __init__(self, options: CaptionOptions, assets: CaptionAssets) -> None:
        self.options, self.assets = options, assets
        self.phase: Phase = "validation"
        # A checkpoint has no training captions, hence no scorer.
        self.scorer = CiderScorer(assets.references) if assets.references else None
        generated = {} if options.metrics_every_n_images is None else {"exact_match": 1, "cider": 1, "rouge_l": 1}
        self.measure = Measure(loss_unit="nats", weight_unit="tokens", metrics={"accuracy": 1, **generated})

    def for_step(self, step: int) -> Self:
        """The training objective: likelihood first, from `self_critical` on the reward of sampled captions."""
        begins = self.options.self_critical
        objective = copy(self)
        objective.phase = "self-critical" if begins is not None and step >= begins else "likelihood"
        return objective

    def network(self, model: Any) -> CaptionerNetwork:
        """An encoder for these images and a decoder for this vocabulary. Raises UserError for another model."""
        if not isinstance(model, Captioner):
            raise UserError(f"Captions need a captioner as their model, not {type(model).__name__}.")
        processor = self.assets.processor
        return model.build(
            vocabulary=self.assets.tokenizer.size, context=self.assets.context, size=processor.size,
            channels=processor.channels, mean=processor.mean, std=processor.std,
        )  # fmt: skip

    def cache_frozen_features(self, network: nn.Module, corpus: Corpus) -> Corpus:
        """The corpus with the features of a frozen encoder, which computes each image once."""
        captioner = captioner_of(network)
        assert isinstance(corpus, CaptionCorpus)
        return with_features(captioner, corpus) if captioner.caches_features else corpus

    def task(self, batch: Batch, draws: Draws) -> CaptionTask:
        """Choose captions of each image, and lay them out as inputs and targets."""
        lengths_BR, tokens_BRL = batch["lengths"], batch["tokens"]
        image_P, place_P = self._chosen(lengths_BR, draws).nonzero(as_tuple=True)
        layout = TeacherForcing.of_padded(
            tokens_BRL[image_P, place_P],
            lengths_BR[image_P, place_P],
            end=self.assets.tokenizer.end_of_text,
            context=self.assets.context,
        )
        where_N = layout.positions()
        weight_B = torch.zeros(len(lengths_BR)).index_add(0, image_P, layout.loss_mask_PL.sum(dim=1).float())
        u_BKL, metric_rows_B = self._quantiles(draws), self._metric_rows(batch["id"])
        rows: Sequence[int] = [] if metric_rows_B is None else metric_rows_B.tolist()
        if u_BKL is not None:  # the reward needs all references, and the loss is a mean over samples
            rows, weight_B = range(len(weight_B)), torch.full_like(weight_B, u_BKL.shape[1])
        return CaptionTask(
            weight_B=weight_B,
            images=batch["features"] if "features" in batch else batch["pixels"],
            inputs_PL=layout.inputs_PL,
            targets_PL=layout.targets_PL,
            loss_mask_PL=layout.loss_mask_PL,
            image_P=image_P,
            where_N=where_N,
            targets_N=layout.targets_PL.flatten()[where_N],
            image_N=image_P[where_N // layout.targets_PL.shape[1]],
            metric_rows_B=metric_rows_B,
            u_BKL=u_BKL,
            references=tuple(self._references(tokens_BRL[row], lengths_BR[row]) for row in rows),
        )

    def _chosen(self, lengths_BR: Tensor, draws: Draws) -> Tensor:
        """Which captions to predict, bool [B, R]: all at validation, a random subset of each image in training."""
        exists_BR = lengths_BR > 0
        count = self.options.captions_per_image
        if self.phase == "validation" or count is None:
            return exists_BR
        priority_BR = draws.uniform("caption", lengths_BR.shape[1], dtype=torch.float64).masked_fill(~exists_BR, 2.0)
        return exists_BR & (priority_BR.argsort(dim=1).argsort(dim=1) < count)

    def _quantiles(self, draws: Draws) -> Tensor | None:
        """What self-critical samples are drawn by, float64 [B, K, L]; None in the other phases."""
        if self.phase != "self-critical":
            return None
        samples, context = self.options.self_critical_samples or SELF_CRITICAL_SAMPLES, self.assets.context
        return draws.uniform("candidates", samples * context, dtype=torch.float64).view(-1, samples, context)

    def _metric_rows(self, ids_B: Tensor) -> Tensor | None:
        """The images of a batch whose greedy captions are measured; None where there are none."""
        every = self.options.metrics_every_n_images
        if self.phase != "validation" or every is None:
            return None
        rows_B = (ids_B % every == 0).nonzero()[:, 0]
        return rows_B if len(rows_B) else None

    def _references(self, tokens_RL: Tensor, lengths_R: Tensor) -> tuple[Words, ...]:
        """The words of an image's references."""
        pairs = zip(tokens_RL.tolist(), lengths_R.tolist(), strict=True)
        return tuple(words(self.assets.tokenizer.decode(tokens[:length])) for tokens, length in pairs if length)

    def loss(self, network: nn.Module, task: CaptionTask, state: State) -> Terms:
        """Each image's -Σ log q(token | image, tokens before it), in nats, or its self-critical loss."""
        images = _image_inputs(task.images)
        if task.u_BKL is not None:
            assert self.scorer is not None, "training has its captions at hand"
            return self_critical_terms(
                network, images, task.u_BKL, task.references, assets=self.assets, scorer=self.scorer
            )
        nats_N, accuracy = self._nats(network, images, task)
        total_B = torch.zeros_like(task.weight_B).index_add(0, task.image_N, nats_N.float())
        return Terms(total_B=total_B, diagnostics=accuracy)

    def metrics(self, network: nn.Module, task: CaptionTask, state: State) -> dict[str, Tensor]:
        """At validation, the metrics of greedy captions of some images."""
        if task.metric_rows_B is None:
            return {}
        captioner = captioner_of(network)
        memory_BMU = captioner(**_image_inputs(task.images[task.metric_rows_B]))
        return greedy_metrics(captioner, memory_BMU, task.references, assets=self.assets, scorer=self.scorer)

    def _nats(
        self, network: nn.Module, images: dict[str, Tensor], task: CaptionTask
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-log q of each target, float32 [N], with smoothed labels in training; at validation also the accuracy."""
        inputs = {**images, "image_P": task.image_P, "where_N": task.where_N}
        smoothing = self.options.label_smoothing
        if self.phase != "validation" and smoothing:
            logits_NV = network(task.inputs_PL, **inputs).float()
            return F.cross_entropy(logits_NV, task.targets_N, reduction="none", label_smoothing=smoothing), {}
        scores = network(task.inputs_PL, targets_N=task.targets_N, **inputs)
        if scores.hits_N is None:
            return scores.nats_N, {}
        accuracy = torch.stack([scores.hits_N.sum(), torch.ones_like(task.targets_N).sum()])
        return scores.nats_N, {"accuracy": accuracy}


def _image_inputs(images: Tensor) -> dict[str, Tensor]:
    """Pixels or features as the network's input of that name."""
    return {"pixels_BCSS": images} if images.dtype == torch.uint8 else {"memory_BMU": images}
