"""A connection of a client that does not wait for it for ever: slow clients must not keep all others out.

uvicorn waits without end for the rest of a request, or until an answer is read, and takes connections until the process
has no file left for one; then nobody is answered any more.
"""

import asyncio
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 60.0
"""Seconds in which a request must have come as a whole, and in which some of an answer must be read."""
PRESSED = 1.0
"""Seconds after which a connection that waits for its client gives its place to another, if there are too many."""
_MOST, _LEAST = 4096, 8
_OTHER_FILES = 96  # of the process, with the connections that asyncio takes at once


def most_connections() -> int:
    """How many connections are kept: as many as the process may open files besides its own."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if files == resource.RLIM_INFINITY else max(_LEAST, min(_MOST, files - _OTHER_FILES))


class Connection(H11Protocol):
    """A connection that is cut if its client does not send its request, or read its answer, in time.

    Where there are as many as may be, a new one takes the place of the one that has waited longest for its client.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None  # there while the connection waits for its client
        self._is_cut = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client has connected."""
        everyone: set[Any] = self.connections
        others = [each for each in everyone if not each._is_cut]
        super().connection_made(transport)
        self._watch()
        if len(others) >= most_connections():
            patient = self.loop.time() + PATIENCE - PRESSED
            waiting = {each: each._deadline.when() for each in others if each._deadline is not None}
            longest = min(waiting, key=waiting.__getitem__, default=self)
            (longest if waiting.get(longest, patient) < patient else self)._cut()

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """An answer has been written; the next request may be there already."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The client does not read what is written."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """The client has read some of it."""
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        super().connection_lost(exc)
        self._forget()

    def shutdown(self) -> None:
        """The server ends: it does not wait for the rest of a request."""
        if self.conn.their_state is h11.SEND_BODY:
            self._cut()
        else:
            super().shutdown()

    def _watch(self) -> None:
        """Set the deadline when the connection begins to wait for its client, and leave it as it is until that ends."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY) and not self.flow.write_paused:
            self._forget()
        elif self._deadline is None and not self._is_cut:
            self._deadline = self.loop.call_later(PATIENCE, self._cut)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        self._is_cut = True
        self._forget()
        self.transport.abort()
