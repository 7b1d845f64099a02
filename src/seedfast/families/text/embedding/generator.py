"""The generator of embedding diffusion: prompts in front of the window, and lengths that are drawn before the text."""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from seedfast.data.dataset import Dataset
from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.families.text.base import TextGenerator
from seedfast.families.text.categorical import draw, shape
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.embedding.network import EmbeddingNetwork
from seedfast.families.text.embedding.sampling import GUIDANCE, CanvasBatch, EmbeddingRequest, denoise_canvases
from seedfast.families.text.request import DEMO_TEXTS, Canvas
from seedfast.keys import Draws


class EmbeddingGenerator(TextGenerator[EmbeddingRequest]):
    """Denoises all open positions of a text together, from noise to vectors to tokens."""

    Request = EmbeddingRequest

    def __init__(self, assets: TextAssets, *, guides: bool) -> None:
        """guides: whether the network was trained without its conditions too, as guidance needs it."""
        super().__init__(assets)
        self._guidance = GUIDANCE if guides else 1.0

    def decoding(self, request: EmbeddingRequest) -> str:
        """How a request is decoded, in words."""
        return self._guided(request).decoding

    def _evaluations(self, request: EmbeddingRequest, tokens: int) -> int:
        return self._guided(request).evaluations(tokens)

    def _guided(self, request: EmbeddingRequest) -> EmbeddingRequest:
        """The request with the default guidance, unless it has its own."""
        return replace(request, guidance=self._guidance) if request.guidance is None else request

    def window(self, text: int) -> tuple[int, int]:
        """As in `TextGenerator`; with `data.prompt`, a text stands before the window and takes no room in it."""
        if not self.assets.prompt:
            return super().window(text)
        return min(text, self.assets.prompt), self.context

    def demo(self, validation: Dataset) -> EmbeddingRequest:
        """Continue the first half of a held-out text."""
        return EmbeddingRequest(canvas=Canvas.first_half(self.excerpt(validation)), num=DEMO_TEXTS)

    def fill(self, decoding: Decoding[EmbeddingRequest], canvases: list[Canvas]) -> list[list[int]]:
        """Denoise the open positions of all canvases together; fixed tokens condition every step.

        Raises UserError for top-k or top-p where the network predicts vectors instead of a distribution.
        """
        network, request = cast("EmbeddingNetwork", decoding.network), self._guided(decoding.request)
        if network.shape.prediction != "tokens" and (request.top_k, request.top_p) != (None, None):
            raise UserError("This model predicts vectors, not a distribution over tokens: leave out top-k and top-p.")
        is_free = request.canvas is None or bool(request.prompt)
        if network.lengths is not None and is_free and (request.tokens, request.infill) == (None, None):
            canvases = with_drawn_lengths(canvases, network.lengths, decoding.draws)
        batch = CanvasBatch.of(canvases, network.shape, self.assets.tokenizer, decoding.device)
        filled = denoise_canvases(replace(decoding, request=request), batch)
        return [self.until_end(tokens, canvas) for tokens, canvas in zip(filled, canvases, strict=True)]


@torch.no_grad()
def with_drawn_lengths(canvases: list[Canvas], lengths_L: Tensor, draws: Draws) -> list[Canvas]:
    """Continuations cut to drawn lengths: p(n) ∝ exp(lengths_L[n - 1]), for n tokens in a window.

    A window holds at least the fixed tokens that a canvas places into it.
    """
    context = len(lengths_L)
    u_B = draws.uniform("length", 1, dtype=torch.float64)[:, 0]
    shortened = []
    for canvas, u in zip(canvases, u_B, strict=True):
        size = len(canvas.tokens_L)
        shortest = int(canvas.fixed_L.sum()) + context - size
        is_possible_L = torch.arange(context, device=lengths_L.device) >= shortest
        drawn = draw(shape(lengths_L.masked_fill(~is_possible_L, -torch.inf), temperature=1.0), u)
        stop = size - (context - 1 - int(drawn))
        shortened.append(Canvas(canvas.tokens_L[:stop], canvas.fixed_L[:stop]))
    return shortened
