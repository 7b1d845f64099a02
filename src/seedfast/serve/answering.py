"""From a request that is understood to its answer: the texts are written, and sent as one body or as a stream."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from seedfast.errors import UserError
from seedfast.serve import answers
from seedfast.serve.answers import Answer
from seedfast.serve.body import parsed
from seedfast.serve.engine import CancelledRowError, FullError
from seedfast.serve.events import Delta, Ended, Event, Plan, UnableError
from seedfast.serve.json_response import ASCIIResponse
from seedfast.serve.metrics import Metrics
from seedfast.serve.requests import Asked, Chat, param_of_many
from seedfast.serve.service import Service, drawn_seed
from seedfast.serve.writing import Writing

Planned = Callable[[Mapping[str, Any]], tuple[Asked, Callable[[int], Plan]]]
"""A body → what it asks for, and its plan under a seed."""
_LONG = 1 << 16
"""Bytes of a body from which its prompt takes long to be read as tokens."""


class RefusedError(HTTPException):
    """A request that gets an error for an answer. body: in the shape that clients read."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.body = answers.error(message, kind=kind, param=param, code=code)


def refusal(error: BaseException, status: int) -> RefusedError:
    """The answer to a mistake of the client, or to the end of the server. Raises any other error again.

    status: of a mistake, unless it is a request that this model cannot do.
    """
    if isinstance(error, CancelledRowError):
        return RefusedError(503, "The server is closing.", kind="server_error", headers={"Retry-After": "5"})
    if isinstance(error, UserError):
        return RefusedError(422 if isinstance(error, UnableError) else status, str(error), param=error.option)
    raise error


class Answering:
    """Answers requests with the texts that a service writes."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service, self._metrics = service, metrics
        self._seconds = 1.0
        """What a request takes, averaged over the last ones."""

    async def answer(self, request: Request, body: bytes, planned: Planned, kind: type[Answer]) -> Response:
        """The answer to a body. kind: of the answer. Raises RefusedError."""
        try:
            asked, plan_of = planned(parsed(body))
            seed = drawn_seed() if asked.seed is None else asked.seed
            # Images and long prompts take a while; other requests are answered meanwhile.
            is_long = asked.images if isinstance(asked, Chat) else len(body) > _LONG
            plan = await asyncio.to_thread(plan_of, seed) if is_long else plan_of(seed)
        except UserError as error:
            raise refusal(error, 400) from None
        answer = kind(
            id=f"{kind.prefix}-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=asked.model,
            fingerprint=self._service.fingerprint,
            seed=seed,
            prompt_tokens=plan.prompt_tokens,
            choices=plan.choices,
            include_usage=asked.include_usage,
        )
        writing = self._begin(plan, asked)
        events = self._counted(writing, answer)
        reading = asyncio.ensure_future(_first(events) if asked.stream else _all(events))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise RefusedError(400, "The client has left.")  # which nobody reads
            found = reading.result()
        except (UserError, CancelledRowError) as error:
            raise refusal(error, 422) from None
        finally:
            leaving.cancel()
            if not reading.done() or reading.cancelled() or reading.exception():
                reading.cancel()
                self._ended_early(writing)
        if asked.stream:
            return _Stream(_parts(found, events, answer), lambda: self._ended_early(writing))
        return ASCIIResponse(answer.whole(found))

    def _ended_early(self, writing: Writing) -> None:
        if writing.cancel():
            self._metrics.cancelled.inc()

    def _begin(self, plan: Plan, asked: Asked) -> Writing:
        """The rows of a plan. Raises RefusedError with the time to wait, if too many wait already."""
        engine = self._service.engine
        if plan.choices > engine.room:
            raise RefusedError(
                400,
                f"n times the prompts are {plan.choices} texts; this server holds {engine.room} at once.",
                param=param_of_many(asked.n),
            )
        try:
            return Writing(engine, plan)
        except FullError:
            seconds = max(1, round(self._seconds * (engine.waiting + 1) / engine.slots))
            raise RefusedError(
                429,
                f"{engine.waiting} texts wait already: try again in {seconds} s.",
                kind="rate_limit_error",
                code="queue_full",
                headers={"Retry-After": str(seconds)},
            ) from None

    async def _counted(self, writing: Writing, answer: Answer) -> AsyncIterator[Event | None]:
        """The events of a request, with its times and tokens in the metrics."""
        start, is_first = time.monotonic(), True
        async for event in writing.events():
            if isinstance(event, Delta) and is_first:
                self._metrics.first.observe(time.monotonic() - start)
                is_first = False
            if isinstance(event, Ended):
                answer.ends[event.choice] = event
            yield event
        seconds = time.monotonic() - start
        self._seconds += 0.1 * (seconds - self._seconds)
        self._metrics.seconds.observe(seconds)
        self._metrics.tokens.labels("prompt").inc(answer.prompt_tokens)
        self._metrics.tokens.labels("written").inc(answer.usage["completion_tokens"])


class _Stream(StreamingResponse):
    """A stream of events. at_end: called when it ends, whether the client stays or leaves."""

    def __init__(self, parts: AsyncIterator[bytes], at_end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(parts, media_type="text/event-stream", headers=headers)
        self._at_end = at_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, until it ends or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._at_end()


async def _parts(first: list[Event], events: AsyncIterator[Event | None], answer: Answer) -> AsyncIterator[bytes]:
    """The parts of a stream. An error that comes too late for a status is an event of its own."""
    yield answer.first()
    for event in first:
        yield answer.stream(event)
    try:
        async for later in events:
            yield answers.comment_of("still writing") if later is None else answer.stream(later)
        yield answer.last()
    except (UserError, CancelledRowError) as error:
        yield answers.event_of(refusal(error, 422).body)


async def _first(events: AsyncIterator[Event | None]) -> list[Event]:
    """The first event: an error that comes before it still has a status."""
    async for event in events:
        if event is not None:
            return [event]
    return []


async def _all(events: AsyncIterator[Event | None]) -> list[Event]:
    return [event async for event in events if event is not None]


async def _left(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
