"""The HTTP endpoint: routes, keys, limits and errors. It knows nothing of tensors."""

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from seedfast.serve import answers, requests
from seedfast.serve.answering import Answering, RefusedError
from seedfast.serve.answers import Answer, ChatAnswer
from seedfast.serve.events import Plan
from seedfast.serve.json_response import ASCIIResponse
from seedfast.serve.metrics import Metrics
from seedfast.serve.requests import Asked
from seedfast.serve.service import Service

Handler = Callable[[Request], Awaitable[Response]]
_PATHS = "/v1/models, /v1/completions, /v1/chat/completions, /health and /metrics"


class Endpoint:
    """The routes of a service.

    key: that clients must name; None: none. hosts: the names under which the server may be called; None: any.
    """

    def __init__(
        self, service: Service, metrics: Metrics, *, key: str | None = None, hosts: Collection[str] | None = None
    ) -> None:
        self.service, self.metrics, self.key, self.hosts = service, metrics, key, hosts
        self.answering = Answering(service, metrics)
        self.is_closing = False

    def cancel(self) -> None:
        """Cut the texts that are still being written."""
        self.service.engine.cancel()

    def close(self) -> None:
        """End the engine."""
        self.service.engine.close()

    def app(self) -> Starlette:
        """The application."""
        routes = [
            Route("/v1/models", self._guarded(self._models)),
            Route("/v1/models/{name:path}", self._guarded(self._model)),
            Route("/v1/completions", self._guarded(self._completions), methods=["POST"]),
            Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            Route("/metrics", self._guarded(self._metrics)),
            Route("/health", self._health),
        ]
        handlers: Any = {HTTPException: _on_error, Exception: _on_failure}
        return Starlette(routes=routes, exception_handlers=handlers)

    def _guarded(self, handler: Handler) -> Handler:
        """A handler that only those may call who know the key, and whose answers are counted."""

        async def guarded(request: Request) -> Response:
            status = 500
            try:
                self._check(request)
                response = await handler(request)
                status = response.status_code
                return response
            except HTTPException as error:
                status = error.status_code
                raise
            finally:
                self.metrics.requests.labels(request.scope["route"].path, str(status)).inc()

        return guarded

    def _check(self, request: Request) -> None:
        """Raise RefusedError for a request that may not be answered."""
        host = host_name(request.headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            # A page in a browser could otherwise reach a server on this machine by a name that it points here.
            raise RefusedError(403, f"This server does not answer to the name {host!r:.80}: call it as 127.0.0.1.")
        if self.is_closing:
            raise RefusedError(503, "The server is closing.", kind="server_error", headers={"Retry-After": "5"})
        if self.key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self.key.encode()):
            what = "is not that of this server" if given else "is missing"
            raise RefusedError(
                401,
                f"The API key {what}: send it as the header Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _models(self, request: Request) -> Response:
        return ASCIIResponse({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return ASCIIResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {"id": self.service.name, "object": "model", "created": self.service.created, "owned_by": "seedfast"}

    def _check_model(self, name: str) -> None:
        if name != self.service.name:
            raise RefusedError(
                404,
                f"There is no model called {name!r:.80}: this server has {self.service.name}.",
                param="model",
                code="model_not_found",
            )

    async def _health(self, request: Request) -> Response:
        engine = self.service.engine
        state = {"model": self.service.name, "running": engine.running, "waiting": engine.waiting}
        status = "closing" if self.is_closing else "ok"
        return ASCIIResponse({"status": status, **state}, 503 if self.is_closing else 200)

    async def _metrics(self, request: Request) -> Response:
        self.metrics.running.set(self.service.engine.running)
        self.metrics.waiting.set(self.service.engine.waiting)
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4")

    async def _completions(self, request: Request) -> Response:
        def planned(body: Mapping[str, Any]) -> tuple[Asked, Callable[[int], Plan]]:
            asked = requests.completion(body, self.service.options)
            self._check_model(asked.model)
            return asked, lambda seed: self.service.completion(asked, seed)

        return await self.answering.answer(request, await self._body(request), planned, Answer)

    async def _chat(self, request: Request) -> Response:
        def planned(body: Mapping[str, Any]) -> tuple[Asked, Callable[[int], Plan]]:
            asked = requests.chat(body, self.service.options)
            self._check_model(asked.model)
            return asked, lambda seed: self.service.chat(asked, seed)

        return await self.answering.answer(request, await self._body(request), planned, ChatAnswer)

    async def _body(self, request: Request) -> bytes:
        """The body of a request. Raises RefusedError for another type, or more bytes than the limit."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # another type is what a page of a stranger could send without asking
            raise RefusedError(
                400, "The body must be JSON: send it with the header Content-Type: application/json (curl: -H)."
            )
        limit, body, size = self.service.limits.body, bytearray(), 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limit:
                    body += chunk
                elif size > 4 * limit:
                    break  # so far a client is read to the end, so that it finds the answer
        except ClientDisconnect:
            raise RefusedError(400, "The client left before the end of its body.") from None
        if size > limit:
            raise RefusedError(413, f"The body is larger than {limit >> 20} MiB, the limit of this server.")
        return bytes(body)


def host_name(host: str) -> str:
    """The name or address in a Host header, in small letters, without the port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower()


async def _on_error(request: Request, error: Exception) -> Response:
    """An error with a status, in the shape that clients read."""
    assert isinstance(error, HTTPException)
    if isinstance(error, RefusedError):
        return ASCIIResponse(error.body, error.status_code, headers=error.headers)
    sentence = {
        404: f"There is no {request.scope['path']!r:.80} here: there are {_PATHS}.",
        405: f"{request.scope['path']} does not take {request.method}.",
    }.get(error.status_code, str(error.detail))
    return ASCIIResponse(answers.error(sentence), error.status_code, headers=error.headers)


async def _on_failure(request: Request, error: Exception) -> Response:
    """A mistake of this program, which the log has."""
    return ASCIIResponse(answers.error("The server has failed; its log says why.", kind="server_error"), 500)
