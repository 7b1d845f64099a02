"""`seedfast serve`."""

import os
import signal
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import tyro

from seedfast.cli.arguments import parse
from seedfast.cli.chosen import ChosenFlags
from seedfast.errors import UserError
from seedfast.options import AtLeast, Between, check

KEY = "SEEDFAST_API_KEY"
"""The environment variable that can hold the key."""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Answer requests for texts over HTTP, as OpenAI's API does: completions, infills, chats, captions of images.

    A text depends on its request alone, whatever else is being written. docs/serve.md has examples.
    """

    run: tyro.conf.Positional[Path]
    """The run folder, a checkpoint in it, or a model's own folder, of transformers, peft or seedfast export."""
    host: str = "127.0.0.1"
    """The address to listen at. By default only this machine can reach it; 0.0.0.0: everyone who can reach this one."""
    port: Annotated[int, Between(0, 65535)] = 8000
    """The port to listen at; 0: any free one."""
    api_key: str | None = None
    """The key that clients have to send (default: the environment variable SEEDFAST_API_KEY, which other users of this
    machine cannot see; without it, none)."""
    name: str | None = None
    """The name of the model in requests (default: that of its folder)."""
    slots: Annotated[int, Between(1, 1024)] = 8
    """Texts that are written side by side; each has a key-value cache of the whole context."""
    queue: Annotated[int, Between(0, 1 << 20)] = 64
    """Texts that may wait for a slot; further requests are answered with status 429."""
    max_tokens: Annotated[int, AtLeast(1)] = 4096
    """The most tokens of one text."""
    max_body: Annotated[int, AtLeast(1)] = 16
    """The largest body of a request, in MiB."""
    grace: Annotated[float, AtLeast(0)] = 10.0
    """Seconds that texts have to end after Ctrl-C or SIGTERM, before they are cut."""
    chosen: ChosenFlags

    def __post_init__(self) -> None:
        check(self)


def serve(words: list[str]) -> int:
    """Serve a model; see `Serve` for the flags."""
    asked: Serve = parse(Serve, words, prog="seedfast serve")
    if missing := [each for each in ("starlette", "uvicorn", "prometheus_client") if find_spec(each) is None]:
        raise UserError(f"Serving needs {missing[0].replace('_', '-')}: pip install 'seedfast[serve]'.")
    from seedfast.console import put, warn
    from seedfast.run_folder.choice import run_folder_of
    from seedfast.serve.server import Server, address_of, bound, endpoint, is_loopback
    from seedfast.serve.service import Limits

    key = os.environ.get(KEY) or None if asked.api_key is None else asked.api_key
    if key is not None and not (key.strip() and key.isascii() and key.isprintable()):
        raise UserError("--api-key must be a text of printable ASCII characters, as a header can hold it.")
    listening = bound(asked.host, asked.port)
    model = asked.chosen.load(asked.run)
    name = asked.name or (run_folder_of(asked.run) if model.checkpoint else asked.run).resolve().name
    made = endpoint(
        model,
        name=name,
        slots=asked.slots,
        queue=asked.queue,
        limits=Limits(tokens=asked.max_tokens, body=asked.max_body << 20),
        host=asked.host,
        key=key,
    )
    if not is_loopback(asked.host) and key is None:
        warn(f"everyone who can reach {asked.host} can use this model: set --api-key, or {KEY}.")
    listening.listen()  # whoever reads the address can connect at once
    put(f"{model.origin}\n{name} at {address_of(listening)} (Ctrl-C ends)")
    ended_by = Server(made, listening, grace=asked.grace).answer()
    return 128 + signal.SIGINT if ended_by == signal.SIGINT else 0
