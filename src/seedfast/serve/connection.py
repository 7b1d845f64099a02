"""A connection of a client, with a time limit: slow clients must not keep all others out.

uvicorn waits for the rest of a request for ever, and takes connections until the process has no file left for one; then
nobody is answered any more.
"""

import asyncio
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 60.0
"""Seconds in which a request must have come as a whole."""
_MOST = 4096
_WAITING = (h11.IDLE, h11.SEND_BODY)


def most_connections() -> int:
    """How many connections are kept: a third of the files that the process may open."""
    return min(_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3)


class Connection(H11Protocol):
    """A connection that is closed if a request does not come as a whole in time.

    Where there are as many as may be, a new one takes the place of the one that has waited longest for a request.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected."""
        others: list[Any] = [each for each in self.connections if not each.transport.is_closing()]
        super().connection_made(transport)
        self._watch()
        if len(others) >= most_connections():
            waiting = {each: each._deadline.when() for each in others if each._deadline is not None}
            min(waiting, key=waiting.__getitem__, default=self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        """Set the deadline of a request that has not come as a whole, and leave it as it is until the request has."""
        if self.conn.their_state not in _WAITING:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(PATIENCE, self.transport.abort)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
