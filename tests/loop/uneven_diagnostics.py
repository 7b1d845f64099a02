"""Recipes whose training diagnostics differ by micro-batch, and so by rank."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from seedfast import recipes
from seedfast.data.text.corpus import TextAssets
from seedfast.families.family import Family, Terms
from seedfast.families.generator import State
from seedfast.families.text.masked import Masked, MaskedObjective, MaskedTask
from seedfast.loop import step
from seedfast.loop.config import Run
from seedfast.loop.diagnostics import Sums, Totals


@dataclass(frozen=True, kw_only=True)
class Uneven(Masked):
    """Masked diffusion with one diagnostic for each micro-batch: its loss, under the name of its first token."""

    def build(self, assets: TextAssets) -> Family:
        """The family, without samples."""
        return Family(UnevenObjective(self, assets))


class UnevenObjective(MaskedObjective):
    """The loss of masked diffusion."""

    def loss(self, network: nn.Module, task: MaskedTask, state: State) -> Terms:
        """The bound, with the diagnostic."""
        terms = super().loss(network, task, state)
        pair = torch.stack([terms.total_B.detach().sum(), task.weight_B.sum().float()])
        return Terms(total_B=terms.total_B, diagnostics={f"first_token_{int(task.targets_BL[0, 0])}": pair})


def uneven() -> Run:
    """The recipe."""
    return replace(recipes.make("text-masked"), objective=Uneven())


def per_name() -> Run:
    """The twin: the diagnostics are reduced one name at a time, as each rank knows them."""
    step.Totals = PerName
    return uneven()


class PerName(Totals):
    """Sums that are reduced one by one."""

    def reduced(self) -> Sums:
        """The sums over all processes."""
        (sums,), (number,) = self._pairs, self._numbers
        pairs = [self._place.all_reduce_(pair.double()) for pair in sums.values()]
        first = torch.stack([self._place.all_reduce_(number), torch.zeros((), dtype=torch.float64)])
        return Sums(torch.stack([first, *pairs]), {name: pair.dtype for name, pair in sums.items()})
