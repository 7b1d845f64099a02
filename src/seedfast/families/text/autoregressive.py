"""Autoregressive language models: next-token prediction, and generation with a key-value cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.text.config import TextAssets
from seedfast.data.text.tokenizers import Subwords
from seedfast.errors import UserError
from seedfast.families.family import State, Task, Terms
from seedfast.families.text.base import TextFamily
from seedfast.families.text.categorical import draw, shape
from seedfast.families.text.preview import Exercise
from seedfast.families.text.request import Canvas, Show, TextRequest, at_least_one
from seedfast.keys import Draws


@dataclass(frozen=True, kw_only=True)
class Autoregressive:
    """Next-token prediction."""

    document_mask: bool = False
    """Let tokens see only their own document where a window holds several."""

    def build(self, assets: TextAssets) -> "AutoregressiveModel":
        """The family, for this tokenizer and context."""
        return AutoregressiveModel(self, assets)


@dataclass(frozen=True, kw_only=True)
class AutoregressiveRequest(TextRequest):
    """What is wanted of an autoregressive model."""

    candidates: int = 16
    """Infill: fillings of a gap that are weighed against the text after it."""
    chat: bool = False
    """Each prompt is what a user says to a model that was made for chats: its chat template goes around it."""
    watch: Annotated[Callable[[str], None] | None, tyro.conf.Suppress] = None
    """Told the text of the one sample piece by piece, while it is written."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(candidates=self.candidates)
        if self.chat and not self.prompt:
            raise UserError("A chat begins with what the user says: give it as --prompt.")
        if self.watch and (self.count > 1 or self.infill is not None):
            raise UserError("Only one continuation can be shown while it is written: ask for one sample, no infill.")


@dataclass(frozen=True, kw_only=True)
class NextTokenTask(Task):
    """inputs_BL: tokens. targets_BL: their successors. scored_BL: which successors count. documents_BL: or None."""

    inputs_BL: Tensor
    targets_BL: Tensor
    scored_BL: Tensor
    documents_BL: Tensor | None = None


