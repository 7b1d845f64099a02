"""What the text families share: an objective over token windows, and a generator that turns requests into texts."""

import math
import re
from abc import abstractmethod
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from seedfast.console import say, silenced
from seedfast.data.dataset import Batch, Dataset
from seedfast.data.text.corpus import TextAssets
from seedfast.errors import UserError
from seedfast.families.family import Objective, TaskT
from seedfast.families.generator import Generator, State
from seedfast.families.measure import Measure
from seedfast.families.text.decoding import Decoding, Evaluations, TextRequestT
from seedfast.families.text.filming import Filming
from seedfast.families.text.long_text import fill_windows
from seedfast.families.text.preview import Spans, TaskPreview, spans
from seedfast.families.text.request import Canvas, TextSamples
from seedfast.families.text.written import Ledger, recorded_by
from seedfast.keys import Draws

_GAP = re.compile(r"[⟨<]gap:(\d+)[⟩>]")


class TextObjective(Objective[TaskT]):
    """An objective over the token windows of text data."""

    takes_prompts: ClassVar[bool] = False
    """Whether it uses the text before a window (`data.prompt`)."""
    learns_lengths: ClassVar[bool] = False
    """Whether it models the length of a window's text; else `data.one_document_per_window` is refused."""
    compares_answers: ClassVar[bool] = False
    """Whether it learns from pairs of a chosen and a rejected answer, and from nothing else."""

    def __init__(self, assets: TextAssets) -> None:
        """Raises UserError for prompts, padded windows or pairs of answers that this objective cannot use."""
        if assets.prompt and not self.takes_prompts:
            raise UserError(
                f"data.prompt={assets.prompt} gives each window the text before it, which this kind of model does "
                "not use: set it to 0."
            )
        if assets.one_document_per_window and not self.learns_lengths:
            raise UserError(
                "data.one_document_per_window pads the windows of short documents, and this kind of model does not "
                "learn how long they are: leave it out."
            )
        if assets.preferences and not self.compares_answers:
            raise UserError(
                "The data holds pairs of a chosen and a rejected answer, from which only the recipe dpo learns; for "
                'any other, rename "chosen" to "completion" and remove "rejected".'
            )
        if self.compares_answers and not assets.preferences:
            raise UserError(
                'The recipe dpo learns from pairs of answers: name data with --data whose rows have a "prompt", a '
                '"chosen" and a "rejected" answer.'
            )
        self.assets = assets
        self.vocabulary = assets.tokenizer.size
        self.end_of_text = assets.tokenizer.end_of_text

    def preview(self, batch: Batch, task: TaskT) -> list[TaskPreview]:
        """Each example of a batch as text: the source, the network's input, and its target."""
        return [TaskPreview(self.spans(tokens)) for tokens in batch["tokens"][:, 1:].tolist()]

    def spans(self, tokens: Sequence[int], kinds: Sequence[str] | None = None) -> Spans:
        """Token ids as the spans of a preview; without kinds all are words."""
        kinds = kinds or ["word"] * len(tokens)
        return spans(tokens, kinds, end_of_text=self.end_of_text, decode=self.assets.tokenizer.decode)


def likelihood_conversions(assets: TextAssets) -> dict[str, float]:
    """Other units of a loss in nats per token.

    bits_per_byte: the nats of all scored tokens over ln 2 and the UTF-8 bytes of the raw text that they encode
    (docs/identities.md#bits-per-byte).
    """
    return {"bits_per_byte": assets.tokens_per_byte / math.log(2)}


def likelihood_measure(assets: TextAssets, *, is_bound: bool, draws: int | None = None) -> Measure:
    """The measure of a negative log-likelihood of text in nats, or of its upper bound."""
    return Measure(weight_unit="tokens", is_bound=is_bound, conversions=likelihood_conversions(assets), draws=draws)


