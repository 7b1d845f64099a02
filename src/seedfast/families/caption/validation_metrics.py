"""Metrics of greedy captions, reported by each validation beside the loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seedfast.data.caption.dataset import CaptionAssets
from seedfast.families.caption.decoding import greedy_captions
from seedfast.families.caption.metrics import CiderScorer, Words, rouge_l, words
from seedfast.models.captioner import CaptionerNetwork


def greedy_metrics(
    network: CaptionerNetwork,
    memory_BMU: Tensor,
    references: Sequence[Sequence[Words]],
    *,
    assets: CaptionAssets,
    scorer: CiderScorer | None,
) -> dict[str, Tensor]:
    """exact_match, rouge_l and cider of each image's greedy caption: the sum over the images, and their number.

    references: the words of each image's references. scorer: None leaves cider out.
    """
    totals: dict[str, float] = {"exact_match": 0.0, "rouge_l": 0.0}
    for tokens, known in zip(greedy_captions(network, memory_BMU, assets), references, strict=True):
        caption = words(assets.tokenizer.decode(tokens))
        totals["exact_match"] += caption in known
        totals["rouge_l"] += rouge_l(caption, known)
        if scorer is not None:
            totals["cider"] = totals.get("cider", 0.0) + scorer(caption, known)
    return {
        name: torch.tensor([total, len(references)], device=memory_BMU.device, dtype=torch.float64)
        for name, total in totals.items()
    }
