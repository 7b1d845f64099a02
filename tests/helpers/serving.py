"""A server in a thread of this process, at a free port."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import seedfast
from seedfast.serve.app import Endpoint
from seedfast.serve.server import Server, address_of, bound, endpoint
from seedfast.serve.service import Limits


class Running:
    """A server that answers. url: ends with /v1."""

    def __init__(self, made: Endpoint, url: str, server: Server) -> None:
        self.connections = server.server_state.connections
        self.endpoint, self.url, self.root = made, url, url.removesuffix("/v1")
        self.engine, self.model = made.service.engine, made.service.name

    def client(self, **options: Any) -> Any:
        """A client of openai, which does not repeat requests."""
        import openai

        return openai.OpenAI(base_url=self.url, **{"api_key": "none", "max_retries": 0, "timeout": 60, **options})

    def wait_until_idle(self) -> None:
        """Return when no row runs or waits."""
        end = time.monotonic() + 60
        while self.engine.running or self.engine.waiting:
            assert time.monotonic() < end, "a row goes on"
            time.sleep(0.005)


@contextmanager
def served(
    folder: Path,
    *,
    slots: int = 8,
    queue: int = 64,
    tokens: int = 4096,
    body: int = 1 << 20,
    grace: float = 10,
    key: str | None = None,
) -> Iterator[Running]:
    """The model of a folder, served while the context lasts."""
    listening = bound("127.0.0.1", 0)
    limits = Limits(tokens=tokens, body=body)
    model = seedfast.load(folder, device="cpu")
    made = endpoint(model, name=folder.name, slots=slots, queue=queue, limits=limits, host="127.0.0.1", key=key)
    server = Server(made, listening, grace=grace)
    url = address_of(listening)
    thread = threading.Thread(target=server.answer)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield Running(made, url, server)
    finally:
        server.end()
        thread.join(60)
        assert not thread.is_alive(), "the server does not end"
