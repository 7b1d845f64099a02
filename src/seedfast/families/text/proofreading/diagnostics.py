"""Diagnostics of a proofreading model: accuracy at gaps, detection of wrong words, calibration, logits.

Every diagnostic is a sum with its weight, so it adds up over micro-batches and processes; one of weight 0 does not
appear.
"""

import torch
from torch import Tensor

from seedfast.families.text.proofreading.corruption import IDENTITY, REMASK, UNMASK, Symbols

BUCKETS = 10
CALIBRATION = {f"calibration/{n / BUCKETS:.1f}–{(n + 1) / BUCKETS:.1f}": (n + 0.5) / BUCKETS for n in range(BUCKETS)}
"""The diagnostics of the calibration curve, each with the centre of its probability bin."""
Diagnostics = dict[str, Tensor]


def ratio(total: Tensor, weight: Tensor) -> Tensor:
    """A diagnostic: its sum and its weight, [2]."""
    return torch.stack([total.float(), weight.float()])


def mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean of values over the true positions of a mask, as a diagnostic."""
    return ratio((values * where).sum(), where.sum())


def curriculum(values: dict[str, float], like: Tensor) -> Diagnostics:
    """The present value of each curriculum."""
    one = like.new_ones(())  # a tensor made of numbers of the host would make it wait for the device
    return {f"curriculum/{name}": torch.stack([one * value, one]) for name, value in values.items()}


def gaps(log_q_BLV: Tensor, targets_BL: Tensor, kind_BL: Tensor, symbols: Symbols) -> Diagnostics:
    """Diagnostics of gaps.

    unmask_accuracy: fraction of gaps whose likeliest symbol is right. unmask_skill: that over the accuracy of a uniform
    guess. confidence_when_wrong: mean probability of the likeliest symbol where it is wrong. kept_mask: fraction of
    gaps whose likeliest symbol is special. calibration/a–b: accuracy where the likeliest symbol's probability is
    between a and b.
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
    """Diagnostics of words. A word is doubted if its likeliest answer is a special symbol.

    remask_precision: fraction of doubted words that are wrong. remask_recall: fraction of wrong words that are doubted.
    Random doubts would have a precision of remask_chance (the fraction of wrong words) and a recall of remask_rate (the
    fraction of doubted words). remask_false_positives: fraction of right words that are doubted.
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

    logit_gap: mean of the largest logit minus mean of the largest special one. Beyond some 50 the special symbols are
    out of reach: the network has learned never to give them.
    """
    has_target_BL = kind_BL > 0
    largest_BL = logits_BLV.amax(dim=-1)
    special_BL = logits_BLV[..., symbols.words :].amax(dim=-1)
    found = {
        f"logit/{name}": mean(logits_BLV[..., id_], has_target_BL)
        for id_, name in symbols.names.items()
        if id_ < symbols.answers
    }
    found["logit/target"] = mean(logits_BLV.gather(2, targets_BL.unsqueeze(2)).squeeze(2), has_target_BL)
    found["logit/largest"] = mean(largest_BL, has_target_BL)
    found["logit_gap"] = mean(largest_BL - special_BL, has_target_BL)
    return found
