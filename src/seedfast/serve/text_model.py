"""Texts by a model of any text family: each is written by the family's own sampler, in a row of its own.

Choice j of prompt i is sample i · n + j of the request's seed, as in `seedfast sample`: its random numbers depend on
nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seedfast.data.text.tokenizers import Subwords
from seedfast.errors import UserError
from seedfast.evaluate.sampling_options import make_request
from seedfast.evaluate.trained import Trained
from seedfast.families.text.autoregressive import AutoregressiveGenerator
from seedfast.families.text.base import TextGenerator
from seedfast.families.text.decoding import Decoding
from seedfast.families.text.request import Canvas, TextRequest
from seedfast.families.text.written import Written
from seedfast.keys import Draws
from seedfast.serve.engine import Row
from seedfast.serve.events import Delta, Emit, Ended, Frame, Plan, UnableError, Work
from seedfast.serve.shared_network import Batches, SharedNetwork
from seedfast.serve.unfolding import Known, Piece, Token, Unfolding

OPEN = "░"
"""How a frame shows a position that is still open."""


@dataclass(frozen=True, kw_only=True)
class TextJob:
    """A request for texts.

    prompts: token ids of each. count: tokens to write. suffix: token ids behind the written text, for an infill. n:
    texts for each prompt. logprobs: alternatives to report for each token; None: not even the token's own. echo: give
    back the prompt before the text. options: of the family's sampler, by name. is_begun: whether the prompts hold all
    that a causal model reads, as rendered chats do. frames: report each step of denoising.
    """

    prompts: Sequence[list[int]]
    count: int
    suffix: Sequence[int] = ()
    n: int = 1
    seed: int = 1
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    options: Mapping[str, Any]
    is_begun: bool = False
    frames: bool = False


class _StoppedError(Exception):
    """Ends a sampler whose text has reached a stop."""


class TextModel:
    """A trained text model that several rows use at once."""

    def __init__(self, model: Trained, *, slots: int) -> None:
        assert isinstance(model.generator, TextGenerator)
        self.model, self.generator, self.tokenizer = model, model.generator, model.tokenizer
        self.batches = Batches(
            model.network, context=model.generator.context, slots=slots, distributed=model.distributed
        )

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """The token ids of a prompt. Raises UserError for a character or an id that there is not."""
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        size = self.tokenizer.size
        if unknown := next((id_ for id_ in prompt if not 0 <= id_ < size), None):
            raise UserError(f"prompt holds the token {unknown}, but the tokens of this model are 0 … {size - 1}.")
        return [*prompt]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The token ids of a chat, up to where the answer begins.

        Raises UnableError for a model without a chat template, and UserError for messages that it does not take.
        """
        tokenizer = self.tokenizer
        if not isinstance(tokenizer, Subwords) or tokenizer.chat_template is None:
            raise UnableError("This model has no chat template: use /v1/completions.")
        for message in messages:
            if special := tokenizer.special_token_in(message["content"]):
                raise UserError(f"messages contain {special!r}, a special token of the chat template: leave it out.")
        return tokenizer.encode_chat(tokenizer.chat_template.render(messages, add_generation_prompt=True))

    def room(self, prompt: Sequence[int]) -> int:
        """How many tokens the model writes after a prompt unless told otherwise. Raises UserError for a long prompt."""
        read, room = self.generator.window(len(prompt))
        if read < len(prompt):
            raise UserError(
                f"The prompt has {len(prompt)} tokens, but this model reads {self.generator.context} at most: shorten "
                "it.",
                option="prompt",
            )
        return room

    def plan(self, job: TextJob) -> Plan:
        """The rows of a job. Raises UserError or UnableError for one that cannot be done."""
        is_causal = isinstance(self.generator, AutoregressiveGenerator)
        request = make_request(self.generator.Request, dict(job.options))
        assert isinstance(request, TextRequest)
        if job.logprobs and not is_causal:
            raise UnableError(
                "This model does not write from left to right, so it reports the log-probabilities of the written "
                "tokens alone and no alternatives: set logprobs to 0."
            )
        canvases = []
        for prompt in job.prompts:
            self.room(prompt)
            parts = [(prompt, True), ([self.generator.end_of_text] * job.count, False), ([*job.suffix], True)]
            canvas = replace(Canvas.of(parts), is_begun=job.is_begun)
            if job.suffix and len(canvas.tokens_L) > self.generator.context:
                raise UserError(
                    f"prompt, max_tokens and suffix are {len(canvas.tokens_L)} tokens together, but this model reads "
                    f"{self.generator.context} at once: shorten one of them."
                )
            canvases.append(canvas)
        if job.logprobs is not None and job.count:
            reason = replace(request, canvas=canvases[0]).why_no_likelihood
            if reason:
                raise UnableError(reason.replace("--explain", "logprobs").replace("--", ""))
        if job.echo and job.logprobs is not None and not job.count and not is_causal:
            raise UnableError("Only autoregressive models score a given text at once: use seedfast score.")
        self.generator.decoding(request)  # refuses what does not fit the model
        works = partial(self._works, job, request, canvases)
        return Plan(len(canvases) * job.n, sum(map(len, job.prompts)), works)

    def _works(self, job: TextJob, request: TextRequest, canvases: Sequence[Canvas], emit: Emit) -> list[Work]:
        all_of_them = [canvas for canvas in canvases for _ in range(job.n)]
        return [
            partial(_Writer(self, job, replace(request, canvas=canvas), choice, emit).write, len(all_of_them))
            for choice, canvas in enumerate(all_of_them)
        ]


