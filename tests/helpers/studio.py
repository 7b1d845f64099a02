"""A studio in a thread of this process, at a free port."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seedfast.serve.server import Server, address_of, bound
from seedfast.studio.app import Studio


class Running:
    """A studio that answers at a URL, which ends with /. pages: what is open in a browser, and is closed before it."""

    def __init__(self, studio: Studio, url: str) -> None:
        self.studio, self.url = studio, url
        self.pages: list[Any] = []

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, Any]:
        """Status, content and headers of an answer. body: sent as JSON by POST."""
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = {} if body is None else {"Content-Type": "application/json"}
        sent = {**kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
        request = urllib.request.Request(self.url + path, data=content, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        status, content, _ = self.ask(path)
        assert status == 200, content
        return json.loads(content)

    def lines(self, path: str, body: Any) -> list[Any]:
        """The lines of a job."""
        status, content, _ = self.ask(path, body)
        assert status == 200, content
        return [json.loads(line) for line in content.splitlines()]

    def id(self, folder: Path) -> str:
        """The id of a run."""
        return str(next(run["id"] for run in self.get("api/runs") if run["path"] == str(folder)))


@contextmanager
def studio_of(*folders: Path, **options: Any) -> Iterator[Running]:
    """The studio of some folders while the context lasts."""
    made = Studio(_paths(folders), device="cpu", **options)
    listening = bound("127.0.0.1", 0)
    server = Server(made, listening, grace=1)
    thread = threading.Thread(target=server.answer)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        running = Running(made, address_of(listening, "/"))
        yield running
        for page in running.pages:
            page.close()
    finally:
        server.end()
        thread.join(60)
        assert not thread.is_alive(), "the server does not end"


def _paths(folders: Sequence[Path]) -> list[Path]:
    return [Path(folder) for folder in folders]
