"""A user's own family in a file of its own: masked diffusion whose loss is scaled by an adaptive running average."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from seedfast import recipes
from seedfast.data.text.config import TextAssets
from seedfast.families.family import State, Task, Terms
from seedfast.families.text.masked import Masked, MaskedDiffusion
from seedfast.loop.config import Run


@dataclass(frozen=True, kw_only=True)
class Adaptive(Masked):
    """Masked diffusion with a memory."""

    def build(self, assets: TextAssets) -> "AdaptiveDiffusion":
        """The family."""
        return AdaptiveDiffusion(self, assets)


class AdaptiveDiffusion(MaskedDiffusion):
    """Its state is an average of the training loss, which the next step's gradient depends on."""

    def initial_state(self) -> State:
        """Before the first step."""
        return {"average": torch.ones(())}

    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        """The bound, times a factor that only the state knows."""
        terms = super().loss(network, task, state)
        total_B = terms.total_B * (1 + state["average"])
        seen = torch.stack([terms.total_B.detach().sum(), task.weight_B.sum().float()])
        return Terms(total_B=total_B, diagnostics={"plain": seen})

    def adapt(self, state: State, diagnostics: Mapping[str, float]) -> State:
        """Follow the loss."""
        return {"average": 0.9 * state["average"] + 0.1 * diagnostics["plain"]}


def adaptive() -> Run:
    """The recipe."""
    return replace(recipes.make("text-masked"), objective=Adaptive())
