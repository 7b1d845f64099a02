"""The rows of one request, seen from the event loop of the server: their events, their errors, and their end."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future

from seedfast.serve.engine import Engine
from seedfast.serve.events import Ended, Event, Plan

QUIET = 15.0
"""Seconds without an event after which a stream sends a comment, so that nothing between takes it for dead."""


class Writing:
    """The texts of a request while they are written. Raises FullError if as many rows wait as may."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self._choices = plan.choices
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._rows = engine.submit(plan.works(self._send))
        for row in self._rows:
            row.done.add_done_callback(self._report)

    def _send(self, event: Event | BaseException) -> None:
        """Pass an event from the thread of a row to the event loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _report(self, done: Future[None]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None:
            self._send(error)

    def cancel(self) -> bool:
        """End the rows that still run or wait. Returns whether there were any."""
        left = [row for row in self._rows if not row.done.done()]
        for row in left:
            row.cancel()
        return bool(left)

    async def events(self) -> AsyncIterator[Event | None]:
        """The events of all choices up to their ends; None after each `QUIET` seconds without one.

        Raises what ended a row before its time.
        """
        ended = 0
        while ended < self._choices:
            try:
                event = await asyncio.wait_for(self._events.get(), QUIET)
            except TimeoutError:
                yield None
                continue
            if isinstance(event, BaseException):
                raise event
            ended += isinstance(event, Ended)
            yield event
