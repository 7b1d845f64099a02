"""Decoding: greedy, beam search and nucleus sampling of captions, with a key-value cache.

Shapes: B images, P captions, N captions that have not ended, M patches, U the encoder's width, L positions,
V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seedfast.data.caption.dataset import CaptionAssets
from seedfast.families.caption.beam_search import Hypothesis, NextLogits, beam_search
from seedfast.families.caption.teacher_forcing import TeacherForcing
from seedfast.families.text.categorical import draw, shape
from seedfast.models.captioner import CaptionerNetwork


def captioner_of(network: nn.Module) -> CaptionerNetwork:
    """The captioner inside a training network, without the wrapper that synchronises gradients."""
    inner = network.module if isinstance(network, DistributedDataParallel) else network
    assert isinstance(inner, CaptionerNetwork)
    return inner


def cached_logits(network: CaptionerNetwork, memory_BMU: Tensor, assets: CaptionAssets) -> NextLogits:
    """The next token's logits of growing captions, one for each row of the memory at first.

    A key-value cache keeps the past, so each call computes one position. Ids that no text has get -∞.
    """
    cache = network.cache(len(memory_BMU), assets.context)
    never_generated = list(assets.tokenizer.never_generate)
    first = True

    def next_logits(rows_N: Tensor, tokens_N: Tensor) -> Tensor:
        nonlocal first
        if not first and not _is_identity(rows_N, len(cache.next_B)):
            cache.select(rows_N)
        memory = memory_BMU if first else None  # its keys and values are in the cache after the first call
        first = False
        answer = network(tokens_N.unsqueeze(1), cache=cache, memory_BMU=memory)
        logits_NV: Tensor = answer[:, -1].double()
        if never_generated:
            logits_NV[:, never_generated] = -torch.inf
        return logits_NV

    return next_logits


def beam_captions(
    network: CaptionerNetwork,
    memory_BMU: Tensor,
    assets: CaptionAssets,
    *,
    beams: int,
    alpha: float = 0.0,
    count: int = 1,
) -> list[list[Hypothesis]]:
    """The `count` best captions of each image that a search with this many beams finds; one beam is greedy."""
    end = assets.tokenizer.end_of_text
    return beam_search(
        cached_logits(network, memory_BMU, assets),
        start_B=torch.full((len(memory_BMU),), end, device=memory_BMU.device),
        end=end,
        beams=beams,
        length=assets.context,
        alpha=alpha,
        count=count,
    )


def greedy_captions(network: CaptionerNetwork, memory_BMU: Tensor, assets: CaptionAssets) -> list[list[int]]:
    """The caption of each image that takes the likeliest token each time."""
    return [best.tokens for best, *_ in beam_captions(network, memory_BMU, assets, beams=1)]


@torch.no_grad()
def nucleus_captions(
    network: CaptionerNetwork,
    memory_PMU: Tensor,
    assets: CaptionAssets,
    u_PL: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[list[int]]:
    """A sampled caption for each row of the memory. u_PL: the quantile in [0, 1) by which each token is drawn."""
    next_logits, end = cached_logits(network, memory_PMU, assets), assets.tokenizer.end_of_text
    captions: list[list[int]] = [[] for _ in u_PL]
    open_N = rows_N = torch.arange(len(u_PL), device=u_PL.device)
    tokens_N = torch.full_like(rows_N, end)
    for step in range(assets.context):
        logits_NV = next_logits(rows_N, tokens_N)
        probabilities_NV = shape(logits_NV, temperature=temperature, top_k=top_k, top_p=top_p)
        tokens_N = draw(probabilities_NV, u_PL[open_N, step])
        rows_N = (tokens_N != end).nonzero()[:, 0]
        if not len(rows_N) and not network.same_passes:  # other processes may not have come to the end
            break
        open_N, tokens_N = open_N[rows_N], tokens_N[rows_N]
        for caption, token in zip(open_N.tolist(), tokens_N.tolist(), strict=True):
            captions[caption].append(token)
    return captions


@torch.no_grad()
def log_probabilities(
    network: CaptionerNetwork, memory_PMU: Tensor, captions: list[list[int]], assets: CaptionAssets
) -> list[float]:
    """The log-probability in nats of each caption and its end."""
    layout = TeacherForcing.of_lists(captions, end=assets.tokenizer.end_of_text, context=assets.context)
    device = memory_PMU.device
    answer = network(layout.inputs_PL.to(device), memory_BMU=memory_PMU)
    log_q_PLV = answer.double().log_softmax(dim=-1)
    log_q_PL = log_q_PLV.gather(2, layout.targets_PL.to(device).unsqueeze(2)).squeeze(2)
    found: list[float] = (log_q_PL * layout.loss_mask_PL.to(device)).sum(dim=1).tolist()
    return found


def _is_identity(rows_N: Tensor, count: int) -> bool:
    """Whether these are all rows in their order, so that the cache needs no reordering."""
    return len(rows_N) == count and torch.equal(rows_N, torch.arange(count, device=rows_N.device))
