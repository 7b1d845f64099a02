"""The examples of a step, decoded, each with its own loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from seedfast import keys
from seedfast.data.caption.dataset import CaptionAssets, CaptionDataset
from seedfast.data.dataset import Batch, Corpus
from seedfast.data.image.dataset import ImageAssets
from seedfast.data.text.corpus import TextAssets
from seedfast.loop.session import Session
from seedfast.loop.tasks import step_batches


@dataclass(frozen=True, kw_only=True)
class Row:
    """An example of a step.

    id: of the example, as `train --without` takes it. position: in the sample stream. loss: its own, total over weight,
    None for weight zero. weight: how much it counts, such as its scored tokens. share: its part of the step's loss.
    shows: what it is: the text, the class of an image, captions. input: what the network is given, where a family shows
    it: a text with placeholders. source: of a mixture. size: of an image, channels × height × width.
    """

    id: int
    position: int
    loss: float | None
    weight: float
    share: float
    shows: str
    input: str | None = None
    source: str | None = None
    size: str | None = None


def rows_of(session: Session, step: int) -> tuple[list[Row], Tensor | None]:
    """The rows of step `step` (0, 1, …) under the weights before it, the largest loss first, and their images.

    The losses are those of training: dropout draws the same numbers, and their weighted mean is the loss of the step.
    """
    run, place = session.run, session.distributed
    objective = session.family.objective.for_step(step)
    buffers = {name: buffer.clone() for name, buffer in session.network.named_buffers()}
    found: list[tuple[Row, Tensor | None]] = []
    ids, positions = session.ids(step), session.positions(step)
    session.network.train()
    for index, (batch, task) in enumerate(step_batches(session, step)):
        keys.seed_torch(run.seed, "dropout", step, index, place.rank)
        asked = task if session.compiled == "off" else task.with_fixed_shapes()
        with torch.no_grad(), place.autocast():
            total_B = objective.loss(session.network, asked.to(place.device), session.state.family).total_B
        for row, (shows, given) in enumerate(_shown(session, batch, task)):
            number, weight = ids[len(found)], float(task.weight_B[row])
            total = float(total_B[row]) if weight else 0.0
            pixels = _pixels(session.corpus, batch, row, number)
            if number in run.without:  # another example stands in its place
                shows, given, pixels = "(left out)", None, None
            shown = Row(
                id=number,
                position=positions[len(found)],
                loss=total / weight if weight else None,
                weight=weight,
                share=total,
                shows=shows,
                input=given,
                source=_source(session.corpus, number),
                size=None if pixels is None else "×".join(map(str, pixels.shape)),
            )
            found.append((shown, pixels))
    for name, buffer in session.network.named_buffers():
        buffer.copy_(buffers[name])  # such as moving statistics, which a forward pass changes
    whole = sum(row.share for row, _ in found) or 1.0
    found = [(replace(row, share=row.share / whole), pixels) for row, pixels in found]
    found.sort(key=lambda pair: math.inf if pair[0].loss is None else -pair[0].loss)
    pictures = [pixels for _, pixels in found if pixels is not None]
    return [row for row, _ in found], torch.stack(pictures) if pictures else None


def _shown(session: Session, batch: Batch, task: Any) -> list[tuple[str, str | None]]:
    """What each example of a micro-batch is, in words, and the network's input where the family shows it."""
    assets = session.corpus.assets
    if session.family.preview is not None:
        previews = session.family.preview(batch, task)
        parts = [(each.source, each.inputs) for each in previews]
        return [(_text(source), _text(given) or None) for source, given in parts]
    if isinstance(assets, TextAssets):
        return [(assets.tokenizer.decode(tokens), None) for tokens in batch["tokens"].flatten(1)[:, 1:].tolist()]
    if isinstance(assets, CaptionAssets):
        captions = zip(batch["tokens"], batch["lengths"].tolist(), strict=True)
        decoded = [
            [assets.tokenizer.decode(tokens[:length].tolist()) for tokens, length in zip(rows, lengths, strict=True)
             if length]
            for rows, lengths in captions
        ]  # fmt: skip
        return [(" | ".join(texts), None) for texts in decoded]
    if isinstance(assets, ImageAssets):
        return [(assets.classes[label] if assets.classes else "", None) for label in batch["labels"].tolist()]
    return [("", None) for _ in range(len(task.weight_B))]


def _text(spans: Sequence[tuple[str, str]]) -> str:
    return "".join(text for text, _ in spans)


def _source(corpus: Corpus, number: int) -> str | None:
    """The source of a mixture that an example is from."""
    if corpus.mixed is None:
        return None
    ends = accumulate(source.size for source in corpus.mixed.sources)
    return next(source.name for source, end in zip(corpus.mixed.sources, ends, strict=True) if number < end)


def _pixels(corpus: Corpus, batch: Batch, row: int, number: int) -> Tensor | None:
    """The image of an example, uint8 [C, S, S]."""
    if "pixels" in batch:
        return batch["pixels"][row]
    return corpus.train.pixels([number])[0] if isinstance(corpus.train, CaptionDataset) else None
