"""The sampler of a model as the one road of encoder and decoder: both write windows by it, with the same calls.

Floating-point results depend on the shapes of tensors, so a decoder must compute exactly what the encoder computed. The
encoder forces the tokens of the text, the decoder those that it decodes (`Decoding.choose`).
"""

import hashlib
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seedfast import keys
from seedfast.data.text import tokenizers
from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.evaluate.codec import entropy
from seedfast.evaluate.codec.container import ROWS
from seedfast.evaluate.score import request_of
from seedfast.evaluate.unmasking import why_not
from seedfast.families.text.autoregressive import AutoregressiveGenerator
from seedfast.families.text.base import TextGenerator
from seedfast.families.text.decoding import Choose, Decoding
from seedfast.families.text.request import Canvas, TextRequest
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.keys import Draws

if TYPE_CHECKING:
    from seedfast.evaluate.trained import Trained

_ROW_TOKENS = 1 << 13  # in one forward pass
_WINDOWS = 8  # of a row that begins after a token in the header
_PROBE, _PROBE_UNMASKED = 8, 64  # tokens, one after the other, and in two steps


@dataclass(frozen=True)
class Group:
    """Windows that are computed together. starts: the position of each in the text. length: tokens of each."""

    starts: list[int]
    length: int


@dataclass(frozen=True)
class Plan:
    """How a text is cut: into windows as `seedfast score` has them, and these into rows of consecutive ones.

    The window k of every row is computed at once. The last window, where it is shorter, comes last and alone.
    """

    tokens: int
    context: int
    rows: int

    @property
    def _windows(self) -> int:
        return self.tokens // self.context

    @property
    def _per_row(self) -> int:
        return max(1, -(-self._windows // self.rows))

    @property
    def first(self) -> list[int]:
        """Where each row begins."""
        return [window * self.context for window in range(0, self._windows, self._per_row)]

    @property
    def groups(self) -> Iterator[Group]:
        """The groups in their order. A window comes after the one before it, unless it is the first of a row."""
        per_row = self._per_row
        for number in range(per_row if self._windows else 0):
            windows = range(number, self._windows, per_row)
            yield Group([window * self.context for window in windows], self.context)
        if rest := self.tokens % self.context:
            yield Group([self.tokens - rest], rest)


class TextWriter:
    """The sampler of a model, on windows of given tokens.

    reads_before: whether a window is read after the token before it.
    """

    def __init__(self, model: "Trained", steps: int | None = None) -> None:
        """steps: unmasking steps of a window, or a block. Raises UserError for a model that cannot code a text."""
        generator, assets = model.family.generator, model.assets
        is_causal = isinstance(generator, AutoregressiveGenerator)
        if not isinstance(generator, TextGenerator) or not isinstance(assets, TextAssets):
            raise UserError(
                f"A model of {model.run.recipe} is no model of text, so it has no probability of a file to code it by."
            )
        if not is_causal and why_not(model):
            raise UserError(
                f"A model of {model.run.recipe} gives only a bound of a text's probability, and no probability of each "
                "token to code it by: compress with an autoregressive, masked, block or proofreading model."
            )
        self._request: TextRequest = request_of(model, {} if steps is None else {"steps": steps})
        self._model, self._generator, self._device = model, generator, model.distributed.device
        self.context, self.tokenizer = generator.context, assets.tokenizer
        self.decoding = generator.decoding(self._request)
        self._is_causal = is_causal
        self.reads_before = is_causal and self.tokenizer.beginning_of_text is None

    def rows(self, tokens: int) -> int:
        """Windows that are computed together by default."""
        rows = min(ROWS, max(1, _ROW_TOKENS // self.context))
        windows = tokens // self.context
        return min(rows, max(1, windows // _WINDOWS if self.reads_before else windows))

    def write(self, windows: Sequence[Sequence[int]], before: Sequence[int | None], choose: Choose) -> list[list[int]]:
        """The windows as they are written. windows: held tokens, of equal lengths; of a decoder any.

        before: the token before each window; None at the beginning of a text. choose: as in `Decoding`.
        """
        return self._fill(self._request, windows, before, choose)

    def _fill(
        self,
        request: TextRequest,
        windows: Sequence[Sequence[int]],
        before: Sequence[int | None],
        choose: Choose,
    ) -> list[list[int]]:
        draws = Draws(seed=1, scope="compress", positions_B=torch.arange(len(windows), device=self._device))
        decoding: Any = Decoding(
            network=self._model.network,
            request=request,
            draws=draws,
            state=self._model.state,
            forced=True,
            choose=choose,
        )
        canvases = [self._canvas(list(held), token) for held, token in zip(windows, before, strict=True)]
        with self._model.distributed.autocast():
            written = self._generator.fill(decoding, canvases)
        return [tokens[-len(held) :] for tokens, held in zip(written, windows, strict=True)]

    def _canvas(self, held: list[int], before: int | None) -> Canvas:
        if not self._is_causal:
            return Canvas.of([(held, False)])
        start = tokenizers.begin(self.tokenizer, [before] if before is not None and self.reads_before else [])
        canvas = Canvas.of([(start, True), (held, False)])
        return Canvas(canvas.tokens_L, canvas.fixed_L, is_begun=True)

    def probe(self, rows: int) -> str:
        """A digest of this machine's arithmetic: of the probabilities of a keyed text, and of the entropy coder."""
        request, length = self._request, _PROBE
        if isinstance(request, MaskedRequest):
            request, length = replace(request, steps=2), _PROBE_UNMASKED
        length = min(length, self.context)
        words = self.tokenizer.end_of_text or self.tokenizer.size
        held_BL = keys.randint(keys.derive(1, "compress", "probe"), torch.arange(rows), length, high=words)
        total = hashlib.blake2b(digest_size=8)

        def choose(probabilities_NV: Tensor, held_N: Tensor) -> Tensor:
            total.update(probabilities_NV.cpu().numpy().tobytes())
            return held_N

        self._fill(request, held_BL.tolist(), [None] * rows, choose)
        total.update(entropy.example())
        return total.hexdigest()

    @cached_property
    def digest(self) -> str:
        """A digest of all that the model computes with: weights, adaptive state, tokenizer."""
        return self._model.digest


def machine() -> str:
    """The processor, by what it computes with."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def device_name(device: torch.device) -> str:
    """The device by name: "cpu", or that of a GPU."""
    return device.type if device.type == "cpu" else torch.cuda.get_device_name(device)


def versions() -> str:
    """The versions of the libraries that the bits depend on."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "tokenizers", "constriction"))
