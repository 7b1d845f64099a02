"""The generator of captions: a request with images in, captions out.

Shapes: B images, P captions, M patches, U the encoder's width, L tokens, H and W the grid of patches.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from seedfast.console import track
from seedfast.data.caption.dataset import CaptionAssets, CaptionDataset
from seedfast.data.dataset import Dataset
from seedfast.families.caption.decoding import beam_captions, captioner_of, log_probabilities, nucleus_captions
from seedfast.families.caption.request import CaptionRequest, ImageBatch
from seedfast.families.caption.samples import AttentionMaps, CaptionSamples, GeneratedCaption
from seedfast.families.generator import Generator, State
from seedfast.keys import Draws
from seedfast.models.captioner import CaptionerNetwork

DEMO_IMAGES = 16
"""Validation images in the samples that training writes."""

Decoded = tuple[list[int], float]
"""A caption's tokens without its end, and its log-probability with it."""


class CaptionGenerator(Generator[CaptionRequest]):
    """Captions images with a trained network."""

    Request = CaptionRequest

    def __init__(self, assets: CaptionAssets) -> None:
        self.assets = assets

    def demo(self, validation: Dataset) -> CaptionRequest:
        """Some validation images, spread over all of them, with their references."""
        assert isinstance(validation, CaptionDataset)
        count = min(DEMO_IMAGES, len(validation))
        return CaptionRequest(image_batch=image_batch(validation, spread(len(validation), count)))

    def decoding(self, request: CaptionRequest) -> str:
        """How captions are decoded, in words."""
        return request.in_words()

    @torch.no_grad()
    def generate(self, network: nn.Module, request: CaptionRequest, draws: Draws, state: State) -> CaptionSamples:
        """Caption the request's images. Raises UserError if one cannot be read."""
        captioner, images = captioner_of(network), request.read(self.assets.processor)
        generated: list[tuple[GeneratedCaption, ...]] = []
        starts = range(0, len(images.names), request.batch)
        for start in track("Captioning", starts, len(starts)):
            pixels_BCSS = images.pixels_BCSS[start : start + request.batch].to(draws.positions_B.device)
            memory_BMU = captioner.encode(pixels_BCSS)
            first = start * request.num
            positions = draws.positions_B[first : first + len(pixels_BCSS) * request.num]
            decoded = self._decode(captioner, memory_BMU, request, replace(draws, positions_B=positions))
            generated += [
                self._captions(captioner, memory_MU, captions, request.attention)
                for memory_MU, captions in zip(memory_BMU, decoded, strict=True)
            ]
        return CaptionSamples(images, tuple(generated))

    def _decode(
        self, network: CaptionerNetwork, memory_BMU: Tensor, request: CaptionRequest, draws: Draws
    ) -> list[list[Decoded]]:
        """`request.num` captions of each image, the best first."""
        if request.decoding == "nucleus":
            return self._sample(network, memory_BMU.repeat_interleave(request.num, dim=0), request, draws)
        found = beam_captions(
            network, memory_BMU, self.assets, beams=request.beam_width, alpha=request.alpha, count=request.num
        )
        return [[(each.tokens, each.log_probability) for each in best[: request.num]] for best in found]

    def _sample(
        self, network: CaptionerNetwork, memory_PMU: Tensor, request: CaptionRequest, draws: Draws
    ) -> list[list[Decoded]]:
        u_PL = draws.uniform("token", self.assets.context, dtype=torch.float64)
        sampled = nucleus_captions(
            network,
            memory_PMU,
            self.assets,
            u_PL,
            temperature=request.sampling_temperature,
            top_k=request.top_k,
            top_p=request.nucleus,
        )
        pairs = list(zip(sampled, log_probabilities(network, memory_PMU, sampled, self.assets), strict=True))
        return [pairs[start : start + request.num] for start in range(0, len(pairs), request.num)]

    def _captions(
        self, network: CaptionerNetwork, memory_MU: Tensor, decoded: list[Decoded], attention: bool
    ) -> tuple[GeneratedCaption, ...]:
        """The captions of one image as text; the first with its attention maps if they are requested."""
        captions = [GeneratedCaption(self.assets.tokenizer.decode(tokens), log_p) for tokens, log_p in decoded]
        tokens = decoded[0][0]
        if attention and tokens:
            captions[0] = replace(captions[0], attention=self._attention(network, memory_MU, tokens))
        return tuple(captions)

    def _attention(self, network: CaptionerNetwork, memory_MU: Tensor, tokens: list[int]) -> AttentionMaps:
        tokenizer = self.assets.tokenizer
        inputs_L = torch.tensor([tokenizer.end_of_text, *tokens[:-1]], device=memory_MU.device)
        weights_LM = network.attention(inputs_L[None], memory_MU[None])[0].cpu()
        side = int(weights_LM.shape[1] ** 0.5)
        # The patches come last; a class token or registers may come before them.
        weights_LHW = weights_LM[:, weights_LM.shape[1] - side * side :].view(-1, side, side)
        return AttentionMaps(tuple(tokenizer.decode([token]) for token in tokens), weights_LHW)


def spread(size: int, count: int) -> list[int]:
    """`count` indices, spread evenly over 0 … size-1."""
    return [i * size // count for i in range(count)]


def image_batch(dataset: CaptionDataset, ids: list[int]) -> ImageBatch:
    """Some images of a data set, with their names and references."""
    return ImageBatch(
        dataset.pixels(ids),
        tuple(dataset.names[i] for i in ids),
        tuple(tuple(dataset.captions[i]) for i in ids),
    )
