"""Image captioning: a causal decoder that sees an image writes what people say about it.

Shapes: B images, P captions, R references of an image, K candidates, L positions, M patches, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.data.caption.dataset import CaptionAssets, Captions
from seedfast.data.dataset import Batch, Corpus, Dataset
from seedfast.errors import UserError
from seedfast.families.caption.beam_search import Advance, Hypothesis, beam_search
from seedfast.families.caption.feature_cache import with_features
from seedfast.families.caption.metrics import Frequencies, cider, rouge_l, words
from seedfast.families.caption.request import CaptionRequest, Seen
from seedfast.families.caption.samples import CaptionSamples, Written
from seedfast.families.family import Family, State, Task, Terms
from seedfast.families.text.categorical import draw, shape
from seedfast.keys import Draws
from seedfast.models.captioner import Captioner, CaptionerNetwork

_SHOWN = 16


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """Next-token prediction of captions, each of which sees its image."""

    captions: int | None = 1
    """Captions of each image that a step learns from, drawn anew each time; None takes all. (Validation takes all.)"""
    label_smoothing: float = 0.0
    """In training, how much of the target is spread evenly over the vocabulary (Szegedy et al. 2016)."""
    self_critical: int | None = None
    """From this step on, raise the CIDEr-D of captions that the model draws, instead of the likelihood of references
    (Rennie et al. 2017); needs a low learning rate."""
    candidates: int | None = None
    """For self_critical: captions drawn for each image, of which each is compared with the others (default 4)."""
    captioned: int | None = 4
    """At validations one image in so many is captioned greedily, for exact match, CIDEr-D and ROUGE-L; None: none."""

    def __post_init__(self) -> None:
        for key, lowest in (("captions", 1), ("self_critical", 0), ("candidates", 2), ("captioned", 1)):
            if (value := getattr(self, key)) is not None and value < lowest:
                raise UserError(f"objective.{key} must be at least {lowest}, not {value}.")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"objective.label_smoothing must lie in [0, 1), not {self.label_smoothing}.")
        if self.candidates is not None and self.self_critical is None:
            raise UserError("objective.candidates belong to self-critical training: set objective.self_critical too.")

    def build(self, assets: CaptionAssets) -> "CaptionFamily":
        """The family, for this tokenizer and these images."""
        return CaptionFamily(self, assets)


@dataclass(frozen=True, kw_only=True)
class CaptionTask(Task):
    """Captions to predict, each of one of the images.

    seen: uint8 pixels [B, C, S, S], or features [B, M, W]. inputs_PL, targets_PL: tokens and their successors.
    scored_PL: which successors count. image_P: the image of each caption. references_BRL, lengths_BR: all captions of
    the images that are to be captioned, which captioned_B says. u_BKL: what candidates are drawn by, or None.
    """

    seen: Tensor
    inputs_PL: Tensor
    targets_PL: Tensor
    scored_PL: Tensor
    image_P: Tensor
    references_BRL: Tensor
    lengths_BR: Tensor
    captioned_B: Tensor
    u_BKL: Tensor | None = None


class CaptionFamily(Family):
    """The captioning family. Its loss is the negative log-likelihood of captions given their images."""

    is_bound = False
    counts = "tokens"
    units: Mapping[str, float] = {}
    request = CaptionRequest

    def __init__(self, options: Captioning, assets: CaptionAssets, *, step: int | None = None) -> None:
        self.options, self.assets = options, assets
        self.tokenizer, self.end = assets.tokenizer, assets.tokenizer.end_of_text
        generated = {} if options.captioned is None else {"exact_match": 1, "cider": 1, "rouge_l": 1}
        self.metrics = {"accuracy": 1, **generated}
        self.training = step is not None
        begins = options.self_critical
        self.is_critical = step is not None and begins is not None and step >= begins

    def at(self, step: int) -> Self:
        """In training some captions of each image, smoothed labels and, from a step on, candidates of the model."""
        trained = type(self)(self.options, self.assets, step=step)
        if "frequencies" in vars(self):  # they are the same at every step, and take a while
            vars(trained)["frequencies"] = self.frequencies
        return trained

    def network(self, model: Any) -> CaptionerNetwork:
        """An encoder for these images and a decoder for this vocabulary. Raises UserError if it is no captioner."""
        if not isinstance(model, Captioner):
            raise UserError(f"Captions need a captioner as their model, not {type(model).__name__}.")
        processor = self.assets.processor
        return model.build(
            vocabulary=self.tokenizer.size, context=self.assets.context, size=processor.size,
            channels=processor.channels, mean=processor.mean, std=processor.std,
        )  # fmt: skip

    def ready(self, network: nn.Module, model: Any, corpus: Corpus) -> Corpus:
        """The corpus by the features of an encoder that is frozen: each image is seen once."""
        assert isinstance(network, CaptionerNetwork)
        return with_features(network, corpus) if model.caches else corpus

    def task(self, batch: Batch, draws: Draws) -> CaptionTask:
        """Choose captions and lay them out as inputs and targets. A caption begins after the end of another."""
        lengths_BR, tokens_BRL = batch["lengths"], batch["tokens"]
        chosen_BR = self._chosen(lengths_BR, draws)
        image_P, place_P = chosen_BR.nonzero(as_tuple=True)
        length_P = lengths_BR[image_P, place_P]
        wide = min(int(length_P.max()) + 1, self.assets.context)
        # After the last token the padding is the end, which is what has to be predicted there.
        targets_PL = F.pad(tokens_BRL[image_P, place_P], (0, 1), value=self.end)[:, :wide]
        inputs_PL = F.pad(targets_PL[:, :-1], (1, 0), value=self.end)
        scored_PL = torch.arange(wide) <= length_P[:, None]
        count = self.options.captioned
        captioned_B = torch.zeros_like(batch["id"], dtype=torch.bool)
        if not self.training and count is not None:
            captioned_B = batch["id"] % count == 0
        weight_B = torch.zeros(len(lengths_BR)).index_add(0, image_P, scored_PL.sum(dim=1).float())
        u_BKL = None
        if self.is_critical:
            several = self.options.candidates or 4
            u_BKL = draws.uniform("candidates", several * self.assets.context, dtype=torch.float64)
            u_BKL = u_BKL.view(-1, several, self.assets.context)
            weight_B = torch.full_like(weight_B, several)
            captioned_B = torch.ones_like(captioned_B)
        return CaptionTask(
            weight_B=weight_B,
            seen=batch["features"] if "features" in batch else batch["pixels"],
            inputs_PL=inputs_PL,
            targets_PL=targets_PL,
            scored_PL=scored_PL,
            image_P=image_P,
            references_BRL=tokens_BRL,
            lengths_BR=lengths_BR,
            captioned_B=captioned_B,
            u_BKL=u_BKL,
        )

    def _chosen(self, lengths_BR: Tensor, draws: Draws) -> Tensor:
        """Which captions count: all, or in training as many as wanted of each image, by lot."""
        there_BR = lengths_BR > 0
        wanted = self.options.captions
        if not self.training or wanted is None:
            return there_BR
        lot_BR = draws.uniform("caption", lengths_BR.shape[1], dtype=torch.float64).masked_fill(~there_BR, 2.0)
        return there_BR & (lot_BR.argsort(dim=1).argsort(dim=1) < wanted)

    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        """Each image's -Σ log q(token | image, tokens before it), in nats; or, if critical, its candidates' regret."""
        assert isinstance(task, CaptionTask)
        if task.u_BKL is not None:
            return self._criticise(network, task, task.u_BKL)
        seen, memory_BMU = self._seen(task.seen), None
        if not network.training and bool(task.captioned_B.any()):  # what captions need too is not computed twice
            memory_BMU = network(**seen)
            seen = {"memory_BMU": memory_BMU}
        where_N = task.scored_PL.flatten().nonzero().squeeze(1)
        targets_N = task.targets_PL.flatten()[where_N]
        inputs = {**seen, "image_P": task.image_P, "where_N": where_N}
        diagnostics = {}
        if self.training and self.options.label_smoothing:
            logits_NV = network(task.inputs_PL, **inputs).float()
            nats_N = F.cross_entropy(
                logits_NV, targets_N, reduction="none", label_smoothing=self.options.label_smoothing
            )
        else:
            scores = network(task.inputs_PL, targets_N=targets_N, **inputs)
            nats_N = scores.nats_N
            if scores.hits_N is not None:
                diagnostics["accuracy"] = torch.stack([scores.hits_N.sum(), torch.ones_like(targets_N).sum()])
        if memory_BMU is not None:
            diagnostics |= self._measured(network, memory_BMU, task)
        image_N = task.image_P.repeat_interleave(task.scored_PL.shape[1])[where_N]
        return Terms(
            total_B=torch.zeros_like(task.weight_B).index_add(0, image_N, nats_N.float()), diagnostics=diagnostics
        )

    def _seen(self, seen: Tensor) -> dict[str, Tensor]:
        return {"pixels_BCSS": seen} if seen.dtype == torch.uint8 else {"memory_BMU": seen}

    def _references(self, task: CaptionTask, row: int) -> list[list[str]]:
        """What people said of an image, as words."""
        pairs = zip(task.references_BRL[row].tolist(), task.lengths_BR[row].tolist(), strict=True)
        return [words(self.tokenizer.decode(tokens[:length])) for tokens, length in pairs if length]

    @cached_property
    def frequencies(self) -> Frequencies | None:
        """How common n-grams are in the training captions; None where those are not at hand."""
        if not self.assets.references:
            return None
        return Frequencies.of([words(caption) for caption in each] for each in self.assets.references)

    @torch.no_grad()
    def _measured(self, network: nn.Module, memory_BMU: Tensor, task: CaptionTask) -> dict[str, Tensor]:
        """How well greedy captions agree with the references."""
        rows = task.captioned_B.nonzero()[:, 0]
        found = self.search(network, memory_BMU[rows], beams=1)
        totals: dict[str, float] = {"exact_match": 0.0, "rouge_l": 0.0}
        for row, (best, *_) in zip(rows.tolist(), found, strict=True):
            said, references = words(self.tokenizer.decode(best.tokens)), self._references(task, row)
            totals["exact_match"] += said in references
            totals["rouge_l"] += rouge_l(said, references)
            if self.frequencies is not None:
                totals["cider"] = totals.get("cider", 0.0) + cider(said, references, self.frequencies)
        return {
            name: torch.tensor([value, len(rows)], device=memory_BMU.device, dtype=torch.float64)
            for name, value in totals.items()
        }

    def _criticise(self, network: nn.Module, task: CaptionTask, u_BKL: Tensor) -> Terms:
        """-Σ (reward - that of the other candidates) · log q(candidate): REINFORCE, whose baseline costs nothing.

        The mean reward of the others as baseline is that of Luo 2020, "A Better Variant of Self-Critical Sequence
        Training", equation 4. Rewards are CIDEr-D against all references, by the training captions' frequencies.
        """
        assert self.frequencies is not None, "training has its captions at hand"
        plain = getattr(network, "module", network)  # no gradient: not for a wrapper to see
        was_training = plain.training
        plain.eval()
        image_P = torch.arange(len(u_BKL), device=u_BKL.device).repeat_interleave(u_BKL.shape[1])
        with torch.no_grad():
            memory_PMU = plain(**self._seen(task.seen))[image_P]
            drawn = self.draw(plain, memory_PMU, u_BKL.flatten(0, 1), CaptionRequest(decoding="nucleus", top_p=1.0))
        plain.train(was_training)
        reward_BK = torch.zeros(u_BKL.shape[:2], dtype=torch.float64)
        for row in range(len(u_BKL)):
            references = self._references(task, row)
            for place in range(u_BKL.shape[1]):
                said = words(self.tokenizer.decode(drawn[row * u_BKL.shape[1] + place]))
                reward_BK[row, place] = cider(said, references, self.frequencies)
        others_BK = (reward_BK.sum(dim=1, keepdim=True) - reward_BK) / (reward_BK.shape[1] - 1)
        advantage_P = (reward_BK - others_BK).flatten().float().to(u_BKL.device)
        inputs_PL, targets_PL, scored_PL = self._laid_out(drawn, u_BKL.device)
        where_N = scored_PL.flatten().nonzero().squeeze(1)
        scores = network(
            inputs_PL,
            **self._seen(task.seen),
            image_P=image_P,
            where_N=where_N,
            targets_N=targets_PL.flatten()[where_N],
        )
        caption_N = torch.arange(len(drawn), device=u_BKL.device).repeat_interleave(scored_PL.shape[1])[where_N]
        regret_N = scores.nats_N * advantage_P[caption_N]
        total_B = torch.zeros_like(task.weight_B).index_add(0, image_P[caption_N], regret_N)
        reward = torch.tensor([float(reward_BK.sum()), reward_BK.numel()], dtype=torch.float64, device=u_BKL.device)
        return Terms(total_B=total_B, diagnostics={"reward": reward})

    def _laid_out(self, captions: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Captions of the model as inputs, targets and which targets it wrote: the end too, if there was room."""
        wide = min(max(map(len, captions)) + 1, self.assets.context)
        targets_PL = torch.full((len(captions), wide), self.end, dtype=torch.int64)
        for row, tokens in enumerate(captions):
            targets_PL[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        scored_PL = torch.arange(wide) <= torch.tensor([len(tokens) for tokens in captions])[:, None]
        inputs_PL = F.pad(targets_PL[:, :-1], (1, 0), value=self.end)
        return inputs_PL.to(device), targets_PL.to(device), scored_PL.to(device)

    def advance(self, network: nn.Module, memory_BMU: Tensor) -> Advance:
        """One token more for each caption, with a cache: what `beam_search` and `draw` ask."""
        cache = network.cache(len(memory_BMU), self.assets.context)  # type: ignore[operator]
        first = True

        def advance(rows_N: Tensor, tokens_N: Tensor) -> Tensor:
            nonlocal first
            seen = {"memory_BMU": memory_BMU} if first else {}
            if not first and not _is_all(rows_N, len(cache.next_B)):
                cache.select(rows_N)
            first = False
            logits_NV: Tensor = network(tokens_N.unsqueeze(1), cache=cache, **seen)[:, -1].double()
            if self.tokenizer.never_generate:
                logits_NV[:, list(self.tokenizer.never_generate)] = -torch.inf
            return logits_NV

        return advance

    def search(
        self, network: nn.Module, memory_BMU: Tensor, *, beams: int, alpha: float = 0.0, wanted: int = 1
    ) -> list[list[Hypothesis]]:
        """The best `wanted` captions of each image that a beam search finds; one beam is greedy."""
        start_B = torch.full((len(memory_BMU),), self.end, device=memory_BMU.device)
        advance, length = self.advance(network, memory_BMU), self.assets.context
        return beam_search(
            advance, start_B=start_B, end=self.end, beams=beams, length=length, alpha=alpha, wanted=wanted
        )

    @torch.no_grad()
    def draw(self, network: nn.Module, memory_PMU: Tensor, u_PL: Tensor, request: CaptionRequest) -> list[list[int]]:
        """A caption drawn for each memory, by the numbers u in [0, 1): one for each of its tokens."""
        advance = self.advance(network, memory_PMU)
        written: list[list[int]] = [[] for _ in u_PL]
        going = rows_N = torch.arange(len(u_PL), device=u_PL.device)
        tokens_N = torch.full_like(rows_N, self.end)
        for step in range(self.assets.context):
            logits_NV = advance(rows_N, tokens_N)
            top_p = 0.9 if request.top_p is None else request.top_p
            tokens_N = draw(
                shape(logits_NV, temperature=request.heat, top_k=request.top_k, top_p=top_p), u_PL[going, step]
            )
            rows_N = (tokens_N != self.end).nonzero()[:, 0]
            if not len(rows_N):
                break
            going, tokens_N = going[rows_N], tokens_N[rows_N]
            for row, token in zip(going.tolist(), tokens_N.tolist(), strict=True):
                written[row].append(token)
        return written

    @torch.no_grad()
    def sample(self, network: nn.Module, request: Any, draws: Draws, state: State) -> CaptionSamples:
        """Caption images. Raises UserError if one cannot be read."""
        assert isinstance(request, CaptionRequest)
        assert isinstance(network, CaptionerNetwork)
        seen = request.read(self.assets.processor)
        written: list[tuple[Written, ...]] = []
        for start in range(0, len(seen.names), request.batch):
            pixels = seen.pixels_BCSS[start : start + request.batch].to(draws.positions_B.device)
            memory_BMU = network.encode(pixels)
            if request.decoding == "nucleus":
                rows = slice(start * request.num, start * request.num + len(pixels) * request.num)
                u_PL = replace(draws, positions_B=draws.positions_B[rows]).uniform(
                    "token", self.assets.context, dtype=torch.float64
                )
                drawn = self.draw(network, memory_BMU.repeat_interleave(request.num, dim=0), u_PL, request)
                likely = self._log_probabilities(network, memory_BMU.repeat_interleave(request.num, dim=0), drawn)
                pairs = list(zip(drawn, likely, strict=True))
                found = [pairs[i * request.num : (i + 1) * request.num] for i in range(len(pixels))]
            else:
                beams = self.search(network, memory_BMU, beams=request.width, alpha=request.alpha, wanted=request.num)
                found = [[(each.tokens, each.log_probability) for each in best[: request.num]] for best in beams]
            for index, captions in enumerate(found):
                written.append(self._written(network, memory_BMU[index], captions, pixels.shape[-1], request))
        return CaptionSamples(seen, tuple(written))

    def _log_probabilities(self, network: nn.Module, memory_PMU: Tensor, captions: list[list[int]]) -> list[float]:
        inputs_PL, targets_PL, scored_PL = self._laid_out(captions, memory_PMU.device)
        log_q_PLV = network(inputs_PL, memory_BMU=memory_PMU).double().log_softmax(dim=-1)
        log_q_PL = log_q_PLV.gather(2, targets_PL.unsqueeze(2)).squeeze(2)
        found: list[float] = (log_q_PL * scored_PL).sum(dim=1).tolist()
        return found

    def _written(
        self,
        network: CaptionerNetwork,
        memory_MU: Tensor,
        captions: list[tuple[list[int], float]],
        size: int,
        request: CaptionRequest,
    ) -> tuple[Written, ...]:
        written = [Written(self.tokenizer.decode(tokens), log_p) for tokens, log_p in captions]
        tokens = captions[0][0]
        if request.attention and tokens:
            inputs_L = torch.tensor([self.end, *tokens[:-1]], device=memory_MU.device)
            looks_LM = network.attention(inputs_L[None], memory_MU[None])[0].cpu()
            side = int(looks_LM.shape[1] ** 0.5)  # what is before the square of patches is a class token or registers
            looks_LHW = looks_LM[:, looks_LM.shape[1] - side * side :].view(-1, side, side)
            pieces = tuple(self.tokenizer.decode([token]) for token in tokens)
            written[0] = replace(written[0], pieces=pieces, looks_LHW=looks_LHW)
        return tuple(written)

    def showcase(self, validation: Dataset) -> CaptionRequest:
        """Some held-out images, spread over all of them, with what people said."""
        assert isinstance(validation, Captions)
        ids = [i * len(validation) // _SHOWN for i in range(_SHOWN)] if len(validation) > _SHOWN else None
        return CaptionRequest(seen=seen_of(validation, ids if ids is not None else list(range(len(validation)))))


def seen_of(dataset: Captions, ids: list[int]) -> Seen:
    """Some images of a data set, with their names and references."""
    return Seen(
        dataset.pixels(ids),
        tuple(dataset.names[i] for i in ids),
        tuple(tuple(dataset.captions[i]) for i in ids),
    )


def _is_all(rows_N: Tensor, count: int) -> bool:
    """Whether these are all rows in their order, so that there is nothing to select."""
    return len(rows_N) == count and torch.equal(rows_N, torch.arange(count, device=rows_N.device))