class TextGenerator(Generator[TextRequestT]):
    """Turns a request into canvases, has `fill` complete them, and decodes the result."""

    def __init__(self, assets: TextAssets) -> None:
        self.assets, self.context = assets, assets.context
        self.vocabulary = assets.tokenizer.size
        self.end_of_text = assets.tokenizer.end_of_text

    @abstractmethod
    def fill(self, decoding: Decoding[TextRequestT], canvases: list[Canvas]) -> list[list[int]]:
        """The token ids of each canvas with its open positions filled, one row for each.

        Fixed tokens stay as they are. A continuation stops before its first end-of-text. Runs without gradients.
        """

    def decoding(self, request: TextRequestT) -> str:
        """How a request is decoded, in words."""
        return request.decoding

    def evaluations(self, request: TextRequestT) -> int | None:
        """Network evaluations for one text from nothing; None for other requests, whose open positions differ."""
        is_free = not (request.prompt or request.infill or request.canvas)
        tokens = self.context if request.tokens is None else request.tokens
        return self._evaluations(request, tokens) if is_free and tokens <= self.context else None

    def _evaluations(self, request: TextRequestT, tokens: int) -> int:
        return request.evaluations(tokens)

    @torch.no_grad()
    def generate(self, network: nn.Module, request: TextRequestT, draws: Draws, state: State) -> TextSamples:
        """Generate texts. Raises UserError where the request does not fit the model."""
        if request.explain and (reason := request.why_no_likelihood):
            raise UserError(reason)
        canvases = [canvas for canvas in self.canvases(request) for _ in range(request.num)]
        evaluations, decode = Evaluations(), self.assets.tokenizer.decode
        ledger = Ledger() if request.explain else None
        is_filmed = request.trace or request.on_frame is not None
        filming = Filming(canvases, decode, evaluations, request.on_frame) if is_filmed else None
        decoding = Decoding(
            network=network,
            request=request,
            draws=draws,
            state=state,
            trace=filming.trace if filming else None,
            record=recorded_by(ledger, filming.record if filming else None),
            evaluations=evaluations,
        )
        filled = self.fill_any(decoding, canvases)
        for tokens, canvas in zip(filled, canvases, strict=True):
            fixed_L = canvas.fixed_L[: len(tokens)]
            is_same = torch.equal(torch.tensor(tokens)[fixed_L], canvas.tokens_L[: len(tokens)][fixed_L])
            assert is_same, "a fixed token was altered"
        pairs = list(zip(filled, canvases, strict=True))
        return TextSamples(
            texts=[decode(tokens) for tokens in filled],
            tokens=filled,
            pieces=[self._pieces(tokens, canvas) for tokens, canvas in pairs],
            filmed=filming.films() if filming else [],
            fixed=[canvas.fixed_L[: len(tokens)].tolist() for tokens, canvas in pairs],
            choices=[ledger.choices(row, len(tokens), decode) for row, tokens in enumerate(filled)] if ledger else [],
        )

    @torch.no_grad()
    def forced(
        self,
        network: nn.Module,
        request: TextRequestT,
        texts: list[Canvas],
        draws: Draws,
        state: State,
        documents_BL: Tensor | None = None,
    ) -> Ledger:
        """How the sampler would write these texts, of one length: the tokens that they hold at open positions.

        documents_BL: as in `Decoding`. Raises UserError for a request under which the probability of a text has no
        closed form.
        """
        if reason := request.why_no_likelihood:
            raise UserError(reason)
        ledger = Ledger()
        with silenced():  # whoever scores many texts has a bar of its own
            decoding = Decoding(
                network=network,
                request=request,
                draws=draws,
                state=state,
                record=ledger,
                forced=True,
                documents_BL=documents_BL,
            )
            self.fill(decoding, texts)
        return ledger

    def fill_any(self, decoding: Decoding[TextRequestT], canvases: list[Canvas]) -> list[list[int]]:
        """`fill` for continuations that are longer than the context too: window by window."""
        return fill_windows(self, decoding, canvases)

    def _pieces(self, tokens: list[int], canvas: Canvas) -> list[tuple[str, bool]]:
        marked = zip(tokens, canvas.fixed_L.tolist(), strict=False)  # a continuation may have ended early
        groups = groupby(marked, key=lambda pair: pair[1])
        return [(self.assets.tokenizer.decode([token for token, _ in group]), fixed) for fixed, group in groups]

    def canvases(self, request: TextRequestT) -> list[Canvas]:
        """The request's own canvas, the one of its infill, or one for each prompt.

        Raises UserError for an infill longer than the context or without a gap, a character outside the alphabet.
        """
        if request.canvas is not None and not request.prompt:
            return [request.canvas]
        if request.infill is not None:
            return [self._infill(request.infill)]
        found = []
        for prompt in request.prompt or ("",):
            ids = self.encode_prompt(prompt, request)
            read, room = self.window(len(ids))
            if read < len(ids):
                say(f"The prompt has {len(ids)} tokens, too many for this model: it reads the last {read} of them.")
            count = room if request.tokens is None else request.tokens
            found.append(Canvas.of([(ids, True), ([self.end_of_text] * count, False)]))
        return found

    def window(self, text: int) -> tuple[int, int]:
        """Of a text of `text` tokens: how many at its end are read in a window, and how many it has room for.

        A text that leaves no room is read from its last half context.
        """
        read = text if text < self.context else self.context // 2
        return read, self.context - read

    def encode_prompt(self, prompt: str, request: TextRequestT) -> list[int]:
        """The token ids of a prompt."""
        return self.assets.tokenizer.encode(prompt)

    def _infill(self, text: str) -> Canvas:
        parts: list[tuple[list[int], bool]] = []
        position = 0
        for gap in _GAP.finditer(text):
            if len(gap[1]) > 9 or int(gap[1]) > self.assets.context:
                raise UserError(
                    f"A gap of {gap[1]} tokens is longer than this model's context of {self.assets.context}."
                )
            parts.append((self.assets.tokenizer.encode(text[position : gap.start()]), True))
            parts.append(([self.end_of_text] * int(gap[1]), False))
            position = gap.end()
        parts.append((self.assets.tokenizer.encode(text[position:]), True))
        canvas = Canvas.of(parts)
        if bool(canvas.fixed_L.all()):
            raise UserError(
                "The infill has no gap: write one as ⟨gap:20⟩ (or <gap:20>) where twenty tokens are missing."
            )
        if len(canvas.tokens_L) > self.assets.context:
            raise UserError(
                f"The infill has {len(canvas.tokens_L)} tokens with its gaps, but this model was trained on "
                f"{self.assets.context} at most; shorten it."
            )
        return canvas

    def forbid(self, logits: Tensor) -> None:
        """Set the logits of special tokens and of outputs that are no tokens to -inf, in place. Logits: [..., V]."""
        logits[..., self.vocabulary :] = -torch.inf  # a pretrained network may have more outputs than tokens
        if self.assets.tokenizer.never_generate:
            logits[..., list(self.assets.tokenizer.never_generate)] = -torch.inf

    def until_end(self, tokens: list[int], canvas: Canvas) -> list[int]:
        """A continuation up to its first generated end-of-text; an infill is returned whole."""
        if canvas.is_infill:
            return tokens
        for index, (token, fixed) in enumerate(zip(tokens, canvas.fixed_L.tolist(), strict=True)):
            if token == self.end_of_text and not fixed:
                return tokens[:index]
        return tokens

    def excerpt(self, validation: Dataset) -> Tensor:
        """Token ids of held-out text, int64 [L]: the longest piece of one document in the eight middle windows."""
        count = len(validation)
        nearby = [(count // 2 + index) % count for index in range(min(8, count))]
        pieces = []
        for tokens_L in validation.batch(nearby)["tokens"][:, 1:]:
            ends = (tokens_L == self.end_of_text).nonzero()[:, 0].tolist()
            cuts = pairwise([0, *(end + 1 for end in ends), len(tokens_L) + 1])
            documents = [tokens_L[start:stop] for start, stop in cuts]
            pieces += [document[document != self.end_of_text] for document in documents]
        longest: Tensor = max(pieces, key=len)
        return longest