class AutoregressiveModel(TextFamily):
    """The autoregressive family. Its loss is the negative log-likelihood itself, not a bound."""

    is_bound = False
    request = AutoregressiveRequest

    def __init__(self, options: Autoregressive, assets: TextAssets) -> None:
        super().__init__(assets)
        self.options = options

    def network(self, model: Any) -> nn.Module:
        """A causal transformer over the vocabulary."""
        network: nn.Module = model.build(vocabulary=self.vocabulary, context=self.assets.context, causal=True)
        return network

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        """Predict each scored token from those before it in its window. Draws nothing."""
        tokens, scored_BL = batch["tokens"], batch["scored"]
        documents_BL = None
        if self.options.document_mask:
            # As an input, an end-of-text is the beginning of what follows it (if the data do not say it themselves).
            ends_BL = tokens[:, :-1] == self.end_of_text
            documents_BL = batch["documents"][:, :-1] if "documents" in batch else ends_BL.cumsum(dim=1)
        return NextTokenTask(
            weight_B=scored_BL.sum(dim=1),
            inputs_BL=tokens[:, :-1],
            targets_BL=tokens[:, 1:],
            scored_BL=scored_BL,
            documents_BL=documents_BL,
        )

    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        """Each window's -Σ log q(x_i | x_{<i}) over its scored tokens, in nats."""
        assert isinstance(task, NextTokenTask)
        scored_BL, targets_BL = task.scored_BL, task.targets_BL
        # Most windows are scored throughout; where only a completion is, the output layer is needed nowhere else.
        where_N = None if bool(scored_BL.all()) else scored_BL.flatten().nonzero().squeeze(1)
        targets_N = targets_BL.flatten() if where_N is None else targets_BL.flatten()[where_N]
        scores = network(task.inputs_BL, where_N=where_N, targets_N=targets_N, documents_BL=task.documents_BL)
        nats_BL = scores.nats_N
        if where_N is not None:
            nats_BL = torch.zeros_like(targets_BL, dtype=torch.float32).flatten().index_add(0, where_N, nats_BL)
        diagnostics = {}
        if scores.hits_N is not None:
            diagnostics["accuracy"] = torch.stack([scores.hits_N.sum(), torch.ones_like(targets_N).sum()])
        return Terms(total_B=nats_BL.view_as(targets_BL).sum(dim=1), diagnostics=diagnostics)

    def read(self, prompt: str, request: TextRequest) -> list[int]:
        """The ids of a prompt, or of the chat that it begins. Raises UserError if there is no chat template."""
        if not (isinstance(request, AutoregressiveRequest) and request.chat):
            return super().read(prompt, request)
        tokenizer = self.assets.tokenizer
        if not isinstance(tokenizer, Subwords) or tokenizer.template is None:
            raise UserError("This model's tokenizer has no chat template; leave --chat out.")
        if taken := tokenizer.special_in(prompt):
            raise UserError(f"The prompt says {taken!r}, which the chat template means for itself; leave it out.")
        return tokenizer.encode_chat(tokenizer.chat([{"role": "user", "content": prompt}], asks=True))

    def exercises(self, batch: Batch, task: Task) -> list[Exercise]:
        """Each token is asked for its successor."""
        assert isinstance(task, NextTokenTask)
        rows = zip(task.inputs_BL.tolist(), task.targets_BL.tolist(), task.scored_BL.tolist(), strict=True)
        return [
            Exercise(
                source=self.signs(targets),
                inputs=self.signs(inputs),
                targets=self.signs(targets, ["word" if is_scored else "nothing" for is_scored in scored]),
            )
            for inputs, targets, scored in rows
        ]

    def showcase(self, validation: Dataset) -> AutoregressiveRequest:
        """The first half of some held-out text, to be continued; of dialogues, a held-out prompt, to be answered."""
        batch = validation.batch([len(validation) // 2])
        if "documents" in batch:
            first_L = batch["documents"][0] == 0
            prompt = int(batch["scored"][0].long().argmax()) + 1
            tokens_L = batch["tokens"][0, first_L]
            return AutoregressiveRequest(canvas=Canvas(tokens_L, torch.arange(len(tokens_L)) < prompt))
        tokens_L = self.excerpt(validation)
        return AutoregressiveRequest(canvas=Canvas(tokens_L, torch.arange(len(tokens_L)) < len(tokens_L) // 2))

    @torch.no_grad()
    def fill(
        self,
        network: nn.Module,
        canvases: list[Canvas],
        request: AutoregressiveRequest,
        draws: Draws,
        show: Show | None,
    ) -> list[list[int]]:
        """Continue each prompt token by token; fill gaps by sampling and resampling (`_infill_one`)."""
        if any(canvas.is_infill for canvas in canvases):
            return [
                self._infill_one(
                    network,
                    canvas,
                    request,
                    replace(draws, positions_B=draws.positions_B[row : row + 1]),
                    row,
                    show,
                )
                for row, canvas in enumerate(canvases)
            ]
        prompts = [canvas.tokens_L[canvas.given_L].tolist() for canvas in canvases]
        if request.watch:
            show = self._watched(request.watch, prompts[0], show)
        counts = [int((~canvas.given_L).sum()) for canvas in canvases]
        written = self.generate(network, prompts, counts, request, draws, show)
        return [prompt + new for prompt, new in zip(prompts, written, strict=True)]

    @torch.no_grad()
    def generate(
        self,
        network: nn.Module,
        prompts: list[list[int]],
        counts: list[int],
        request: AutoregressiveRequest,
        draws: Draws,
        show: Show | None = None,
        *,
        may_end: bool = True,
        cached: bool = True,
    ) -> list[list[int]]:
        """Continue each prompt by up to `counts` tokens, less if the text ends. Prompts may differ in length.

        cached=False computes every position anew for each token: the same text, slowly (a test's reference).
        """
        tokens_BL, real_BL = self._padded(prompts, draws.positions_B.device)
        ragged = not bool(real_BL.all())
        slots = tokens_BL.shape[1] + max(counts) - 1
        cache: Any = network.cache(len(prompts), slots) if cached else None  # type: ignore[operator]
        written: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))  # those that are still being written
        for step in range(max(counts)):
            new = slice(-1, None) if cached and step else slice(None)
            padding_BL = real_BL[:, new] if ragged else None
            logits_BV = network(tokens_BL[:, new], real_BL=padding_BL, cache=cache)[:, -1].double()
            self.forbid(logits_BV)
            if not may_end:
                logits_BV[:, self.end_of_text] = -torch.inf
            probabilities_BV = shape(
                logits_BV, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p
            )
            next_B = draw(probabilities_BV, draws.at(step).uniform("token", 1, dtype=torch.float64)[:, 0])
            unfinished = []
            for index, (row, token) in enumerate(zip(rows, next_B.tolist(), strict=True)):
                if token == self.end_of_text:
                    continue
                written[row].append(token)
                if len(written[row]) < counts[row]:
                    unfinished.append(index)
                if show:
                    show(row, prompts[row] + written[row], [False] * (len(prompts[row]) + len(written[row])))
            if not unfinished:
                break
            kept = torch.tensor(unfinished, device=tokens_BL.device)
            tokens_BL = torch.cat([tokens_BL, next_B.unsqueeze(1)], dim=1)[kept]
            real_BL = F.pad(real_BL, (0, 1), value=True)[kept]
            if len(unfinished) < len(rows):
                rows = [rows[index] for index in unfinished]
                draws = replace(draws, positions_B=draws.positions_B[kept])
                if cached:
                    cache.select(kept)
        return written

    def _watched(self, watch: Callable[[str], None], prompt: list[int], also: Show | None) -> Show:
        """A trace that hands on what is new of a text, up to its last whole character; at once, the prompt."""
        start = self.text(prompt, [False] * len(prompt))
        watch(start)
        told = len(start)

        def show(row: int, tokens: Sequence[int], is_open: Sequence[bool]) -> None:
            nonlocal told
            text = self.text(tokens, is_open)
            whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
            watch(whole[told:])
            told = max(told, len(whole))
            if also:
                also(row, tokens, is_open)

        return show

    def _padded(self, prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Prompts as one batch, padded on the left: tokens, and true where they are not padding.

        A text that begins with nothing begins after an end-of-text, as every document does in training.
        """
        starts = [prompt or [self.end_of_text] for prompt in prompts]
        width = max(map(len, starts))
        tokens = [[self.end_of_text] * (width - len(start)) + start for start in starts]
        real = [[False] * (width - len(start)) + [True] * len(start) for start in starts]
        return torch.tensor(tokens, device=device), torch.tensor(real, device=device)

    def _infill_one(
        self,
        network: nn.Module,
        canvas: Canvas,
        request: AutoregressiveRequest,
        draws: Draws,
        row: int,
        show: Show | None,
    ) -> list[int]:
        """Fill gaps from left to right by sampling-importance-resampling (Rubin 1987).

        Each gap's candidates are drawn from what stands before it; one is chosen with probability proportional to the
        likelihood that it gives to the text after it, up to the next gap. That is exact as candidates grow.
        """
        tokens, given = canvas.tokens_L.tolist(), canvas.given_L.tolist()
        text: list[int] = []
        position, gap = 0, 0
        while position < len(tokens):
            if given[position]:
                text.append(tokens[position])
                position += 1
                continue
            end = position + _run(given, position)
            until = end + _run(given, end)
            drawn = draws.at(gap)
            text += self._fill_gap(network, text, end - position, tokens[end:until], request, drawn)
            position, gap = end, gap + 1
            if show:
                show(row, text + tokens[end:], [False] * len(text) + [not known for known in given[end:]])
        return text

    def _fill_gap(
        self,
        network: nn.Module,
        before: list[int],
        count: int,
        after: list[int],
        request: AutoregressiveRequest,
        draws: Draws,
    ) -> list[int]:
        device = draws.positions_B.device
        several = replace(
            draws,
            scope=f"{draws.scope}/candidates/{int(draws.positions_B)}",
            positions_B=torch.arange(request.candidates, device=device),
        )
        fillings = self.generate(
            network, [before] * request.candidates, [count] * request.candidates, request, several, may_end=False
        )
        if not after:
            return fillings[0]
        start = before or [self.end_of_text]
        rows_BL = torch.tensor([start + filling + after for filling in fillings], device=device)
        log_q_BLV = network(rows_BL[:, :-1]).double().log_softmax(dim=-1)
        log_q_BL = log_q_BLV.gather(2, rows_BL[:, 1:].unsqueeze(2)).squeeze(2)
        weight_B = log_q_BL[:, -len(after) :].sum(dim=1).softmax(dim=0)
        return fillings[int(draw(weight_B, draws.uniform("choice", 1, dtype=torch.float64)[0, 0]))]


def _run(given: list[bool], start: int) -> int:
    """How many positions from `start` on are alike."""
    end = start
    while end < len(given) and given[end] == given[start]:
        end += 1
    return end - start
