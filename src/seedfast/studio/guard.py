"""Who may call the studio: its own page, by one of the names of this machine, with bodies of a bounded size.

A page of a stranger that is open in the same browser must not reach it. Three headers that such a page cannot choose
keep it away: Host (against DNS rebinding), Sec-Fetch-Site and Origin (against requests across sites). State changes
need a POST with a JSON body, which a browser sends across sites only after asking.
"""

import ipaddress
import json
import socket
from collections.abc import Collection, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seedfast.serve.app import host_name
from seedfast.serve.json_response import ASCIIResponse

_HEADERS = {
    # No inline scripts and nothing from elsewhere: text of a run folder that became HTML could still do nothing.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
DOWNLOAD = {"Content-Security-Policy": "sandbox; default-src 'none'"}
"""Headers of content that is saved and not shown; they override those of the page."""


class Guard:
    """Wraps an application. hosts: the host names, besides addresses and localhost, that the server answers to."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http":
            return
        reason = self._why_not(Headers(scope=scope), scope["path"])
        if reason:
            await ASCIIResponse({"error": reason}, 403)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _why_not(self, headers: Headers, path: str) -> str | None:
        """Why a request is refused, as a sentence; None for one that is answered."""
        host = headers.get("host", "")
        if not self._is_own(host):
            return f"The studio does not answer to the name {host!r:.80}: open it as 127.0.0.1 or localhost."
        if path != "/" and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "The studio answers its own page only, and this request comes from another site."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "The studio answers its own page only, and this request comes from another origin."
        return None

    def _is_own(self, host: str) -> bool:
        """Whether a Host header names this machine. An address is no name, so nobody can point it elsewhere."""
        name = host_name(host)
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return name in self._hosts


async def body_of(request: Request, limit: int) -> Mapping[str, Any]:
    """The JSON object in a request's body, of at most `limit` bytes. Raises HTTPException for anything else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "The body must be JSON, with the header Content-Type: application/json.")
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > limit:
                raise HTTPException(413, f"The body is larger than {limit >> 20} MiB: send smaller images or texts.")
    except ClientDisconnect:
        raise HTTPException(400, "The client left before the end of its body.") from None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise HTTPException(400, "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "The body must be a JSON object.")
    return value
