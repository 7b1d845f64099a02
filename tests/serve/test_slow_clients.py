"""Clients that send their requests slowly, or never to their end, keep nobody else out."""

import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.helpers.serving import Running, served

from seedfast.serve import connection

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
UNFINISHED = {"nothing": b"", "headers": HEAD, "body": HEAD + b"Content-Length: 500\r\n\r\n{"}


def connected(url: str, sent: bytes) -> socket.socket:
    """A client that has sent something and waits."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    made = socket.create_connection((parts.hostname, parts.port or 80), timeout=60)
    made.sendall(sent)
    return made


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed a connection; waits for something to happen to it."""
    try:
        return client.recv(1 << 16) == b""
    except ConnectionResetError:
        return True


def is_answered(running: Running) -> bool:
    return httpx.get(f"{running.root}/health", timeout=60).status_code == 200


@pytest.mark.parametrize("sent", UNFINISHED)
def test_a_request_that_does_not_come_to_its_end_is_given_up(
    folders: dict[str, Path], sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(folders["text-autoregressive"]) as running:
        with monkeypatch.context() as hurried:
            hurried.setattr(connection, "PATIENCE", 0.1)
            with connected(running.url, UNFINISHED[sent]) as client:
                assert is_closed(client)
        assert is_answered(running)


def test_an_answer_may_take_longer_than_its_request(causal: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled: list[float] = []
    forget = connection.Connection._forget

    def noted(self: connection.Connection) -> None:
        if self._deadline is not None:
            cancelled.append(self._deadline.when())
        forget(self)

    monkeypatch.setattr(connection.Connection, "_forget", noted)
    with httpx.Client(timeout=60) as client:  # one connection, kept between the requests
        for _ in range(2):
            body = {"model": causal.model, "prompt": "the ", "max_tokens": 4}
            assert client.post(f"{causal.url}/completions", json=body).status_code == 200
    assert cancelled  # the deadline does not outlast the request


def test_a_new_client_takes_the_place_of_the_one_that_has_waited_longest(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "most_connections", lambda: 4)
    with served(folders["text-autoregressive"]) as running:
        clients = [connected(running.url, UNFINISHED["body"]) for _ in range(4)]
        assert is_answered(running)
        assert is_closed(clients[0])
        for client in clients:
            client.close()


def test_more_clients_than_the_process_may_open_files_keep_nobody_out(folders: dict[str, Path]) -> None:
    words = [sys.executable, "-m", "seedfast", "serve", str(folders["text-autoregressive"]), "--port", "0"]
    limited = ["sh", "-c", 'ulimit -n 128; exec "$@"', "sh", *words]
    with subprocess.Popen(limited, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = next(line for line in server.stdout if "http://" in line)
            url = next(word for word in line.split() if word.startswith("http://"))
            clients = [connected(url, UNFINISHED["body"]) for _ in range(150)]
            assert httpx.get(f"{url.removesuffix('/v1')}/health", timeout=60).status_code == 200
            for client in clients:
                client.close()
        finally:
            server.terminate()
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()
