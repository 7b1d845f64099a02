"""The server: a socket, a service behind it, and an end in order."""

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from seedfast.console import silenced
from seedfast.errors import UserError
from seedfast.evaluate.trained import Trained
from seedfast.serve.app import Endpoint
from seedfast.serve.connection import Connection
from seedfast.serve.metrics import Metrics
from seedfast.serve.service import Limits, Service

_BACKLOG = 32
"""Clients that wait for their connection; asyncio takes so many at once, before it tells how many there are."""
_LAST_WORDS = 5
"""Seconds that answers which are cut have for their errors."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0: any free one. Raises UserError if there is no such address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--host {host} --port {port} cannot be used ({reason}): name another, such as 8001.") from None
    return made


def address_of(listening: socket.socket, path: str = "/v1") -> str:
    """The URL under which clients reach a path at a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"


def endpoint(
    model: Trained, *, name: str, slots: int, queue: int, limits: Limits, host: str, key: str | None = None
) -> Endpoint:
    """The endpoint of a model. Raises UserError for one that writes no text."""
    metrics = Metrics()
    service = Service(model, name=name, slots=slots, queue=queue, limits=limits, on_batch=metrics.rows.observe)
    names = {"127.0.0.1", "localhost", "::1", host.lower()} if is_loopback(host) else None
    return Endpoint(service, metrics, key=key, hosts=names)


class Served(Protocol):
    """What a server answers with. is_closing: whether no more requests are taken."""

    is_closing: bool

    def app(self) -> ASGIApp:
        """The application."""
        ...

    def cancel(self) -> None:
        """Cut the answers that are still being written."""
        ...

    def close(self) -> None:
        """Cut them, and wait for the threads that write them."""
        ...


class Server(uvicorn.Server):
    """Answers at a socket until it is told to end.

    Then it takes no more requests; after `grace` seconds the texts that are still being written are cut.
    """

    def __init__(self, endpoint: Served, listening: socket.socket, *, grace: float) -> None:
        super().__init__(
            uvicorn.Config(
                endpoint.app(),
                http=Connection,
                backlog=_BACKLOG,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=int(grace) + _LAST_WORDS,
            )
        )
        self._endpoint, self._listening, self._grace = endpoint, listening, grace
        self._signal: int | None = None

    def answer(self) -> int | None:
        """Answer requests; returns the signal that ended this, if one did."""
        try:
            with silenced():  # the bars of samplers would be drawn over each other
                self.run(sockets=[self._listening])
        finally:
            self._endpoint.close()
        return self._signal

    def end(self) -> None:
        """End in order; called again, cut the texts that are still being written."""
        if self.should_exit:
            self._endpoint.cancel()
        self._endpoint.is_closing = self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the connections."""
        self._endpoint.is_closing = True
        asyncio.get_running_loop().call_later(self._grace, self._endpoint.cancel)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Within it, SIGINT and SIGTERM end the server; its own handlers would raise them again afterwards."""

        def note(number: int, _frame: FrameType | None) -> None:
            self._signal = number
            self.end()

        before: dict[int, Any] = {}
        try:
            for each in (signal.SIGINT, signal.SIGTERM):
                before[each] = signal.signal(each, note)
        except ValueError:  # only the main thread can be interrupted
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
