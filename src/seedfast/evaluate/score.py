"""How likely documents are under a trained model, token by token.

Autoregressive models give the likelihood itself; masked, block and proofreading models that of the policy by which
they write (`evaluate/unmasking.py`). A document is cut into consecutive windows of the model's context, as the
validation split is, and its end is not scored.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seedfast.console import say, track
from seedfast.data.dataset import Batch
from seedfast.data.notes import Note
from seedfast.data.text.corpus import TextAssets
from seedfast.data.text.tokenizers import Tokenizer
from seedfast.errors import UserError
from seedfast.evaluate.journal import Journal, journal
from seedfast.evaluate.sampling_options import make_request
from seedfast.evaluate.text_windows import encoded, text_windows
from seedfast.evaluate.unmasking import batches, forced_batch, policy, why_not, windows_of
from seedfast.families.text.autoregressive import AutoregressiveGenerator, AutoregressiveObjective
from seedfast.families.text.categorical import shape
from seedfast.families.text.causal_sampler import AutoregressiveRequest
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.families.text.unmask_sampler import predicted
from seedfast.families.text.written import ranked
from seedfast.files import finite
from seedfast.keys import Draws

if TYPE_CHECKING:
    from seedfast.evaluate.trained import Trained

_LOGITS = 1 << 22
_COLUMNS = ("log_p_N", "rank_N", "entropy_N")
_LONGEST_CHARACTER = 8  # tokens
_NOT_FOR_GIVEN_TEXT = frozenset(
    {"prompt", "infill", "canvas", "num", "tokens", "trace", "explain", "candidates", "chat", "on_token", "on_frame"}
)


@dataclass(frozen=True)
class ScoredToken:
    """A token of a document. log_prob: in nats. rank: 1 for the likeliest. entropy: of its distribution, in nats."""

    token: int
    text: str
    log_prob: float
    rank: int
    entropy: float


@dataclass(frozen=True)
class Piece:
    """Whole characters of a document: one token, or the several that a character is cut into.

    surprise: -log₂ of their probability, in bits.
    """

    text: str
    surprise: float
    tokens: tuple[ScoredToken, ...]


@dataclass(frozen=True)
class ScoredText:
    """A document with the probability of each of its tokens. size: its bytes in UTF-8."""

    name: str
    tokens: tuple[ScoredToken, ...]
    size: int

    @property
    def log_prob(self) -> float:
        """The log-probability of the document in nats, without its end; -inf if the policy never writes it."""
        return math.fsum(each.log_prob for each in self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """-log₂ of the probability, over the bytes."""
        return -self.log_prob / math.log(2) / self.size

    def record(self) -> dict[str, Any]:
        """As JSON values; an infinite number is None."""
        values: dict[str, Any] = finite(
            {
                "name": self.name,
                "log_prob": self.log_prob,
                "bits_per_byte": self.bits_per_byte,
                "bytes": self.size,
                "tokens": [asdict(each) for each in self.tokens],
            }
        )
        return values


@dataclass(frozen=True)
class Scores:
    """Scored documents. decoding: the policy whose likelihood it is, in words."""

    texts: list[ScoredText]
    decoding: str
    tokenizer: Tokenizer

    def pieces(self, text: ScoredText) -> list[Piece]:
        """A document in whole characters, for people."""
        found: list[Piece] = []
        pending: list[ScoredToken] = []
        for left, token in zip(range(len(text.tokens), 0, -1), text.tokens, strict=True):
            pending.append(token)
            characters = self.tokenizer.decode([each.token for each in pending])
            if characters.endswith("\ufffd") and len(pending) < _LONGEST_CHARACTER and left > 1:
                continue  # a part of a character
            surprise = -sum(each.log_prob for each in pending) / math.log(2)
            found.append(Piece(characters, surprise, tuple(pending)))
            pending = []
        return found

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        tokens, size = sum(len(each.tokens) for each in self.texts), sum(each.size for each in self.texts)
        log_prob = math.fsum(each.log_prob for each in self.texts)
        whole = {"log_prob": log_prob, "bits_per_byte": -log_prob / math.log(2) / size, "bytes": size, "tokens": tokens}
        texts = [each.record() for each in self.texts]
        return {"decoding": self.decoding, **finite(whole), "documents": texts}


def score(
    model: "Trained", texts: Sequence[str], names: Sequence[str], *, seed: int = 1, keep: bool = False, **options: Any
) -> Scores:
    """Score documents. names: in messages and results. seed: of a random order.

    keep: whether an interrupted call is continued by the next one with the same arguments, from a file in the cache.
    options: those of `seedfast sample` that change the policy, such as steps=8 or temperature=0.8. Without any, the
    score of an autoregressive model is `log_prob`. Raises UserError for a model without an exact likelihood of texts,
    an option that does not fit it, or a document that is empty or cannot be encoded.
    """
    request, assets = request_of(model, options), model.assets
    assert isinstance(assets, TextAssets)
    documents = [encoded(assets.tokenizer, text, name) for name, text in zip(names, texts, strict=True)]
    windows = [
        _Window(number, start, batch)
        for number, tokens in enumerate(documents)
        for start, batch in text_windows(assets, tokens)
    ]
    pages = [torch.zeros(len(_COLUMNS), len(ids), dtype=torch.float64) for ids in documents]
    if isinstance(request, MaskedRequest):
        parts = list(_unmasked(model, request, windows, seed))
    else:
        parts = [_Part([each], partial(_predicted, model, request, each, bool(options))) for each in windows]
    with _journal(model, repr(request), documents, seed) if keep else journal(None, "") as known:
        if len(known):
            say(f"{len(known):,} of {len(parts):,} parts were scored before.")
        for number, part in enumerate(track("Scoring", parts, len(parts))):
            if number == len(known):
                known.append(part.measure().numpy().tobytes())
            values_CN = torch.frombuffer(bytearray(known[number]), dtype=torch.float64).view(len(_COLUMNS), -1)
            for window, values_CL in zip(
                part.windows, torch.split(values_CN, part.windows[0].length, dim=1), strict=True
            ):
                pages[window.document][:, window.start : window.start + window.length] = values_CL
    scored = []
    for name, text, ids, page_CN in zip(names, texts, documents, pages, strict=True):
        rows = zip(ids, *page_CN.tolist(), strict=True)
        decode = assets.tokenizer.decode
        tokens = tuple(ScoredToken(id_, decode([id_]), log_p, int(rank), h) for id_, log_p, rank, h in rows)
        scored.append(ScoredText(name, tokens, len(text.encode())))
    return Scores(scored, model.generator.decoding(request), assets.tokenizer)


def request_of(model: "Trained", options: dict[str, Any]) -> MaskedRequest | AutoregressiveRequest:
    """The policy whose likelihood is asked for, from options of sampling.

    Raises UserError for a model without an exact likelihood of texts, or an option that does not fit it.
    """
    if useless := sorted(_NOT_FOR_GIVEN_TEXT & set(options)):
        raise UserError(f"The option {useless[0]} has no effect on the score of a given text: leave it out.")
    if isinstance(model.family.generator, AutoregressiveGenerator):
        causal = make_request(AutoregressiveRequest, options)
        assert isinstance(causal, AutoregressiveRequest)
        return causal
    if why_not(model):
        raise UserError(
            f"A model of {model.run.recipe} gives no exact probability of a text: score it with an autoregressive, "
            "masked, block or proofreading model (of embedding diffusion, seedfast evaluate prints a bound)."
        )
    request = policy(model, **options)
    if reason := request.why_no_likelihood:
        raise UserError(reason)
    return request


@dataclass(frozen=True)
class _Window:
    """A window of a document. start: the position of its first token there."""

    document: int
    start: int
    batch: Batch

    @property
    def length(self) -> int:
        """Tokens that are scored."""
        return self.batch["scored"].shape[1]


@dataclass(frozen=True)
class _Part:
    """Windows of one length that are computed together. measure: computes `_COLUMNS` of their N tokens, float64
    [C, N]."""

    windows: list[_Window]
    measure: Callable[[], Tensor]


def _journal(model: "Trained", request: str, documents: list[list[int]], seed: int) -> AbstractContextManager[Journal]:
    """What is known of these documents, in the cache."""
    texts = hashlib.sha256(repr(documents).encode()).hexdigest()
    where = [torch.__version__, str(model.distributed.device), model.distributed.precision, torch.get_num_threads()]
    file = Note.of("scoring", model.digest, model.run.recipe, request, texts, seed, *where).file
    file.parent.mkdir(parents=True, exist_ok=True)
    busy = "Another process is scoring the same documents with this model: wait for it."
    return journal(file.with_suffix(""), file.stem, busy=busy)


def _unmasked(model: "Trained", request: MaskedRequest, windows: list[_Window], seed: int) -> Iterator[_Part]:
    """Score by the sampler of masked models: windows of one length together."""
    for _, group in groupby(sorted(windows, key=lambda each: each.length), key=lambda each: each.length):
        same = list(group)
        canvases = [canvas for each in same for canvas in windows_of(each.batch)[0]]
        for rows in batches(canvases):
            yield _Part(same[rows], partial(_written, model, request, canvases, rows, seed))


def _written(model: "Trained", request: MaskedRequest, canvases: list[Canvas], rows: slice, seed: int) -> Tensor:
    ledger = forced_batch(model, request, canvases, rows, scope="score", seed=seed)
    count, length = rows.stop - rows.start, len(canvases[0].tokens_L)
    return torch.stack([ledger.page(name, count, length).flatten() for name in _COLUMNS])


@torch.no_grad()
def _predicted(model: "Trained", request: AutoregressiveRequest, window: _Window, shaped: bool) -> Tensor:
    """Score by one pass over a window. shaped: whether the distributions are those of sampling, as requested."""
    objective, generator, device = model.family.evaluated, model.generator, model.distributed.device
    assert isinstance(objective, AutoregressiveObjective)
    assert isinstance(generator, AutoregressiveGenerator)
    draws = Draws(seed=0, scope="score", positions_B=torch.zeros(1, dtype=torch.int64))  # nothing is drawn
    task, found = objective.task(window.batch, draws).to(device), list[Tensor]()
    with model.distributed.autocast():
        logits = predicted(model.network, task.inputs_BL, documents_BL=task.documents_BL)
        for part_N in torch.split(torch.arange(window.length, device=device), _LOGITS // generator.vocabulary + 1):
            logits_NV = logits(part_N).double()
            if shaped:
                generator.forbid(logits_NV)
            p_NV = shape(logits_NV, temperature=request.temperature, top_k=request.top_k, top_p=request.top_p)
            found.append(torch.stack([each.double().cpu() for each in ranked(p_NV, task.targets_BL[0, part_N])]))
    return torch.cat(found, dim=1)
