"""Autoregressive language models: next-token prediction, and generation with a key-value cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch, Dataset
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import begin
from seedfast.families.family import Family, Task, Terms
from seedfast.families.generator import State
from seedfast.families.text.base import TextGenerator, TextObjective, likelihood_measure
from seedfast.families.text.causal_sampler import AutoregressiveRequest, continue_prompts
from seedfast.families.text.chat import chat_prompt
from seedfast.families.text.decoding import Decoding, Trace
from seedfast.families.text.preview import TaskPreview
from seedfast.families.text.request import DEMO_TEXTS, DEMO_TOKENS, Canvas
from seedfast.families.text.resampled_infill import fill_gaps
from seedfast.keys import Draws


@dataclass(frozen=True, kw_only=True)
class Autoregressive:
    """Next-token prediction."""

    document_mask: bool = False
    """Restrict attention to a token's own document where a window holds several."""

    def build(self, assets: TextAssets) -> Family:
        """The family for this tokenizer and context."""
        objective = AutoregressiveObjective(self, assets)
        return Family(objective, AutoregressiveGenerator(assets), preview=objective.preview)


@dataclass(frozen=True, kw_only=True)
class NextTokenTask(Task):
    """Windows whose scored tokens are predicted.

    inputs_BL: tokens. targets_BL: their successors. scored_BL: which successors count. documents_BL: the document of
        each input, or None where tokens attend to the whole window.

    Derived from these, for the N scored tokens of the whole batch, and None where all are scored: where_N, their index
    in the flattened [B · L]; targets_N, their ids. In fixed shapes where_N is None and targets_N are those of all
    positions, of which the unscored ones weigh nothing.
    """

    inputs_BL: Tensor
    targets_BL: Tensor
    scored_BL: Tensor
    documents_BL: Tensor | None
    where_N: Tensor | None
    targets_N: Tensor | None

    @classmethod
    def of(
        cls, *, inputs_BL: Tensor, targets_BL: Tensor, scored_BL: Tensor, documents_BL: Tensor | None = None
    ) -> "NextTokenTask":
        """The task with the fields that are derived from these."""
        where_N = None if bool(scored_BL.all()) else scored_BL.flatten().nonzero().squeeze(1)
        return cls(
            weight_B=scored_BL.sum(dim=1),
            inputs_BL=inputs_BL,
            targets_BL=targets_BL,
            scored_BL=scored_BL,
            documents_BL=documents_BL,
            where_N=where_N,
            targets_N=None if where_N is None else targets_BL.flatten()[where_N],
        )

    def with_fixed_shapes(self) -> "NextTokenTask":
        """The task in which every position is predicted, and the unscored ones weigh nothing."""
        return replace(self, where_N=None, targets_N=self.targets_BL.flatten())


def window_nats(network: nn.Module, task: NextTokenTask, **inputs: Any) -> tuple[Tensor, Tensor | None]:
    """Each window's -Σ log q(x_i | x_{<i}) over its scored tokens, float32 [B]; whether each was the likeliest, [N].

    inputs: further arguments of the network.
    """
    where_N, targets_BL = task.where_N, task.targets_BL
    # Most windows are scored throughout; where only a completion is, the output layer is evaluated only there.
    targets_N = targets_BL.flatten() if task.targets_N is None else task.targets_N
    scores = network(task.inputs_BL, where_N=where_N, targets_N=targets_N, documents_BL=task.documents_BL, **inputs)
    nats_N = scores.nats_N
    if where_N is not None:
        nats_N = torch.zeros_like(targets_BL, dtype=torch.float32).flatten().index_add(0, where_N, nats_N)
    elif task.targets_N is not None:
        nats_N = nats_N.masked_fill(~task.scored_BL.flatten(), 0.0)
    return nats_N.view_as(targets_BL).sum(dim=1), scores.hits_N


