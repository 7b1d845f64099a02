"""A scheduler of rows: pieces of work in threads of their own, whose evaluations of a network meet.

It knows neither texts nor requests. A row is ordinary code that runs from its beginning to its end, such as a sampler.
Where it needs the network it waits: for an evaluation of its own (`Row.compute`), or for one that it shares with other
rows (`Row.share`). Shared evaluations are made when every row waits, so that a batch holds as many rows as possible,
and new rows join between two evaluations (continuous batching: Yu et al. 2022, "Orca", section 3.1). One thread makes
all evaluations.
"""

import heapq
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
Evaluate = Callable[[list[Any]], list[Any]]
"""The inputs of several rows → the output of each."""


class FullError(Exception):
    """As many rows wait as may wait."""


class CancelledRowError(Exception):
    """Raised in a row that was cancelled, where it next needs the network."""


@dataclass
class _Call:
    """What a row waits for: its input, and its output as soon as the evaluation is made."""

    key: Hashable
    evaluate: Evaluate
    value: Any
    output: Future[Any] = field(default_factory=Future)


class Row:
    """A piece of work.

    slot: a number below the engine's `slots` that no other running row has; -1 before the row runs. done: resolved when
    the work has ended, with the exception that ended it if there was one.
    """

    done: Future[None]

    def __init__(self, engine: "Engine", work: Callable[["Row"], None]) -> None:
        self.slot = -1
        self._engine, self._work = engine, work
        self._is_cancelled = threading.Event()

    def run(self) -> None:
        """The whole work, in the thread that calls this."""
        with self._engine.slot_for(self):
            self._go_on()
            self._work(self)

    def cancel(self) -> None:
        """End the row: now if it still waits for a slot, else where it next needs the network."""
        self._is_cancelled.set()
        self.done.cancel()

    def compute(self, evaluate: Callable[[], T]) -> T:
        """The result of a function of the network, which no other row shares."""
        self._go_on()
        found = self._engine.compute(evaluate)
        self._go_on()
        return found

    def share(self, key: Hashable, evaluate: Evaluate, value: Any) -> Any:
        """This row's output of an evaluation, in which all rows that wait with the same key take part."""
        self._go_on()
        found = self._engine.share(_Call(key, evaluate, value))
        self._go_on()
        return found

    def _go_on(self) -> None:
        if self._is_cancelled.is_set():
            raise CancelledRowError


class Engine:
    """Runs up to `slots` rows side by side; up to `queue` more wait for a slot.

    on_batch: called with the number of rows of each shared evaluation.
    """

    def __init__(self, *, slots: int, queue: int, on_batch: Callable[[int], None] = lambda rows: None) -> None:
        self.slots, self.queue, self._on_batch = slots, queue, on_batch
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="row")
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._lock = threading.RLock()  # an evaluation may be over before its callback is set
        self._free = list(range(slots))
        self._rows: set[Row] = set()
        self._pending: list[_Call] = []
        self._alone = self._in_flight = 0

    @property
    def room(self) -> int:
        """Rows that may run and wait in all."""
        return self.slots + self.queue

    @property
    def running(self) -> int:
        """Rows that have a slot."""
        return self.slots - len(self._free)

    @property
    def waiting(self) -> int:
        """Rows that wait for a slot."""
        return max(0, len(self._rows) - self.running)

    def submit(self, works: Sequence[Callable[[Row], None]]) -> list[Row]:
        """Each work as a row, which runs as soon as a slot is free.

        Raises FullError if more rows would run and wait than may: then none of the works is taken.
        """
        with self._lock:
            if len(self._rows) + len(works) > self.room:
                raise FullError
            rows = [Row(self, work) for work in works]
            self._rows.update(rows)
            for row in rows:
                row.done = self._threads.submit(row.run)
        for row in rows:
            row.done.add_done_callback(partial(self._forget, row))
        return rows

    def cancel(self) -> None:
        """Cancel all rows."""
        with self._lock:
            rows = list(self._rows)
        for row in rows:
            row.cancel()

    def close(self) -> None:
        """Cancel all rows, and return when they have ended."""
        self.cancel()
        self._threads.shutdown()
        self._network.shutdown()

    def _forget(self, row: Row, _done: Future[None]) -> None:
        with self._lock:
            self._rows.discard(row)

    @contextmanager
    def slot_for(self, row: Row) -> Iterator[None]:
        """The lowest free slot for a row that runs, so that few rows lie side by side."""
        with self._lock:
            row.slot = heapq.heappop(self._free)
        try:
            yield
        finally:
            with self._lock:
                heapq.heappush(self._free, row.slot)
                self._begin_if_all_wait()

    def compute(self, evaluate: Callable[[], T]) -> T:
        """The result of a function, in the thread of the network."""
        with self._lock:
            self._alone += 1
            self._begin_if_all_wait()
        try:
            return self._network.submit(evaluate).result()
        finally:
            with self._lock:
                self._alone -= 1

    def share(self, call: _Call) -> Any:
        """The output of a call, when all rows wait."""
        with self._lock:
            self._pending.append(call)
            self._begin_if_all_wait()
        return call.output.result()

    def _begin_if_all_wait(self) -> None:
        """Begin the shared evaluations unless some are under way, or a row runs that may still want to take part.

        A row with an evaluation of its own does not take part; its evaluation may be long.
        """
        if self._in_flight or not self._pending or len(self._pending) + self._alone < self.running:
            return
        groups: dict[Hashable, list[_Call]] = {}
        for call in self._pending:
            groups.setdefault(call.key, []).append(call)
        self._pending, self._in_flight = [], len(groups)
        for calls in groups.values():
            self._on_batch(len(calls))
            values = [call.value for call in calls]
            self._network.submit(calls[0].evaluate, values).add_done_callback(partial(self._answer, calls))

    def _answer(self, calls: list[_Call], done: Future[list[Any]]) -> None:
        with self._lock:
            self._in_flight -= 1
        error = done.exception()
        for index, call in enumerate(calls):
            if error is not None:
                call.output.set_exception(error)
            else:
                call.output.set_result(done.result()[index])
        with self._lock:
            self._begin_if_all_wait()
