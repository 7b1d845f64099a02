"""How likely texts are under the policy by which a masked model writes them: the sampler itself, on given texts.

The sampler of masked, block and proofreading models decides from the visible tokens alone where it writes, and then
draws each token from q(· | visible tokens). Along its way through a text the product of these probabilities is
normalised: it is the exact likelihood (docs/identities.md#deployed-likelihood).
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seedfast.console import track
from seedfast.data.dataset import Batch
from seedfast.evaluate.sampling_options import make_request
from seedfast.families.text.base import TextGenerator
from seedfast.families.text.block_diffusion import BlockGenerator
from seedfast.families.text.masked import MaskedObjective, documents
from seedfast.families.text.request import Canvas
from seedfast.families.text.unmask_policy import MaskedRequest
from seedfast.families.text.written import Ledger
from seedfast.keys import Draws

if TYPE_CHECKING:
    from seedfast.evaluate.trained import Trained

_ROW_TOKENS = 1 << 13  # in one forward pass
BUDGET = 1 << 19
"""Tokens that the network reads in all for one number of `seedfast evaluate`: half a minute of two cores for the
recipes."""


def why_not(model: "Trained") -> str | None:
    """Why a model does not write by unmasking, as a sentence; None where it does."""
    objective, generator = model.family.evaluated, model.family.generator
    if not isinstance(objective, MaskedObjective) or not isinstance(generator, TextGenerator):
        return f"A model of {model.run.recipe} does not write by unmasking."
    if not issubclass(generator.Request, MaskedRequest):
        return f"A model of {model.run.recipe} does not write by unmasking."
    if isinstance(generator, BlockGenerator) and objective.options.document_mask:
        return "A block diffusion model with objective.document_mask never writes two documents into one window."
    return None


def policy(model: "Trained", **options: Any) -> MaskedRequest:
    """The deterministic policy: confidence order, one token a step, without proofreading passes, unless changed.

    options: of `seedfast sample`; None leaves one at its default. Raises UserError for an unknown option or value.
    """
    kind = model.generator.Request
    given = {name: value for name, value in options.items() if value is not None}
    passes = {"passes": 0} if "passes" in {f.name for f in fields(kind)} else {}
    request = make_request(kind, {"order": "confidence"} | passes | given)
    assert isinstance(request, MaskedRequest)
    return request


def row_cost(model: "Trained", steps: int | None = None) -> int:
    """The tokens that the network reads to write one window in this number of steps (default: one for each token)."""
    generator = model.generator
    assert isinstance(generator, TextGenerator)
    length = generator.context
    if isinstance(generator, BlockGenerator):
        return length * min(steps or generator.block, generator.block)
    return length * min(steps or length, length)


def windows_of(batch: Batch) -> tuple[list[Canvas], Tensor]:
    """The windows of a batch as canvases whose scored tokens are open, and their numbers of scored tokens, float64."""
    tokens_BL, scored_BL = batch["tokens"][:, 1:], batch["scored"]
    canvases = [Canvas(tokens_L, ~scored_L) for tokens_L, scored_L in zip(tokens_BL, scored_BL, strict=True)]
    return canvases, scored_BL.sum(dim=1).double()


def documents_of(model: "Trained", batch: Batch) -> Tensor | None:
    """The document of each token of a batch, where attention is restricted to it."""
    objective = model.family.evaluated
    assert isinstance(objective, MaskedObjective)
    return documents(batch, objective.end_of_text) if objective.options.document_mask else None


def batches(texts: Sequence[Canvas]) -> list[slice]:
    """Texts of one length, by those that are computed together."""
    size = max(1, _ROW_TOKENS // len(texts[0].tokens_L))
    return [slice(start, min(start + size, len(texts))) for start in range(0, len(texts), size)]


def forced(
    model: "Trained",
    request: MaskedRequest,
    texts: Sequence[Canvas],
    *,
    scope: str,
    seed: int = 1,
    documents_BL: Tensor | None = None,
    what: str = "Scoring",
) -> Iterator[tuple[slice, Ledger]]:
    """How the model would write these texts, of one length: rows of them, with all that is written there.

    scope: names the random numbers of a random order; text i has the position i there.
    """
    parts = batches(texts)
    for rows in track(what, parts, len(parts)):
        yield rows, forced_batch(model, request, texts, rows, scope=scope, seed=seed, documents_BL=documents_BL)


@torch.no_grad()
def forced_batch(
    model: "Trained",
    request: MaskedRequest,
    texts: Sequence[Canvas],
    rows: slice,
    *,
    scope: str,
    seed: int,
    documents_BL: Tensor | None = None,
) -> Ledger:
    """All that is written in some rows of texts; the arguments of `forced`."""
    generator, device = model.generator, model.distributed.device
    assert isinstance(generator, TextGenerator)
    positions_B = torch.arange(rows.start, rows.stop, device=device)
    draws = Draws(seed=seed, scope=scope, positions_B=positions_B, group=len(texts))
    ids_BL = None if documents_BL is None else documents_BL[rows].to(device)
    with model.distributed.autocast():
        return generator.forced(model.network, request, list(texts[rows]), draws, model.state, ids_BL)


def log_probs(
    model: "Trained", request: MaskedRequest, texts: Sequence[Canvas], *, scope: str, seed: int = 1, **more: Any
) -> Tensor:
    """The log-probability of each token of texts of one length, float64 [N, L]; 0 where a token is given.

    more: of `forced`.
    """
    length = len(texts[0].tokens_L)
    pages = [
        ledger.page("log_p_N", rows.stop - rows.start, length)
        for rows, ledger in forced(model, request, texts, scope=scope, seed=seed, **more)
    ]
    return torch.cat(pages)
