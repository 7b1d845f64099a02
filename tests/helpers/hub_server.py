"""The part of the Hugging Face hub that an upload needs, as a local server: working, broken or silent."""

import base64
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Behaviour = Literal["working", "broken", "silent"]


class Hub(ThreadingHTTPServer):
    """A local hub.

    commits: message and files by name of each. requests: the paths of all requests. private: of the repository.
    """

    daemon_threads = True

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour, self.private = behaviour, None
        self.commits: list[tuple[str, dict[str, bytes]]] = []
        self.requests: list[str] = []
        self.closed = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that a client closed, as a killed process does."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """The value of HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def download(self, folder: Path) -> None:
        """Write the files of the newest commit."""
        for name, content in self.commits[-1][1].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


Serve = Callable[[Behaviour], Hub]
"""Starts a hub."""


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
        if not body:
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        self._respond(body)

    def do_GET(self) -> None:
        self._respond(b"")

    def _respond(self, body: bytes) -> None:
        hub = self.server
        hub.requests.append(self.path)
        if hub.behaviour == "silent":
            hub.closed.wait()
        status, answer = (500, {"error": "on fire"}) if hub.behaviour == "broken" else (200, self._answer(body))
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, body: bytes) -> Any:
        hub = self.server
        if self.path == "/api/repos/create":
            hub.private = json.loads(body)["visibility"] == "private"
            return {"url": f"{hub.address}/me/model"}
        if "/preupload/" in self.path:
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": each["path"], **plain} for each in json.loads(body)["files"]]}
        if "/commit/" in self.path:
            header, *files = (json.loads(line)["value"] for line in body.splitlines())
            contents = {each["path"]: base64.b64decode(each["content"]) for each in files}
            hub.commits.append((header["summary"], contents))
            return {"commitUrl": f"{hub.address}/me/model/commit/0", "commitOid": "0" * 40}
        return {"errors": [], "warnings": []}

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Hub]:
    """A hub that runs during the block."""
    with Hub(behaviour) as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield hub
        finally:
            hub.closed.set()
            hub.shutdown()
