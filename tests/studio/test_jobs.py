"""Jobs: one runs and some wait, a client that leaves ends its own, and errors become sentences."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from threading import Event
from typing import Any

import pytest

from seedfast.console import track
from seedfast.errors import UserError
from seedfast.studio.jobs import BusyError, Emit, Jobs


async def lines(stream: AsyncIterator[bytes]) -> list[Any]:
    return [json.loads(line) async for line in stream]


def test_lines_come_in_order_and_the_result_last() -> None:
    def work(emit: Emit) -> dict[str, Any]:
        for number in range(3):
            emit({"number": number})
        return {"result": float("nan")}

    async def main() -> list[Any]:
        return await lines(Jobs().stream(work))

    assert asyncio.run(main()) == [{"number": 0}, {"number": 1}, {"number": 2}, {"result": None}]


def test_a_mistake_is_a_sentence_and_a_failure_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def mistaken(emit: Emit) -> dict[str, Any]:
        raise UserError("steps must be at least 1.")

    def failing(emit: Emit) -> dict[str, Any]:
        raise RuntimeError("secret of the program")

    async def main() -> list[Any]:
        jobs = Jobs()
        return [*await lines(jobs.stream(mistaken)), *await lines(jobs.stream(failing))]

    mistake, failure = asyncio.run(main())
    assert mistake == {"error": "steps must be at least 1."}
    assert "secret" not in failure["error"]
    assert "secret of the program" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (UserError("The best step is unknown.", command="Pass --at newest."), "The best step is unknown."),
        (UserError("--remdm needs --order ancestral."), "remdm needs order ancestral."),
        (UserError("Its files are run with --trust only."), "Its files are run with --trust only."),
    ],
)
def test_an_error_is_worded_for_the_page(error: UserError, shown: str) -> None:
    def mistaken(emit: Emit) -> dict[str, Any]:
        raise error

    async def main() -> list[Any]:
        return await lines(Jobs().stream(mistaken))

    assert asyncio.run(main()) == [{"error": shown}]


def test_too_many_jobs_are_refused_and_a_client_that_leaves_makes_room() -> None:
    ended = Event()

    def endless(emit: Emit) -> dict[str, Any]:
        try:
            while True:
                emit({})
        finally:
            ended.set()

    async def main() -> None:
        jobs = Jobs(waiting=1)
        first = jobs.stream(endless)
        await anext(first)
        second = jobs.stream(lambda emit: {"result": 2})
        with pytest.raises(BusyError, match="2 requests"):
            jobs.stream(endless)
        await first.aclose()  # type: ignore[attr-defined]
        assert await lines(second) == [{"result": 2}]
        assert ended.is_set()
        jobs.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_work_that_emits_nothing_tells_its_progress_and_ends_when_its_client_has_left() -> None:
    ended = Event()

    def silent(emit: Emit) -> dict[str, Any]:
        try:
            for _ in track("Sampling", range(100_000), 100_000):
                time.sleep(0.001)
        finally:
            ended.set()
        return {}

    async def main() -> Any:
        jobs = Jobs()
        stream = jobs.stream(silent)
        first = json.loads(await anext(stream))
        await stream.aclose()  # type: ignore[attr-defined]
        jobs.close()
        return first

    assert 0 < asyncio.run(asyncio.wait_for(main(), 30))["progress"] < 1
    assert ended.is_set()


def test_closing_ends_what_runs_and_what_waits() -> None:
    def endless(emit: Emit) -> dict[str, Any]:
        while True:
            emit({})

    async def main() -> list[Any]:
        jobs = Jobs()
        first = jobs.stream(endless)
        await anext(first)
        jobs.cancel()
        found = await lines(first)
        jobs.close()
        return found

    assert asyncio.run(asyncio.wait_for(main(), 30))[-1] == {"error": "The server is closing."}
