"""The protocol of all families. The loop knows only this file and `generator.py`.

A family's options are a frozen dataclass, the `--objective.*` flags. Given the assets of the data they build a
`Family`: an objective, which training and validation walk, and a generator, which sampling walks.

    batch ──task(batch, draws)──▶ Task (inputs, targets, weights) ──loss(network, task, state)──▶ Terms (sums)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from seedfast.data.dataset import Batch, Corpus
from seedfast.families.generator import Generator, State
from seedfast.families.measure import Measure
from seedfast.keys import Draws


@dataclass(frozen=True, kw_only=True)
class Task:
    """One batch as the network sees it; each family adds its inputs and targets.

    weight_B: how much each example counts (for text: its scored tokens). It is known before the network runs, so a
        step can divide by the weight of the whole global batch before its first backward pass.
    """

    weight_B: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same task with each of its tensors changed."""
        changed: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                changed[f.name] = change(value)
            elif isinstance(value, Task):
                changed[f.name] = value.map(change)
        return replace(self, **changed)

    def tensors(self) -> Iterator[Tensor]:
        """Its tensors, in the order of the fields."""
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, Task):
                yield from value.tensors()

    def to(self, device: torch.device) -> Self:
        """The same task on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def with_fixed_shapes(self) -> Self:
        """The same task, with the same loss up to rounding, in shapes that all batches of this size have.

        Compiled code is made for the shapes that it is first called with. The default is the task itself: few families
        select positions, which differ in number.
        """
        return self


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The loss of a task, as sums.

    total_B: each example's loss, summed (not averaged) over what it counts, float32 and differentiable. The loss of
        any set of examples is sum(total_B) / sum(weight_B).
    diagnostics: further sums by name, each a tensor (sum, weight) of shape [2], reduced in the same way.
    """

    total_B: Tensor
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


TaskT = TypeVar("TaskT", bound=Task)


class Objective(ABC, Generic[TaskT]):
    """What training minimises and validation measures. Pure: all randomness comes in through `draws`."""

    measure: Measure
    """Units of the loss, and the meaning of its diagnostics."""
    has_fixed_shapes: ClassVar[bool] = False
    """Whether the trained tasks have the same shapes in all steps, by `Task.with_fixed_shapes`: only then is anything
    compiled, or it would be compiled again and again."""
    holds_all_logits: ClassVar[bool] = False
    """Whether the loss takes all logits of a micro-batch, so that `logits_at_once` cannot bound them."""
    varies: ClassVar[str | None] = None
    """Why the loss does not do the same operations in every training step, as a clause; None where it does. Only such a
    step can be captured in a CUDA graph."""

    @abstractmethod
    def network(self, model: Any) -> nn.Module:
        """Build the network that the configuration `model` describes, as this objective needs it.

        Raises UserError where the two do not fit.
        """

    def for_step(self, step: int) -> Self:
        """The objective at a training step: a pure function of the step, for objectives with a curriculum.

        Validation uses the objective itself, which is the end of every curriculum.
        """
        return self

    @abstractmethod
    def task(self, batch: Batch, draws: Draws) -> TaskT:
        """Corrupt, mask or noise a batch, on the CPU and without a network.

        Every index and mask is made here: after it no shape depends on the data.
        """

    @abstractmethod
    def loss(self, network: nn.Module, task: TaskT, state: State) -> Terms:
        """The loss of a task. A pure function of its arguments."""

    def metrics(self, network: nn.Module, task: TaskT, state: State) -> Mapping[str, Tensor]:
        """What a validation measures besides the loss, such as generated samples: sums, like `Terms.diagnostics`.

        A pure function of its arguments; nothing for most objectives. Called without gradients.
        """
        return {}

    def cache_frozen_features(self, network: nn.Module, corpus: Corpus) -> Corpus:
        """The corpus with the features of frozen parts of the network precomputed; unchanged for most objectives.

        `network` has the weights with which training starts or continues.
        """
        return corpus


class Adaptive(Protocol):
    """The adaptive state of a family, for the few that have one."""

    def initial_state(self) -> State:
        """The state before the first step."""
        ...

    def adapt(self, state: State, diagnostics: Mapping[str, Tensor]) -> State:
        """The state after a step whose diagnostics, averaged over the global batch, were these.

        Each is a tensor [] on the device, NaN if no example of the batch had it.
        """
        ...


class Preview(Protocol):
    """One example of a task for people to look at, as spans of (text, kind)."""

    @property
    def source(self) -> Sequence[tuple[str, str]]:
        """The example itself."""
        ...

    @property
    def inputs(self) -> Sequence[tuple[str, str]]:
        """The network's input."""
        ...

    @property
    def targets(self) -> Sequence[tuple[str, str]]:
        """The network's target."""
        ...


@dataclass(frozen=True)
class Family:
    """One kind of generative model, bound to the assets of its data.

    likelihood: the objective by which `seedfast evaluate` measures the network, where the training loss is no
        likelihood; None: the training objective.
    preview: the examples of a batch and its task, for people to look at; None where a task cannot be shown as text.
    """

    objective: Objective[Any]
    generator: Generator[Any] | None = None
    likelihood: Objective[Any] | None = None
    adaptive: Adaptive | None = None
    preview: Callable[[Batch, Any], Sequence[Preview]] | None = None

    @property
    def evaluated(self) -> Objective[Any]:
        """The objective of `seedfast evaluate`."""
        return self.likelihood or self.objective

    def initial_state(self) -> State:
        """The adaptive state before the first step: empty for most families."""
        return self.adaptive.initial_state() if self.adaptive else {}

    def adapt(self, state: State, diagnostics: Mapping[str, Tensor]) -> State:
        """The adaptive state after a step with these diagnostics."""
        return self.adaptive.adapt(state, diagnostics) if self.adaptive else state


@runtime_checkable  # the command line looks for the class of the default
class FamilyConfig(Protocol):
    """The options of a family."""

    def build(self, assets: Any) -> Family:
        """The family, bound to the assets of its data. Raises UserError where the two do not fit."""
        ...
