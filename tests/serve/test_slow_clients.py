"""Clients that send their requests slowly, or never to their end, keep nobody else out."""

import resource
import socket
import subprocess
import sys
import time
from contextlib import suppress
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
    with suppress(ConnectionError):  # the server may have cut it already
        made.sendall(sent)
    return made


def is_closed(client: socket.socket) -> bool:
    """Wait until the server closes a connection. Raises TimeoutError."""
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=60).status_code == 200
    except (httpx.NetworkError, httpx.RemoteProtocolError):  # the connection was cut
        return False


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


def test_what_follows_an_answer_has_its_time_too(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.3)
    with served(folders["text-autoregressive"]) as running:
        first = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        with connected(running.url, first + UNFINISHED["body"]) as client:
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
            assert is_closed(client)


def test_a_client_that_does_not_read_is_given_up(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.3)
    with served(folders["text-autoregressive"]) as running, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", urlsplit(running.url).port))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):  # noqa: PT012  # the end comes at some request
            while True:  # the buffers may hold megabytes; a client that were kept would end in a TimeoutError
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")


@pytest.mark.parametrize(("files", "kept"), [(1024, 928), (1 << 20, 4096), (16, 8), (resource.RLIM_INFINITY, 4096)])
def test_as_many_connections_as_files_are_kept(files: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert connection.most_connections() == kept


def test_a_new_client_takes_the_place_of_the_one_that_has_waited_longest(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "most_connections", lambda: 4)
    with served(folders["text-autoregressive"]) as running:
        clients = [connected(running.url, UNFINISHED["body"]) for _ in range(4)]
        while len(running.connections) < 4:
            time.sleep(0.005)
        monkeypatch.setattr(connection, "PRESSED", 1e9)
        with connected(running.url, b"") as late:
            assert is_closed(late)  # nobody has waited for long enough
        monkeypatch.setattr(connection, "PRESSED", 0.0)
        assert is_answered(running)
        assert is_closed(clients[0])
        for client in clients:
            client.close()


def test_a_client_that_has_its_answer_gives_its_place_away(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "most_connections", lambda: 2)
    monkeypatch.setattr(connection, "PRESSED", 0.0)
    with served(folders["text-autoregressive"]) as running, httpx.Client() as one, httpx.Client() as other:
        for client in (one, other):
            assert client.get(f"{running.root}/health").status_code == 200
        assert is_answered(running)


def test_more_clients_than_the_process_may_open_files_keep_nobody_out(folders: dict[str, Path]) -> None:
    words = [sys.executable, "-m", "seedfast", "serve", str(folders["text-autoregressive"]), "--port", "0"]
    limited = ["sh", "-c", 'ulimit -n 128; exec "$@"', "sh", *words]
    with subprocess.Popen(limited, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = next(line for line in server.stdout if "http://" in line)
            url = next(word for word in line.split() if word.startswith("http://"))
            clients = [connected(url, UNFINISHED["body"]) for _ in range(150)]
            while not answers(f"{url.removesuffix('/v1')}/health"):  # in a second those have waited for long enough
                time.sleep(0.1)
            for client in clients:
                client.close()
        finally:
            server.terminate()
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()
