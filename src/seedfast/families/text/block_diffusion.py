"""Block diffusion language models (Arriola et al. 2025): blocks from left to right, each filled by masked diffusion.

With x^b the blocks of a text, log p(x) = Σ_b log p(x^b | x^{<b}), and each conditional is bounded as masked diffusion
bounds the whole (`families/text/masked.py`), given the clean blocks before. Blocks of one token are the chain rule; one
block of the whole window is masked diffusion. All blocks are trained in one pass over the clean text and the noisy one,
and texts are written with a key-value cache, to which each block is added once it is finished.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Dataset
from seedfast.data.text.config import TextAssets
from seedfast.errors import UserError
from seedfast.families.text.masked import Masked, MaskedDiffusion, MaskedTask
from seedfast.families.text.request import Canvas, Show
from seedfast.families.text.unmask_sampler import MaskedRequest
from seedfast.keys import Draws
from seedfast.models.transformer_block import Inputs


@dataclass(frozen=True, kw_only=True)
class Block(Masked):
    """Block diffusion."""

    block: int | None = None
    """Tokens that are written in parallel; must divide the context (default: its largest divisor up to 16).
    A sampler's steps are those of one block, which is always written whole."""

    def build(self, assets: TextAssets) -> "BlockDiffusion":
        """The family, for this tokenizer and context. Raises UserError if the blocks do not fill the context."""
        return BlockDiffusion(self, assets)


class BlockDiffusion(MaskedDiffusion):
    """The block diffusion family."""

    def __init__(self, options: Block, assets: TextAssets) -> None:
        super().__init__(options, assets)
        fit = [size for size in range(1, assets.context + 1) if assets.context % size == 0]
        self.block: int = max(size for size in fit if size <= 16) if options.block is None else options.block
        if self.block not in fit:
            nearest = sorted(fit, key=lambda size: abs(size - self.block))[:2]
            raise UserError(
                f"objective.block ({self.block}) must divide the context of {assets.context} tokens; "
                f"the nearest that do are {' and '.join(map(str, sorted(nearest)))}."
            )

    def inputs(self, task: MaskedTask) -> Inputs:
        """The clean text, of which each block sees what is before it."""
        return {"documents_BL": task.documents_BL, "clean_BL": task.targets_BL}

    def showcase(self, validation: Dataset) -> MaskedRequest:
        """The first half of some held-out text, to be continued."""
        tokens_L = self.excerpt(validation)
        return MaskedRequest(canvas=Canvas(tokens_L, torch.arange(len(tokens_L)) < len(tokens_L) // 2))

    @torch.no_grad()
    def fill(
        self, network: nn.Module, canvases: list[Canvas], request: MaskedRequest, draws: Draws, show: Show | None
    ) -> list[list[int]]:
        """Fill the canvases block by block. Raises UserError for an infill: no block sees what stands after it."""
        if any(canvas.is_infill for canvas in canvases):
            raise UserError(
                "A block diffusion model writes from left to right and does not see the text after a gap, so it takes "
                "no infill; ask an autoregressive or a masked diffusion model."
            )
        blocks = -(-max(len(canvas.tokens_L) for canvas in canvases) // self.block)
        whole = [self._extended(canvas, blocks * self.block) for canvas in canvases]
        reader = _Reader(network, network.cache(len(canvases), blocks * self.block))  # type: ignore[operator]
        written: list[list[int]] = [[] for _ in canvases]
        for number in range(blocks):
            here = slice(number * self.block, (number + 1) * self.block)
            pages = [Canvas(canvas.tokens_L[here], canvas.given_L[here]) for canvas in whole]
            filled = [page.tokens_L.tolist() for page in pages]
            if not all(bool(page.given_L.all()) for page in pages):
                tracer = show and _Tracer(show, written, whole, [len(canvas.tokens_L) for canvas in canvases])
                filled = super().fill(reader, pages, request, draws.at(number), tracer)
            # A text that has ended is shorter; what would follow its end is cut off below, whatever it is.
            filled = [tokens + [self.end_of_text] * (self.block - len(tokens)) for tokens in filled]
            reader.finish(torch.tensor(filled, device=draws.positions_B.device))
            written = [before + tokens for before, tokens in zip(written, filled, strict=True)]
        return [
            self.until_end(tokens[: len(canvas.tokens_L)], canvas)
            for tokens, canvas in zip(written, canvases, strict=True)
        ]

    def _extended(self, canvas: Canvas, length: int) -> Canvas:
        """A canvas of whole blocks: what is added is open, and cut off in the end."""
        more = length - len(canvas.tokens_L)
        return Canvas(
            nn.functional.pad(canvas.tokens_L, (0, more), value=self.end_of_text),
            nn.functional.pad(canvas.given_L, (0, more), value=False),
        )


class _Reader(nn.Module):
    """The network as it reads one block after the finished ones, which it remembers."""

    def __init__(self, network: nn.Module, cache: Any) -> None:
        super().__init__()
        self.network, self.cache = network, cache

    def forward(self, tokens_BL: Tensor, **_: Any) -> Tensor:
        """Logits [B, L, V] of a block that is not finished yet, and therefore forgotten."""
        length = self.cache.length
        logits_BLV: Tensor = self.network(tokens_BL, cache=self.cache)
        self.cache.truncate(length)
        return logits_BLV

    def finish(self, tokens_BL: Tensor) -> None:
        """Remember a block as it will stay."""
        self.network(tokens_BL, cache=self.cache)


class _Tracer:
    """Shows a block as a part of its text: what has been written before it, and what is still open after it."""

    def __init__(self, show: Show, written: list[list[int]], whole: list[Canvas], lengths: list[int]) -> None:
        self.show, self.written, self.whole, self.lengths = show, written, whole, lengths

    def __call__(self, row: int, tokens: Sequence[int], is_open: Sequence[bool]) -> None:
        before, size = self.written[row], self.lengths[row]
        now = len(before) + len(tokens)
        after = self.whole[row].tokens_L[now:].tolist()
        shown = [False] * len(before) + list(is_open) + (~self.whole[row].given_L[now:]).tolist()
        self.show(row, [*before, *tokens, *after][:size], shown[:size])
