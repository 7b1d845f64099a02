"""The sample stream of a mixture: which source each position takes its example from, and which of its examples.

Every source has a share of the stream, which may change with the step, and its own sample order, in which it takes one
example after the other. Source k is due for its i-th example at the time t (in positions of the stream) when its
expected number of examples, T_k(t) = ∫ share_k, reaches i + φ_k, where φ_k is a keyed phase in [0, 1). The stream
is all examples of all sources in the order of these times.

Before any time t, source k has had T_k(t) examples, rounded up or down, and the sources together t, up to their number
K. So a position is found among the few that are due around the time of its own number, at the cost of none before it;
and after n positions of constant shares, the examples of each source differ from n times its share by less than K.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seedfast import keys
from seedfast.data.sample_order import Order, SampleOrder

Floats = npt.NDArray[np.float64]
Weights = Mapping[int, float]
"""The weight of a source from each of these steps on, linear between them."""


@dataclass(frozen=True)
class Shares:
    """The share of each source in the batch: constant, or linear between some steps.

    steps: where shares are given, ascending, the first one 0. shares_SK: of the K sources at these S steps; each row
    has the sum 1. After the last step the shares are constant.
    """

    steps: tuple[int, ...]
    shares_SK: tuple[tuple[float, ...], ...]

    @staticmethod
    def of(weights: Sequence[Weights]) -> "Shares":
        """The shares of sources with these weights, at every step that one of them names.

        Raises ValueError, with the step, where no source has a weight.
        """
        steps = sorted({0, *(step for each in weights for step in each)})
        values_KS = np.array(
            [np.interp(steps, sorted(each), [each[step] for step in sorted(each)]) for each in weights]
        )
        totals_S = values_KS.sum(axis=0)
        if not totals_S.all():
            raise ValueError(steps[int(np.argmin(totals_S))])
        return Shares(tuple(steps), tuple(map(tuple, (values_KS / totals_S).T.tolist())))

    def at(self, step: int) -> list[float]:
        """The share of each source at a step."""
        return [float(np.interp(step, self.steps, values_S)) for values_S in zip(*self.shares_SK, strict=True)]


class _Clock:
    """T and its inverse, for one source: T(t) is its expected number of examples before the time t."""

    def __init__(self, times_S: Floats, shares_S: Floats) -> None:
        """times_S: where the share is given, in positions. shares_S: the share there; constant after the last."""
        lengths_S = np.diff(times_S)
        self._times_S, self._shares_S = times_S, shares_S
        self._slopes_S = np.append(np.diff(shares_S) / lengths_S, 0.0)
        self._counts_S = np.concatenate([[0.0], np.cumsum((shares_S[1:] + shares_S[:-1]) / 2 * lengths_S)])

    def count(self, time: float) -> float:
        """T at a time."""
        here = int(np.searchsorted(self._times_S, time, side="right")) - 1
        passed = time - self._times_S[here]
        return float(self._counts_S[here] + passed * (self._shares_S[here] + self._slopes_S[here] * passed / 2))

    def times(self, counts_N: Floats) -> Floats:
        """The times at which T reaches these counts; infinite for those that it never reaches."""
        here_N = np.searchsorted(self._counts_S, counts_N, side="right") - 1
        left_N, share_N = counts_N - self._counts_S[here_N], self._shares_S[here_N]
        # The root of share · t + slope · t² / 2 = left, in the form that has no difference of large numbers.
        root_N = np.sqrt(np.maximum(share_N**2 + 2 * self._slopes_S[here_N] * left_N, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            passed_N = np.where(left_N > 0, 2 * left_N / (share_N + root_N), 0.0)
        return np.asarray(self._times_S[here_N] + passed_N, np.float64)


@dataclass(frozen=True)
class Source:
    """A source of a mixture as its order needs it.

    size: number of training examples. sampling_weights: their relative frequencies; None: all equal.
    """

    name: str
    size: int
    sampling_weights: Tensor | None = None


class MixtureOrder(SampleOrder):
    """The sample stream of a mixture. The ids of each source follow those of the one before."""

    def __init__(self, sources: Sequence[Source], shares: Shares, *, seed: int, batch_size: int) -> None:
        """seed: the run's seed. batch_size: positions in a step, in which the shares are given."""
        self._sources = tuple(sources)
        times_S = np.array(shares.steps, np.float64) * batch_size
        self._clocks = [_Clock(times_S, np.array(values)) for values in zip(*shares.shares_SK, strict=True)]
        origin = torch.zeros(1, dtype=torch.int64)
        self._phases = [
            float(keys.uniform(keys.derive(seed, "mixture", source.name), origin, 1, dtype=torch.float64))
            for source in sources
        ]
        self._orders = [
            Order(size=each.size, seed=seed, stream=f"order/{each.name}", sampling_weights=each.sampling_weights)
            for each in sources
        ]
        self._starts = np.cumsum([0, *(source.size for source in sources)])

    def introduction(self, positions: int) -> list[str]:
        counts = [clock.count(positions) for clock in self._clocks]
        return [
            f"source {source.name}: {count / positions:.1%} of the run, {count / source.size:.3g} epochs of "
            f"{source.size:,} examples"
            for source, count in zip(self._sources, counts, strict=True)
        ]

    def places(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The source at each of the positions start … stop-1, and how many examples it has had before, int64 [N]."""
        margin = len(self._clocks) + 2  # positions by which time and number may differ, and rounding
        begin, end = max(0.0, start - margin), float(stop + margin)
        times, sources, numbers, before = [], [], [], 0
        for source, (clock, phase) in enumerate(zip(self._clocks, self._phases, strict=True)):
            first = max(0, int(clock.count(begin) - phase) - 2)
            numbers_N = np.arange(first, int(clock.count(end) - phase) + 3)
            times_N = clock.times(numbers_N.astype(np.float64) + phase)
            due = times_N >= begin
            before += first + int((~due).sum())
            times.append(times_N[due])
            numbers.append(numbers_N[due])
            sources.append(np.full(int(due.sum()), source))
        source_N, number_N = np.concatenate(sources), np.concatenate(numbers)
        order = np.lexsort((number_N, source_N, np.concatenate(times)))[start - before : stop - before]
        assert before <= start
        assert len(order) == stop - start
        return source_N[order], number_N[order]

    def _evaluated(self, start: int, stop: int) -> list[int]:
        source_N, number_N = self.places(start, stop)
        ids_N = np.empty_like(number_N)
        for source in np.unique(source_N).tolist():
            here = source_N == source
            ids_N[here] = self._starts[source] + self._orders[source].ids_at(torch.from_numpy(number_N[here])).numpy()
        ids: list[int] = ids_N.tolist()
        return ids
