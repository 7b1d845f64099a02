"""How a step adds up the gradients of its forward passes and of its processes: as PyTorch does, or exactly.

Additions of floating-point numbers round, so a sum depends on their order, and a gradient on the micro-batches and on
the number of processes. Sums of multiples of one unit that stay below 2^53 units are exact in float64, whatever their
order: the pre-rounding of Demmel & Nguyen 2015 ("Parallel reproducible summation", section 4), here with two units
that are fixed for the whole run, one for the leading bits and one for the rest.
"""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction

import torch
from torch import Tensor, nn

from seedfast.errors import UserError
from seedfast.families.family import Task
from seedfast.loop.config import Run
from seedfast.loop.placement.placement import Placement
from seedfast.run_folder.train_state import TrainState

LARGEST = 2.0**32
"""Exact sums take gradients up to this size; a larger number makes the sum NaN, as an infinite one does."""


def summation(run: Run, placement: Placement) -> "Summation":
    """The summation of a run in this process. Raises UserError for exact sums of gradients that are cut."""
    if not run.exact_sums:
        return Summation(placement)
    if placement.is_sharded:
        raise UserError(
            f"exact_sums adds up whole gradients, and placement {run.placement} leaves each process a part of them: "
            "leave one of the two out."
        )
    return ExactSummation(placement, run.batch_size // run.exact_chunk)


class Summation:
    """PyTorch's own: float32, in the order of the micro-batches, and over the processes as the placement does it.

    slots: numbers of a step that are added up last, in one order (`diagnostics.Totals`).
    """

    def __init__(self, placement: Placement, slots: int = 1) -> None:
        self.placement, self.place, self.slots = placement, placement.distributed, slots

    @property
    def factor(self) -> float:
        """The factor of each process's loss that makes the gradient that of the sum of the losses."""
        return self.placement.gradient_factor

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network as the loss calls it."""
        return self.placement.wrap(network)

    def syncing(self, network: nn.Module, last: bool) -> AbstractContextManager[object]:
        """The context of a micro-batch: only the last one's backward pass exchanges gradients."""
        return self.placement.syncing(network, last)

    def numbering(self, index: int, count: int) -> tuple[int, int]:
        """The key of the dropout in forward pass `index` of the `count` of this process."""
        return index, self.place.rank

    def weight(self, tasks: Iterable[Task]) -> float | Fraction:
        """The weight of these tasks."""
        return sum(float(task.weight_B.sum()) for task in tasks)

    def add(self, state: TrainState) -> None:
        """Take the gradients of a backward pass; autograd has added them up."""

    def finish(self, state: TrainState) -> None:
        """Leave the sum over all forward passes and processes in the parameters."""


class ExactSummation(Summation):
    """Sums that do not depend on an order: the same bits for every number of processes.

    The addends have to be the same too. The forward passes of a step have the same examples in every topology
    (`Run.exact_chunk`), and on a CPU one thread: several share out the additions within a product by their number.
    """

    def __init__(self, placement: Placement, addends: int) -> None:
        """addends: forward passes of a step, over all processes."""
        super().__init__(placement, slots=addends)
        place = self.place
        if place.device.type == "cpu":
            torch.set_num_threads(1)
        # |high| ≤ LARGEST and |low| ≤ coarse / 2, so `addends` of them stay below 2^53 units.
        self._coarse = LARGEST * 2.0 ** (carries(addends) - 53)
        self._fine = self._coarse * 2.0 ** (carries(addends) - 54)
        self._high: list[Tensor] = []
        self._low: list[Tensor] = []
        self._excess = torch.zeros((), dtype=torch.float64, device=place.device)
        self._given = set[int]()

    @property
    def factor(self) -> float:
        """1: the gradients are added, and not averaged."""
        return 1.0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network itself, whose backward pass exchanges nothing."""
        return network

    def syncing(self, network: nn.Module, last: bool) -> AbstractContextManager[object]:
        """No context: nothing is exchanged before `finish`."""
        return nullcontext()

    def numbering(self, index: int, count: int) -> tuple[int, int]:
        """The number of the forward pass in the whole step: the same key in every topology."""
        return self.place.rank * count + index, 0

    def weight(self, tasks: Iterable[Task]) -> float | Fraction:
        """The exact sum of the weights of the forward passes; it is rounded once, when it is that of all processes."""
        return sum((Fraction(float(task.weight_B.sum())) for task in tasks), Fraction())

    @torch.no_grad()
    def add(self, state: TrainState) -> None:
        """Add the gradients of a backward pass to the sums, and remove them."""
        parameters = state.optimizer.trained
        if not self._high:
            self._high, self._low = ([torch.zeros_like(p, dtype=torch.float64) for p in parameters] for _ in range(2))
            self._excess, self._given = torch.zeros_like(self._excess), set()
        given = [number for number, parameter in enumerate(parameters) if parameter.grad is not None]
        if not given:
            return
        scale = self._scale(state)
        gradients = [parameters[number].grad.double() / scale for number in given]  # type: ignore[union-attr]
        self._excess += torch.stack(torch._foreach_norm(gradients, math.inf)).max() > LARGEST
        high, low = split(gradients, self._coarse, self._fine)
        torch._foreach_add_([self._high[number] for number in given], high)
        torch._foreach_add_([self._low[number] for number in given], low)
        self._given |= set(given)
        for number in given:
            parameters[number].grad = None

    @torch.no_grad()
    def finish(self, state: TrainState) -> None:
        """Add the sums of all processes, which is exact in any order, and round each once."""
        sums = [self._excess, *self._high, *self._low]
        if self.place.world_size > 1:
            flat = self.place.all_reduce_(torch.cat([each.reshape(-1) for each in sums]))
            for each, part in zip(sums, torch.split_with_sizes(flat, [each.numel() for each in sums]), strict=True):
                each.copy_(part.view(each.shape))
        parameters = state.optimizer.trained
        valid = torch.where(self._excess > 0, math.nan, self._scale(state))
        for number in set[int]().union(*self.place.all_gather(self._given)):
            total = (self._high[number] + self._low[number]) * valid
            parameters[number].grad = total.to(parameters[number].dtype)
        self._high, self._low = [], []

    def _scale(self, state: TrainState) -> Tensor:
        """The factor by which fp16 scales the loss, a power of two; 1 in other precisions."""
        return state.scaler.scale(torch.ones((), dtype=torch.float64, device=self.place.device))


def carries(addends: int) -> int:
    """The bits by which a sum of so many addends can be longer than one of them; at least 2, which `split` needs."""
    return max(2, math.ceil(math.log2(addends)))


def split(numbers: list[Tensor], coarse: float, fine: float) -> tuple[list[Tensor], list[Tensor]]:
    """Each number (float64) as the nearest multiple of `coarse`, and what is left as the nearest multiple of `fine`.

    Adding and subtracting 1.5 · 2^52 units rounds to whole units, for numbers up to 2^51 units (Demmel & Nguyen 2015,
    algorithm 4.1, without its dependence on the running sum).
    """
    high = list(torch._foreach_add(numbers, 1.5 * 2.0**52 * coarse))
    torch._foreach_sub_(high, 1.5 * 2.0**52 * coarse)
    low = list(torch._foreach_sub(numbers, high))
    torch._foreach_add_(low, 1.5 * 2.0**52 * fine)
    torch._foreach_sub_(low, 1.5 * 2.0**52 * fine)
    return high, low
