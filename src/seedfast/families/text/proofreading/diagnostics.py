"""What to watch of a proofreading model: does it fill gaps, does it find what is wrong, does it know when it is unsure.

Every diagnostic is a sum with its weight, so it adds up over micro-batches and processes; one that has counted nothing
does not appear.
"""

import torch
from torch import Tensor

from seedfast.families.text.proofreading.corruption import IDENTITY, REMASK, UNMASK, Symbols

BUCKETS = 10
CALIBRATION = {f"calibration/{n / BUCKETS:.1f}–{(n + 1) / BUCKETS:.1f}": (n + 0.5) / BUCKETS for n in range(BUCKETS)}
"""The diagnostics of a calibration, with the probability in the middle of each's range."""
Diagnostics = dict[str, Tensor]


def ratio(total: Tensor, weight: Tensor) -> Tensor:
    """A diagnostic: its sum and its weight, [2]."""
    return torch.stack([total.float(), weight.float()])


def mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean of some values where a mask says so, as a diagnostic."""
    return ratio((values * where).sum(), where.sum())


def curriculum(values: dict[str, float], like: Tensor) -> Diagnostics:
    """Where each curriculum stands."""
    return {f"curriculum/{name}": like.new_tensor([value, 1.0]) for name, value in values.items()}


def gaps(log_q_BLV: Tensor, targets_BL: Tensor, kind_BL: Tensor, symbols: Symbols) -> Diagnostics:
    """Filling in.

    unmask_accuracy: gaps whose likeliest symbol is right. unmask_skill: that over the accuracy of a uniform guess.
    confidence_when_wrong: mean probability of the likeliest symbol where it is wrong. kept_mask: gaps that it answers
    with a special symbol. calibration/a–b: accuracy where the likeliest symbol has a probability between a and b.
    """
    top_BL, choice_BL = log_q_BLV.exp().max(dim=-1)
    missing_BL = kind_BL == UNMASK
    right_BL = (choice_BL == targets_BL) & missing_BL
    found = {
        "unmask_accuracy": mean(right_BL, missing_BL),
        "unmask_skill": mean(right_BL * symbols.words, missing_BL),
        "confidence_when_wrong": mean(top_BL, missing_BL & ~right_BL),
        "kept_mask": mean(choice_BL >= symbols.words, missing_BL),
    }
    bucket_BL = (top_BL * BUCKETS).long().clamp(max=BUCKETS - 1)
    for bucket, name in enumerate(CALIBRATION):
        found[name] = mean(right_BL, missing_BL & (bucket_BL == bucket))
    return found


def doubts(log_q_BLV: Tensor, kind_BL: Tensor, symbols: Symbols) -> Diagnostics:
    """Proofreading. A word is doubted if the likeliest answer to it is a special symbol.

    remask_precision: doubted words that are wrong; remask_recall: wrong words that are doubted. Chance is what doubts
    thrown at random would have: a precision of remask_chance (the share of wrong words), and a recall of remask_rate
    (the share of words that are doubted). remask_false_positives: right words that are doubted.
    """
    wrong_BL, right_BL = kind_BL == REMASK, kind_BL == IDENTITY
    doubted_BL = (log_q_BLV.argmax(dim=-1) >= symbols.words) & (wrong_BL | right_BL)
    return {
        "remask_precision": mean(wrong_BL, doubted_BL),
        "remask_recall": mean(doubted_BL, wrong_BL),
        "remask_chance": mean(wrong_BL, wrong_BL | right_BL),
        "remask_rate": mean(doubted_BL, wrong_BL | right_BL),
        "remask_false_positives": mean(doubted_BL, right_BL),
        "remask_false_negatives": mean(~doubted_BL, wrong_BL),
    }


def logits(logits_BLV: Tensor, targets_BL: Tensor, kind_BL: Tensor, symbols: Symbols) -> Diagnostics:
    """Mean logits, before any bias: of each special symbol, of the right answer, of the largest.

    logit_gap: how far the specials' mean lies below the mean of the largest. Beyond some 50 they are out of reach: the
    network has learned never to say them.
    """
    asked_BL = kind_BL > 0
    largest_BL = logits_BLV.amax(dim=-1)
    special_BL = logits_BLV[..., symbols.words :].amax(dim=-1)
    found = {
        f"logit/{name}": mean(logits_BLV[..., id_], asked_BL)
        for id_, name in symbols.names.items()
        if id_ < symbols.answers
    }
    found["logit/target"] = mean(logits_BLV.gather(2, targets_BL.unsqueeze(2)).squeeze(2), asked_BL)
    found["logit/largest"] = mean(largest_BL, asked_BL)
    found["logit_gap"] = mean(largest_BL - special_BL, asked_BL)
    return found
