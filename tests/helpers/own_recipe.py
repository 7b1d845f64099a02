"""A family in a file of the user's own: masked diffusion whose loss is scaled by an adaptive running average."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from seedfast import recipes
from seedfast.data.text.corpus import TextAssets
from seedfast.families.family import Family, Terms
from seedfast.families.generator import State
from seedfast.families.text.masked import Masked, MaskedObjective, MaskedTask
from seedfast.loop.config import Run


class Average:
    """The adaptive state: an average of the training loss, on which the next step's gradient depends."""

    def initial_state(self) -> State:
        """Before the first step."""
        return {"average": torch.ones(())}

    def adapt(self, state: State, diagnostics: Mapping[str, float]) -> State:
        """Follow the loss."""
        return {"average": 0.9 * state["average"] + 0.1 * diagnostics["plain"]}


class ScaledObjective(MaskedObjective):
    """The bound, times a factor of the adaptive state."""

    def loss(self, network: nn.Module, task: MaskedTask, state: State) -> Terms:
        terms = super().loss(network, task, state)
        plain = torch.stack([terms.total_B.detach().sum(), task.weight_B.sum().float()])
        return Terms(total_B=terms.total_B * (1 + state["average"]), diagnostics={"plain": plain})


@dataclass(frozen=True, kw_only=True)
class Adaptive(Masked):
    """Masked diffusion with an adaptive state."""

    def build(self, assets: TextAssets) -> Family:
        """The family."""
        return replace(super().build(assets), objective=ScaledObjective(self, assets), adaptive=Average())


def adaptive() -> Run:
    """The recipe."""
    return replace(recipes.make("text-masked"), objective=Adaptive())