class _Writer:
    """One text. request: has the canvas."""

    def __init__(self, texts: TextModel, job: TextJob, request: TextRequest, choice: int, emit: Emit) -> None:
        assert request.canvas is not None
        self.texts, self.job, self.request, self.canvas = texts, job, request, request.canvas
        self.choice, self.emit = choice, emit
        self.start = len(job.prompts[choice // job.n])
        self.log_probs: dict[int, float] = {}  # of the tokens that were written, by place
        self.is_causal = isinstance(texts.generator, AutoregressiveGenerator)
        # A token that is written once is final: then the text up to the first open position can be passed on.
        self.is_final = request.why_no_likelihood is None
        decode, lead = texts.tokenizer.decode, job.prompts[choice // job.n]
        self.text = Unfolding(lead, decode, job.stops, None if job.logprobs is None else self._known)
        self.before = decode(lead) if job.echo else ""

    def write(self, group: int, row: Row) -> None:
        """Write the text. group: texts of the same request."""
        job, texts, model = self.job, self.texts, self.texts.model
        self.network = texts.batches.of(row)
        if self.job.echo:
            self.emit(Delta(self.choice, Piece(self.before, tuple(self._given(row)))))
        device = model.distributed.device
        decoding: Decoding[Any] = Decoding(
            network=self.network,
            request=self.request,
            draws=Draws(
                seed=job.seed, scope="sample", positions_B=torch.tensor([self.choice], device=device), group=group
            ),
            state=model.state,
            trace=self._trace,
            record=self._record if job.logprobs is not None and not self.is_causal else None,
        )
        count = 0
        try:
            if job.count:
                with torch.no_grad(), model.distributed.autocast():
                    (tokens,) = texts.generator.fill_any(decoding, [self.canvas])
                written = tokens[self.start : self.start + job.count]
                count = len(written)
                self._pass_on(self.text.extend(written))
        except _StoppedError:
            pass
        self._pass_on(self.text.finish())
        reason: Any = "stop" if self.text.is_stopped or count < job.count else "length"
        self.emit(Ended(self.choice, reason, len(self.text.tokens)))

    def _trace(self, row: int, tokens: Sequence[int], is_open: Sequence[bool]) -> None:
        here = slice(self.start, self.start + self.job.count)
        written, holes = list(tokens[here]), list(is_open[here])
        if self.job.frames:
            self.emit(Frame(self.choice, _frame(self.texts.tokenizer.decode, written, holes)))
        if not self.is_final:
            return
        end = self.texts.generator.end_of_text
        final = next((i for i, hole in enumerate(holes) if hole or written[i] == end), len(written))
        self._pass_on(self.text.extend(written[:final]))
        if self.text.is_stopped:
            raise _StoppedError

    def _pass_on(self, piece: Piece) -> None:
        if piece.text or piece.tokens:
            shift = len(self.before)
            tokens = tuple(replace(token, offset=token.offset + shift) for token in piece.tokens)
            self.emit(Delta(self.choice, Piece(piece.text, tokens)))

    def _record(self, written: Written) -> None:
        self.log_probs |= zip(written.places_N.tolist(), written.log_p_N.tolist(), strict=True)

    def _known(self, number: int) -> Known:
        """What is known of written token number `number`, which an autoregressive model has just drawn."""
        if not self.is_causal:
            return self.log_probs[self.start + number], ()
        assert isinstance(self.network, SharedNetwork)
        assert self.network.logits_BV is not None
        return self._likelihood(self.network.logits_BV[0], self.text.tokens[number])

    def _likelihood(self, logits_V: Tensor, token: int) -> Known:
        log_q_V = logits_V.double().log_softmax(dim=-1)
        top = log_q_V[: self.texts.tokenizer.size].topk(min(self.job.logprobs or 0, self.texts.tokenizer.size))
        decode = self.texts.tokenizer.decode
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return float(log_q_V[token]), tuple((decode([id_]), log_p) for id_, log_p in pairs)

    @torch.no_grad()
    def _given(self, row: Row) -> list[Token]:
        """The tokens of the prompt, with their log-probabilities where the model is autoregressive."""
        if self.job.logprobs is None:
            return []
        tokenizer, ids = self.texts.tokenizer, self.job.prompts[self.choice // self.job.n]
        known: list[Known] = [(None, ())] * len(ids)
        if self.is_causal and ids:
            start = tokenizer.end_of_text if tokenizer.beginning_of_text is None else tokenizer.beginning_of_text
            inputs_1L = torch.tensor([[start, *ids[:-1]]], device=self.texts.model.distributed.device)
            batches = self.texts.batches
            logits_1LV: Tensor = row.compute(partial(batches.evaluate, batches.network, inputs_1L))
            known = [self._likelihood(logits_V, id_) for logits_V, id_ in zip(logits_1LV[0], ids, strict=True)]
        unfolding = Unfolding([], tokenizer.decode, (), known.__getitem__)
        return [*unfolding.extend(ids).tokens, *unfolding.finish().tokens]


def _frame(decode: Any, tokens: list[int], holes: list[bool]) -> str:
    """A text with a placeholder for each open position."""
    parts: list[str] = []
    run: list[int] = []
    for token, hole in zip(tokens, holes, strict=True):
        if hole:
            parts += [decode(run), OPEN]
            run = []
        else:
            run.append(token)
    return "".join([*parts, decode(run)])
