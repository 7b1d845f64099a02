"""Block diffusion language models (Arriola et al. 2025): blocks from left to right, each filled by masked diffusion.

With x^b the blocks of a text, log p(x) = Σ_b log p(x^b | x^{<b}), and each conditional is bounded as masked diffusion
bounds the whole (`families/text/masked.py`), given the clean blocks before. Blocks of one token are the chain rule; one
block of the whole window is masked diffusion. All blocks are trained in one pass over the clean text and the noisy one.
Sampling keeps the finished blocks in a key-value cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Dataset
from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.families.family import Family
from seedfast.families.text.base import TextGenerator
from seedfast.families.text.decoding import Decoding, Trace
from seedfast.families.text.masked import Masked, MaskedObjective
from seedfast.families.text.request import DEMO_TEXTS, Canvas
from seedfast.families.text.unmask_policy import MaskedRequest, Policy
from seedfast.families.text.unmask_sampler import predicted, unmask
from seedfast.families.text.unmask_step import Logits, MaskedVocabulary
from seedfast.families.text.written import Record
from seedfast.options import Example

_LARGEST_DEFAULT = 16


@dataclass(frozen=True, kw_only=True)
class Block(Masked):
    """Block diffusion."""

    block: Annotated[int | None, Example(8)] = None
    """Tokens that are generated in parallel; must divide the context (default: its largest divisor up to 16).
    The steps of a request are those of one block; a block is always generated whole."""

    def build(self, assets: TextAssets) -> Family:
        """The family for this tokenizer and context. Raises UserError if the blocks do not fill the context."""
        objective = block_objective(self, assets)
        return Family(objective, BlockGenerator(self, assets), preview=objective.preview)


def block_size(options: Block, assets: TextAssets) -> int:
    """The number of tokens in a block. Raises UserError if the blocks do not fill the context."""
    divisors = [size for size in range(1, assets.context + 1) if assets.context % size == 0]
    if options.block is None:
        return max(size for size in divisors if size <= _LARGEST_DEFAULT)
    if options.block not in divisors:
        nearest = sorted(divisors, key=lambda size: abs(size - (options.block or 0)))[:2]
        raise UserError(
            f"objective.block ({options.block}) must divide the context of {assets.context} tokens; "
            f"the nearest divisors are {' and '.join(map(str, sorted(nearest)))}."
        )
    return options.block


def block_objective(options: Block, assets: TextAssets) -> MaskedObjective:
    """The bound of masked diffusion, each block masked with a time of its own and given the clean blocks before it."""
    return MaskedObjective(options, assets, block=block_size(options, assets))


class BlockGenerator(TextGenerator[MaskedRequest]):
    """Unmasks one block after another; a block attends to the finished ones through a key-value cache."""

    Request = MaskedRequest

    def __init__(self, options: Block, assets: TextAssets) -> None:
        super().__init__(assets)
        self.block, self.schedule = block_size(options, assets), options.schedule
        self.symbols = MaskedVocabulary.of(assets)

    def demo(self, validation: Dataset) -> MaskedRequest:
        """The first half of some held-out text, to be continued."""
        return MaskedRequest(canvas=Canvas.first_half(self.excerpt(validation)), num=DEMO_TEXTS)

    def decoding(self, request: MaskedRequest) -> str:
        """How a request is decoded, in words."""
        return f"blocks of {self.block} tokens, in each: {request.decoding}; and one more for its cache"

    def _evaluations(self, request: MaskedRequest, tokens: int) -> int:
        return -(-tokens // self.block) * (request.evaluations(self.block) + 1)

    @torch.no_grad()
    def fill(self, decoding: Decoding[MaskedRequest], canvases: list[Canvas]) -> list[list[int]]:
        """Fill the canvases block by block. Raises UserError for an infill: no block attends to what follows it."""
        if any(canvas.is_infill for canvas in canvases):
            raise UserError(
                "A block diffusion model generates from left to right and does not see the text after a gap, so it "
                "cannot infill; use an autoregressive or a masked diffusion model."
            )
        network = decoding.network
        count = -(-max(len(canvas.tokens_L) for canvas in canvases) // self.block)
        # A forced text has no more than its own tokens, so its last block may be shorter.
        whole = canvases if decoding.forced else [self._padded(canvas, count * self.block) for canvas in canvases]
        cache: Any = network.cache(len(canvases), count * self.block)  # type: ignore[operator]
        written: list[list[int]] = [[] for _ in canvases]
        for number in range(count):
            here = slice(number * self.block, (number + 1) * self.block)
            pages = [Canvas(canvas.tokens_L[here], canvas.fixed_L[here]) for canvas in whole]
            if all(bool(page.fixed_L.all()) for page in pages):
                filled = [page.tokens_L.tolist() for page in pages]
            else:
                trace = decoding.trace and _in_whole_text(decoding.trace, written, canvases)
                record = decoding.record and self._recorded(decoding, decoding.record, written, canvases)
                filled = unmask(
                    replace(decoding.at(number), trace=trace, record=record),
                    pages,
                    vocabulary=self.symbols,
                    policy=Policy(decoding.request, self.schedule),
                    predict=partial(_predict, network, cache),
                )
            if not decoding.forced:  # after its first end-of-text a text consists of them; they are cut off below
                filled = [self._ended(tokens, page) for tokens, page in zip(filled, pages, strict=True)]
            append_block(network, torch.tensor(filled, device=decoding.device), cache)
            decoding.evaluations.count += 1
            written = [before + tokens for before, tokens in zip(written, filled, strict=True)]
        return [
            self.until_end(tokens[: len(canvas.tokens_L)], canvas)
            for tokens, canvas in zip(written, canvases, strict=True)
        ]

    def _recorded(
        self, decoding: Decoding[MaskedRequest], record: Record, written: list[list[int]], canvases: list[Canvas]
    ) -> Record:
        """A record of one block as that of the whole text, without the blocks after a text's end."""
        ends = [
            (self.end_of_text, False) in zip(tokens, canvas.fixed_L.tolist(), strict=False)
            for tokens, canvas in zip(written, canvases, strict=True)
        ]
        goes_on_B = torch.tensor([decoding.forced or not end for end in ends], device=decoding.device)
        starts_B = torch.tensor([len(tokens) for tokens in written], device=decoding.device)
        return lambda tokens: record(tokens.where(goes_on_B[tokens.rows_N]).moved(starts_B))

    def _padded(self, canvas: Canvas, length: int) -> Canvas:
        """A canvas of whole blocks: the added positions are open, and cut off in the end."""
        more = length - len(canvas.tokens_L)
        return Canvas(
            nn.functional.pad(canvas.tokens_L, (0, more), value=self.end_of_text),
            nn.functional.pad(canvas.fixed_L, (0, more), value=False),
        )

    def _ended(self, tokens: list[int], page: Canvas) -> list[int]:
        tokens = self.until_end(tokens, page)
        return tokens + [self.end_of_text] * (self.block - len(tokens))


def _predict(network: nn.Module, cache: Any, tokens_BL: Tensor, padding_BL: Tensor | None) -> Logits:
    """The logits of an unfinished block, which does not stay in the cache."""
    length = cache.length
    logits = predicted(network, tokens_BL, cache=cache)
    cache.truncate(length)
    return logits


def append_block(network: nn.Module, tokens_BL: Tensor, cache: Any) -> None:
    """Add a finished block to the cache."""
    network(tokens_BL, cache=cache)


def _in_whole_text(trace: Trace, written: Sequence[list[int]], canvases: Sequence[Canvas]) -> Trace:
    """A trace of one block as a trace of the whole text: the finished tokens before it, the open positions after it."""

    def show(row: int, tokens: Sequence[int], is_open: Sequence[bool]) -> None:
        before, canvas = written[row], canvases[row]
        now, size = len(before) + len(tokens), len(canvas.tokens_L)
        after, open_after = canvas.tokens_L[now:].tolist(), (~canvas.fixed_L[now:]).tolist()
        trace(row, [*before, *tokens, *after][:size], [*[False] * len(before), *is_open, *open_after][:size])

    return show
