"""The protocol of all families: what is asked, how well it was answered, and how to generate.

A family is a frozen dataclass of options (the `Objective`) which, given the assets of the data, builds the `Family`
itself. The loop knows only what stands in this file. Training and validation walk the same two functions:

    batch ──task(batch, draws)──▶ Task (inputs, targets, weights) ──loss(network, task)──▶ Terms (sums in nats)
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from rich.console import Console
from torch import Tensor, nn

from seedfast.data.dataset import Batch, Corpus, Dataset
from seedfast.families.profile import Profile
from seedfast.keys import Draws

State = dict[str, Tensor]
"""Whatever of a family adapts during training (an adaptive bias, a running average). Part of every checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a batch is asked: each family extends this with its inputs and targets.

    weight_B: how much each example counts (for text: its number of scored tokens), known before any network is run,
        so that a step can divide by the weight of the whole global batch before its first backward pass.
    """

    weight_B: Tensor

    def to(self, device: torch.device) -> Self:
        """The same task on another device."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                moved[f.name] = value.to(device, non_blocking=True)
            elif isinstance(value, Task):
                moved[f.name] = value.to(device)
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How well a task was answered.

    total_B: each example's loss, summed (not averaged) over what it counts, float32 and differentiable. The loss of
        any set of examples is sum(total_B) / sum(weight_B).
    diagnostics: further sums by name, each a tensor (sum, weight) of shape [2], reduced in the same way.
    """

    total_B: Tensor
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


class Samples(ABC):
    """What a model has generated, in a form that people can look at."""

    readable: ClassVar[bool] = True
    """Whether `show` prints the samples themselves; those that cannot be printed are always saved."""

    @abstractmethod
    def show(self, console: Console) -> None:
        """Print the samples, or a line about them."""

    @abstractmethod
    def save(self, folder: Path) -> list[Path]:
        """Write the samples as files into `folder`, which exists; returns the files, the most telling first."""


class Request(Protocol):
    """What is asked of a sampler: a frozen dataclass, whose fields are the flags of `seedfast sample`."""

    @property
    def count(self) -> int:
        """How many samples are asked for: `Family.sample` is given randomness for as many."""
        ...


class Family(ABC):
    """One kind of generative model, bound to the assets of its data."""

    is_bound: bool
    """Whether the loss bounds the negative log-likelihood from above (a NELBO) instead of being equal to it."""

    units: Mapping[str, float]
    """What the loss times this factor is called, e.g. {"bits_per_byte": 0.41}: the units that people compare in."""

    counts: str
    """What the weights count, in the plural: "tokens", "images"."""

    quantity: str = "nats"
    """What the loss is measured in: "nats" for a likelihood or its bound; otherwise e.g. "squared_error"."""

    metrics: Mapping[str, int] = {}
    """Diagnostics of every validation by which the best checkpoint may be chosen: 1 where more is better, or -1."""

    request: type[Any]
    """The class of this family's requests."""

    limits: Mapping[str, tuple[float, str]] = {}
    """Diagnostics that are warned of if a validation finds them above a value, with what that means."""

    profiles: Mapping[str, Profile] = {}
    """Diagnostics of every validation that are the points of curves, by what each curve is called."""

    evaluation_draws: int | None = None
    """Where the loss is a random estimate: how many tasks are drawn for each validation example. None: it is exact."""

    def at(self, step: int) -> Self:
        """The family as it is at a step of training: a pure function of the step, for those that have a curriculum.

        Validation uses the family itself, which is the end of every curriculum.
        """
        return self

    @property
    def likelihood(self) -> "Family":
        """The family by which a network of this one is evaluated: where the loss is no likelihood, one whose loss is.

        Most losses are one, or the only measure that there is.
        """
        return self

    @abstractmethod
    def network(self, model: Any) -> nn.Module:
        """Build the network that `model`, a network's configuration, describes, as this family needs it.

        Raises UserError where the two do not fit.
        """

    def ready(self, network: nn.Module, model: Any, corpus: Corpus) -> Corpus:
        """The corpus as training with this network takes it: what a frozen part says of each example, computed once.

        It comes from `network(model)`, and its weights are those that training begins or goes on with.
        """
        return corpus

    @abstractmethod
    def task(self, batch: Batch, draws: Draws) -> Task:
        """Corrupt, mask or noise a batch. Cheap, on the CPU, without a network; all randomness comes from `draws`."""

    @abstractmethod
    def loss(self, network: nn.Module, task: Task, state: State) -> Terms:
        """Answer a task. A pure function of its arguments."""

    @abstractmethod
    def sample(self, network: nn.Module, request: Any, draws: Draws, state: State) -> Samples:
        """Generate what a request of the family's kind asks for: `draws` has a position for each of its samples.

        Raises UserError where the request does not fit the model.
        """

    @abstractmethod
    def showcase(self, validation: Dataset) -> Request:
        """A request that shows what a model of this family can do, made from held-out data."""

    def initial_state(self) -> State:
        """The adaptive state before the first step. Most families have none."""
        return {}

    def adapt(self, state: State, diagnostics: Mapping[str, float]) -> State:
        """The adaptive state after a step whose diagnostics, averaged over the global batch, were these."""
        return state


class Objective(Protocol):
    """The options of a family."""

    def build(self, assets: Any) -> Family:
        """The family, bound to the assets of its data. Raises UserError where the two do not fit."""
        ...