class AutoregressiveObjective(TextObjective[NextTokenTask]):
    """The negative log-likelihood itself, not a bound."""

    has_fixed_shapes = True

    def __init__(self, options: Autoregressive, assets: TextAssets) -> None:
        super().__init__(assets)
        self.options = options
        self.measure = likelihood_measure(assets, is_bound=False)

    def network(self, model: Any) -> nn.Module:
        """A causal transformer over the vocabulary."""
        network: nn.Module = model.build(vocabulary=self.vocabulary, context=self.assets.context, causal=True)
        return network

    def task(self, batch: Batch, draws: Draws) -> NextTokenTask:
        """Predict each scored token from those before it in its window. Draws nothing."""
        tokens, inputs_BL = batch["tokens"], self._begun(batch)
        documents_BL = None
        if self.options.document_mask:
            # As an input, an end-of-text is the beginning of the document after it (unless the data holds documents).
            ends_BL = tokens[:, :-1] == self.end_of_text
            documents_BL = batch["documents"][:, :-1] if "documents" in batch else ends_BL.cumsum(dim=1)
        return NextTokenTask.of(
            inputs_BL=inputs_BL, targets_BL=tokens[:, 1:], scored_BL=batch["scored"], documents_BL=documents_BL
        )

    def _begun(self, batch: Batch) -> Tensor:
        """The inputs of windows over text, where each window and each document begins with the beginning-of-text.

        Pretrained models with such a token read every text after it; without it their likelihoods are far worse. Packed
        examples have it where it belongs.
        """
        inputs_BL = batch["tokens"][:, :-1]
        start = self.assets.tokenizer.beginning_of_text
        if start is None or "documents" in batch:
            return inputs_BL
        begins_BL = inputs_BL == self.end_of_text
        begins_BL[:, 0] = True
        return inputs_BL.masked_fill(begins_BL, start)

    def loss(self, network: nn.Module, task: NextTokenTask, state: State) -> Terms:
        """Each window's -Σ log q(x_i | x_{<i}) over its scored tokens, in nats."""
        nats_B, hits_N = window_nats(network, task)
        diagnostics = {}
        if hits_N is not None:
            diagnostics["accuracy"] = torch.stack([hits_N.sum(), torch.ones_like(hits_N, dtype=torch.int64).sum()])
        return Terms(total_B=nats_B, diagnostics=diagnostics)

    def preview(self, batch: Batch, task: NextTokenTask) -> list[TaskPreview]:
        """The target of each token is its successor."""
        rows = zip(task.inputs_BL.tolist(), task.targets_BL.tolist(), task.scored_BL.tolist(), strict=True)
        return [
            TaskPreview(
                source=self.spans(targets),
                inputs=self.spans(inputs),
                targets=self.spans(targets, ["word" if is_scored else "nothing" for is_scored in scored]),
            )
            for inputs, targets, scored in rows
        ]


class AutoregressiveGenerator(TextGenerator[AutoregressiveRequest]):
    """Continues texts token by token, and fills gaps by sampling and resampling."""

    Request = AutoregressiveRequest

    def demo(self, validation: Dataset) -> AutoregressiveRequest:
        """The first half of some held-out text, to be continued; of dialogues, a held-out prompt, to be answered."""
        batch = validation.batch([len(validation) // 2])
        if "documents" not in batch:
            return AutoregressiveRequest(canvas=Canvas.first_half(self.excerpt(validation)), num=DEMO_TEXTS)
        tokens_L = batch["tokens"][0, batch["documents"][0] == 0]
        prompt = int(batch["scored"][0].long().argmax()) + 1
        tokens_L = tokens_L[: prompt + DEMO_TOKENS]
        canvas = Canvas(tokens_L, torch.arange(len(tokens_L)) < prompt, is_begun=True)
        return AutoregressiveRequest(canvas=canvas, num=DEMO_TEXTS)

    def begin(self, tokens: list[int]) -> list[int]:
        """A text as the network reads it."""
        return begin(self.assets.tokenizer, tokens)

    def encode_prompt(self, prompt: str, request: AutoregressiveRequest) -> list[int]:
        """The token ids of a prompt, or of the chat that it begins. Raises UserError if there is no chat template."""
        if not request.chat:
            return super().encode_prompt(prompt, request)
        return chat_prompt(self.assets.tokenizer, [{"role": "user", "content": prompt}])

    def window(self, text: int) -> tuple[int, int]:
        """Of a text of `text` tokens: how many at its end are read, and how many are written by default."""
        half = max(1, self.context // 2)
        read = text if len(self.begin([self.end_of_text] * text)) <= self.context else half
        return read, self.context - read or half

    def fill_any(self, decoding: Decoding[AutoregressiveRequest], canvases: list[Canvas]) -> list[list[int]]:
        """The same as `fill`, which slides."""
        return self.fill(decoding, canvases)

    @torch.no_grad()
    def fill(self, decoding: Decoding[AutoregressiveRequest], canvases: list[Canvas]) -> list[list[int]]:
        """Continue each canvas; of infills, fill the gaps from left to right."""
        if any(canvas.is_infill for canvas in canvases):
            return [fill_gaps(self, decoding, canvas, row) for row, canvas in enumerate(canvases)]
        prompts = [canvas.tokens_L[canvas.fixed_L].tolist() for canvas in canvases]
        if decoding.request.on_token:
            decoding = replace(decoding, trace=self._streamed(decoding.request.on_token, prompts[0], decoding.trace))
        counts = [int((~canvas.fixed_L).sum()) for canvas in canvases]
        are_begun = decoding.request.chat or any(canvas.is_begun for canvas in canvases)
        held = [canvas.tokens_L[~canvas.fixed_L].tolist() for canvas in canvases] if decoding.forced else None
        written = continue_prompts(self, decoding, prompts, counts, are_begun=are_begun, held=held)
        return [prompt + new for prompt, new in zip(prompts, written, strict=True)]

    def _streamed(self, on_token: Callable[[str], None], prompt: list[int], also: Trace | None) -> Trace:
        """A trace that passes on each new piece of a text, up to its last complete character; first the prompt."""
        decode = self.assets.tokenizer.decode
        start = decode(prompt)
        on_token(start)
        passed = len(start)

        def trace(row: int, tokens: Sequence[int], is_open: Sequence[bool]) -> None:
            nonlocal passed
            text = decode(tokens)
            complete = text.rstrip("\N{REPLACEMENT CHARACTER}")
            on_token(complete[passed:])
            passed = max(passed, len(complete))
            if also:
                also(row, tokens, is_open)

        return trace
