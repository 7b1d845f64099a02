"""Small proofreading models with networks whose outputs are given."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch
from seedfast.families.text.proofreading import Proofreading
from seedfast.families.text.proofreading.corruption import Corruption, Symbols
from seedfast.families.text.proofreading.curriculum import Ramp
from seedfast.families.text.proofreading.family import ProofreadingObjective
from seedfast.families.text.proofreading.generator import ProofreadingGenerator
from seedfast.families.text.proofreading.loss_weights import Weights
from seedfast.keys import Draws
from seedfast.verify.identities.toys import assets, windows_of

WORDS, LENGTH = 7, 16
PLAIN = Weights(unmask=Ramp(end=1.0), remask=Ramp(end=1.0), penalty_mask_correct=Ramp(end=1.0))
"""Weights that are all 1."""


def objective(weights: Weights = PLAIN, replaced: float = 1.0, **options: Any) -> ProofreadingObjective:
    """An objective without curricula."""
    corruption = Corruption(replaced=Ramp(end=replaced), **options.pop("corruption", {}))
    return ProofreadingObjective(Proofreading(weights=weights, corruption=corruption, **options), assets(WORDS, LENGTH))


def generator(version: Any = "mask-wrong") -> ProofreadingGenerator:
    """A generator of texts of up to `LENGTH` tokens."""
    return ProofreadingGenerator(assets(WORDS, LENGTH), Symbols(WORDS, version), "linear")


def draws(batch: int, scope: str = "train") -> Draws:
    return Draws(seed=1, scope=scope, positions_B=torch.arange(batch), group=batch)


def batch(size: int = 64) -> Batch:
    """Random letters without an end-of-text."""
    return windows_of(draws(size).randint("text", LENGTH, high=WORDS - 1), WORDS - 1)


class FixedLogits(nn.Module):
    """A network whose logits are a given function of its input. `inputs`: all ids that it has received."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.logits, self.inputs = logits, set[int]()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, tokens_BL: Tensor, *, where_N: Tensor | None = None, **_: Any) -> Tensor:
        self.inputs |= set(tokens_BL.unique().tolist())
        logits_BLV = self.logits(tokens_BL) * self.scale
        return logits_BLV if where_N is None else logits_BLV.flatten(0, 1)[where_N]


def arbitrary(answers: int, name: str = "x", spread: float = 2.0) -> FixedLogits:
    """A network with fixed but arbitrary outputs for each input symbol at each position."""
    table_TLV = spread * Draws(seed=2, scope=name, positions_B=torch.arange(WORDS + 8)).normal("t", LENGTH, answers)
    return FixedLogits(lambda tokens_BL: table_TLV[tokens_BL, torch.arange(tokens_BL.shape[1])])
