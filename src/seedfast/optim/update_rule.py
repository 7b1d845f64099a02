"""What AdamW and Muon have in common: groups of parameters, their state, and a step that can be none.

The interface is that of `torch.optim.Optimizer`, as far as a gradient scaler needs it. That class itself imports a
compiler when the first optimizer is built, which takes longer than all else that a small run does before its first
step.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

Number = float | Tensor
"""A number of a step: of the host, or a tensor [] that the device reads."""


class UpdateRule(ABC):
    """An optimizer for some of the parameters of a network.

    param_groups: "params" and the hyperparameters of each group, among them "lr", a `Number`. state: the tensors of
    each parameter that has been updated, by quantity.
    """

    name: ClassVar[str]
    """Its name in the journal."""
    quantities: ClassVar[frozenset[str]]
    """The tensors that it stores for each parameter."""

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        self.param_groups = list(groups)
        self.state: dict[nn.Parameter, dict[str, Tensor]] = defaultdict(dict)

    @abstractmethod
    def step(self, finite: Tensor) -> None:
        """One update of every parameter that has a gradient.

        finite: bool [], on the device. If it is false, no parameter and no state changes by a bit, and the host, which
        need not know it, does the same either way.
        """
