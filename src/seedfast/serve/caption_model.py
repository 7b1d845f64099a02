"""Captions by a captioning model. The captions of one image are one row's, and computed by themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any

import torch

from seedfast.data.image.decode import ImageError, open_image
from seedfast.errors import UserError
from seedfast.evaluate.sampling_options import make_request
from seedfast.evaluate.trained import Trained
from seedfast.families.caption.generator import CaptionGenerator
from seedfast.families.caption.request import CaptionRequest, ImageBatch
from seedfast.families.caption.samples import CaptionSamples
from seedfast.keys import Draws
from seedfast.serve.engine import Row
from seedfast.serve.events import Delta, Emit, Ended, Plan
from seedfast.serve.unfolding import Unfolding


@dataclass(frozen=True, kw_only=True)
class CaptionJob:
    """A request for `n` captions of an image, each of `count` tokens at most (None: as long as it is)."""

    image: bytes
    n: int
    seed: int
    stops: tuple[str, ...]
    count: int | None
    options: Mapping[str, Any]


class CaptionModel:
    """A trained captioner that several rows use."""

    def __init__(self, model: Trained) -> None:
        assert isinstance(model.generator, CaptionGenerator)
        self.model, self.generator = model, model.generator

    def plan(self, job: CaptionJob) -> Plan:
        """The row of a job. Raises UserError for an image that cannot be read, or options that do not fit."""
        request = make_request(CaptionRequest, _decoding(dict(job.options)) | {"num": job.n})
        assert isinstance(request, CaptionRequest)
        try:
            with open_image(BytesIO(job.image)) as image:
                pixels = torch.from_numpy(self.generator.assets.processor(image).copy())
        except ImageError as error:
            raise UserError(f"The image cannot be read: {error}.") from None
        images = ImageBatch(pixels.unsqueeze(0), ("the image",))
        return Plan(job.n, 0, lambda emit: [partial(self._write, job, request, images, emit)])

    def _write(self, job: CaptionJob, request: CaptionRequest, images: ImageBatch, emit: Emit, row: Row) -> None:
        samples = row.compute(partial(self._captions, job, request, images))
        tokenizer = self.generator.assets.tokenizer
        for choice, caption in enumerate(samples.captions[0]):
            tokens = tokenizer.encode(caption.text)
            text = Unfolding([], tokenizer.decode, job.stops)
            for piece in (text.extend(tokens[: job.count]), text.finish()):
                if piece.text:
                    emit(Delta(choice, piece))
            is_cut = job.count is not None and len(tokens) > job.count and not text.is_stopped
            emit(Ended(choice, "length" if is_cut else "stop", len(text.tokens)))

    @torch.no_grad()
    def _captions(self, job: CaptionJob, request: CaptionRequest, images: ImageBatch) -> CaptionSamples:
        model = self.model
        positions_B = torch.arange(job.n, device=model.distributed.device)
        draws = Draws(seed=job.seed, scope="sample", positions_B=positions_B, group=job.n)
        with model.distributed.autocast():
            return self.generator.generate(model.network, replace(request, image_batch=images), draws, model.state)


def _decoding(options: dict[str, Any]) -> dict[str, Any]:
    """The options with the decoding that temperature, top-p and top-k stand for in OpenAI's API."""
    if "decoding" in options or not {"temperature", "top_p", "top_k"} & options.keys():
        return options
    if options.get("temperature") == 0:
        return {name: value for name, value in options.items() if name not in ("temperature", "top_p", "top_k")} | {
            "decoding": "greedy"
        }
    return {**options, "decoding": "nucleus"}
