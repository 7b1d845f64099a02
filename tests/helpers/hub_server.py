"""As much of the Hugging Face hub as an upload needs, on this machine: kind, broken or silent."""

import base64
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Mood = Literal["kind", "broken", "silent"]


class Hub(ThreadingHTTPServer):
    """commits: (message, files by name) of each. asked: the paths of all requests. private: of the repository."""

    daemon_threads = True

    def __init__(self, mood: Mood) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.mood, self.private = mood, None
        self.commits: list[tuple[str, dict[str, bytes]]] = []
        self.asked: list[str] = []
        self.over = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hung up: to those that were killed there is nothing to say."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_port}"

    def write(self, folder: Path) -> None:
        """The newest commit as files: what a download would give."""
        for name, content in self.commits[-1][1].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else b""
        if not body:
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        self._answer(body)

    def do_GET(self) -> None:
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        hub = self.server
        hub.asked.append(self.path)
        if hub.mood == "silent":
            hub.over.wait()
        status, answer = (500, {"error": "on fire"}) if hub.mood == "broken" else (200, self._fulfil(body))
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _fulfil(self, body: bytes) -> Any:
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
        """Nothing."""


@contextmanager
def serving(mood: Mood) -> Iterator[Hub]:
    """A hub that is there meanwhile."""
    with Hub(mood) as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield hub
        finally:
            hub.over.set()
            hub.shutdown()
