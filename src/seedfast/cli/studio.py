"""`seedfast studio`."""

import signal
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro

from seedfast.cli.arguments import Trust, parse
from seedfast.errors import UserError
from seedfast.options import Between, check


@dataclass(frozen=True, kw_only=True)
class Studio:
    """Show runs in a local page: live curves, settings and samples side by side, and a playground for their models.

    docs/studio.md describes the page.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders of runs, runs, or models' own folders."""
    host: str = "127.0.0.1"
    """The address to listen at. By default only this machine can reach it; 0.0.0.0: everyone who can reach this one."""
    port: Annotated[int, Between(0, 65535)] = 8400
    """The port to listen at; 0: any free one."""
    open: bool = False
    """Open the page in the browser."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to sample."""
    trust: Trust = False

    def __post_init__(self) -> None:
        check(self)


_GRACE = 2.0
"""Seconds that samples have to end after Ctrl-C."""


def studio(words: list[str]) -> int:
    """Answer the page until Ctrl-C; see `Studio` for the flags."""
    asked: Studio = parse(Studio, words, prog="seedfast studio")
    if missing := [each for each in ("starlette", "uvicorn", "prometheus_client") if find_spec(each) is None]:
        raise UserError(f"The studio needs {missing[0].replace('_', '-')}: pip install 'seedfast[studio]'.")
    from seedfast.console import put, warn
    from seedfast.serve.server import Server, address_of, bound, is_loopback
    from seedfast.studio.app import Studio as Application

    made = Application(asked.runs, hosts=[asked.host], device=asked.device, trust=asked.trust)
    listening = bound(asked.host, asked.port)
    if not is_loopback(asked.host):
        warn(f"everyone who can reach {asked.host} can see these runs and use their models.")
    listening.listen()
    address = address_of(listening, "/")
    count = len(made.runs.listed())
    put(f"{count} run{'' if count == 1 else 's'} at {address} (Ctrl-C ends)")
    if asked.open:
        import webbrowser

        webbrowser.open(address)
    ended_by = Server(made, listening, grace=_GRACE).answer()
    return 128 + signal.SIGINT if ended_by == signal.SIGINT else 0
