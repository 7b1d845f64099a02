"""The command as it is typed: its sentences, its start and its end; and the oldest client that installs."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.helpers.cli import Run
from tests.helpers.processes import Command
from tests.helpers.serving import Running

from seedfast.serve.server import bound, is_loopback

OLDEST = "1.0.0"
"""The first version of the client with the interface of today."""


@contextmanager
def typed(folder: Path, *words: str) -> Iterator[tuple[Command, str]]:
    """A server as a process of its own, and its URL."""
    command = Command("seedfast", ["serve", folder, "--port", "0", *words])
    try:
        command.wait_for(lambda: command.stdout.exists() and "http://" in command.stdout.read_text())
        found = re.search(r"http://\S+", command.stdout.read_text())
        assert found is not None
        yield command, found[0]
    finally:
        command.process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_server_ends_in_order(folders: dict[str, Path], number: signal.Signals, status: int) -> None:
    with typed(folders["text-masked"]) as (command, url):
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/health") as answer:
            assert json.load(answer)["status"] == "ok"
        os.kill(command.pid, number)
        command.process.join(60)
        assert command.process.exitcode == status
        assert "Traceback" not in command.stderr.read_text()
        assert "text-masked at http://127.0.0.1:" in command.stdout.read_text()


def test_a_mistake_is_a_sentence(folders: dict[str, Path], seedfast: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folders["text-masked"]
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        status, _, err = seedfast("serve", folder, "--port", taken.getsockname()[1])
        assert (status, "cannot be used (Address already in use): name another" in err) == (2, True)
    for words, sentence in (
        (["--slots", "0"], "slots"),
        (["--port", "70000"], "port"),
        (["--api-key", ""], "--api-key must be a text"),
        (["--host", "no.such.host.example"], "cannot be used"),
    ):
        status, _, err = seedfast("serve", folder, "--port", "0", *words)
        assert (status, sentence in err) == (2, True), err
    status, _, err = seedfast("serve", folder.parent / "nothing", "--port", "0")
    assert status == 2
    monkeypatch.setattr("seedfast.cli.serve.find_spec", lambda name: None if name == "uvicorn" else name)
    status, _, err = seedfast("serve", folder)
    assert (status, "Serving needs uvicorn: pip install 'seedfast[serve]'." in err) == (2, True)


def test_only_addresses_of_this_machine_are_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::", "example.org")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


CLIENT = """
import openai, sys
client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
model = client.models.list().data[0].id
asked = dict(model=model, prompt="the ", max_tokens=8)
seed = {"seed": 3}  # the oldest has no argument for it
whole = client.completions.create(**asked, logprobs=0, extra_body=seed)
assert len(whole.choices[0].logprobs.token_logprobs) == whole.usage.completion_tokens
chunks = list(client.completions.create(**asked, stream=True, extra_body={
    **seed, "frames": True, "stream_options": {"include_usage": True}}))
assert chunks[-1].choices == []
assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
for wrong, error in (({"model": "gpt-9"}, openai.NotFoundError), ({"n": 0}, openai.BadRequestError),
                     ({"logprobs": 2}, openai.UnprocessableEntityError)):
    try:
        client.completions.create(**(asked | wrong))
    except error as found:
        assert found.response.json()["error"]["message"], found
    else:
        raise AssertionError(wrong)
print(openai.__version__)
"""


def test_the_script_of_the_oldest_client_holds_for_the_installed_one(masked: Running) -> None:
    done = subprocess.run([sys.executable, "-c", CLIENT, masked.url], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_oldest_client_reads_the_same_answers(masked: Running, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "old"], check=True)
    python = tmp_path / "old/bin/python"
    # Its httpx argument `proxies` is gone since httpx 0.28.
    words = ["-m", "pip", "install", "-q", f"openai=={OLDEST}", "httpx<0.28"]
    subprocess.run([python, *words], check=True)
    done = subprocess.run([python, "-c", CLIENT, masked.url], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, OLDEST), done.stderr
