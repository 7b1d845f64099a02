"""Small proofreading families with networks whose answers are chosen."""

from typing import Any

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.families.text.proofreading import Proofreading, ProofreadingDiffusion
from seedfast.families.text.proofreading.corruption import Corruption
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.proofreading.loss_weights import Weights
from seedfast.keys import Draws
from seedfast.verify.identities.toys import assets, windows_of

WORDS, LENGTH = 7, 16
PLAIN = Weights(unmask=Ramp(end=1.0), remask=Ramp(end=1.0), penalty_mask_correct=Ramp(end=1.0))
"""Weights that are all 1."""


def family(weights: Weights = PLAIN, replaced: float = 1.0, **options: Any) -> ProofreadingDiffusion:
    """A family whose curricula have ended."""
    corruption = Corruption(replaced=Ramp(end=replaced), **options.pop("corruption", {}))
    return Proofreading(weights=weights, corruption=corruption, **options).build(assets(WORDS, LENGTH))


def draws(batch: int, scope: str = "train") -> Draws:
    return Draws(seed=1, scope=scope, positions_B=torch.arange(batch), group=batch)


def batch(size: int = 64) -> Batch:
    """Random letters; end-of-text is nowhere."""
    return windows_of(draws(size).randint("text", LENGTH, high=WORDS - 1), WORDS - 1)


class Chosen(nn.Module):
    """A network that gives the logits that a function of its input says."""

    def __init__(self, logits: Any) -> None:
        super().__init__()
        self.logits, self.seen = logits, set[int]()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, tokens_BL: Tensor, *, where_N: Tensor | None = None, **_: Any) -> Tensor:
        self.seen |= set(tokens_BL.unique().tolist())
        logits_BLV = self.logits(tokens_BL) * self.scale
        return logits_BLV if where_N is None else logits_BLV.flatten(0, 1)[where_N]


def arbitrary(answers: int, name: str = "x", spread: float = 2.0) -> Chosen:
    """A network with fixed but arbitrary answers to each symbol at each place."""
    table_TLV = spread * Draws(seed=2, scope=name, positions_B=torch.arange(WORDS + 8)).normal("t", LENGTH, answers)
    return Chosen(lambda tokens_BL: table_TLV[tokens_BL, torch.arange(tokens_BL.shape[1])])
