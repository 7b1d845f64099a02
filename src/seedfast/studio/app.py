"""The routes of the studio. They know no tensors: `Runs` reads folders, and `Room` samples."""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from seedfast.errors import UserError
from seedfast.report.animation.page import colours
from seedfast.report.style import CSS
from seedfast.serve.json_response import ASCIIResponse
from seedfast.studio.guard import DOWNLOAD, Guard, body_of
from seedfast.studio.jobs import BusyError, Emit, Jobs
from seedfast.studio.room import Room
from seedfast.studio.runs import Runs, UnknownError

_MOST_RUNS, _MOST_POINTS = 50, 4000
_MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_Work = Callable[[str, Mapping[str, Any], Emit], dict[str, Any]]


class Studio:
    """The page and its data.

    hosts: names, besides those of this machine, under which it may be called. max_body: bytes of a request.
    """

    def __init__(
        self, folders: Sequence[Path], *, hosts: Sequence[str] = (), device: Any = "auto", trust: bool = False,
        max_body: int = 32 << 20,
    ) -> None:  # fmt: skip
        self.runs = Runs(folders)
        self.room = Room(self.runs.path, device=device, trust=trust)
        self.jobs = Jobs()
        self.is_closing = False
        self._hosts, self._max_body = hosts, max_body
        self._static = _static()
        self._born = secrets.token_hex(8)  # versions of curves begin again with each studio, and browsers remember

    def cancel(self) -> None:
        """End what is being sampled."""
        self.jobs.cancel()

    def close(self) -> None:
        """End what is being sampled, and wait for it."""
        self.jobs.close()

    def app(self) -> ASGIApp:
        """The application."""
        routes = [
            Route("/", self._page),
            Route("/static/{name:path}", self._file),
            Route("/api/runs", self._list),
            Route("/api/curves", self._curves),
            Route("/api/settings", self._settings),
            Route("/api/runs/{run}/samples", self._samples),
            Route("/api/runs/{run}/files/{name:path}", self._sample_file),
            Route("/api/runs/{run}/model", self._describe, methods=["POST"]),
            Route("/api/runs/{run}/tokens", self._count, methods=["POST"]),
            Route("/api/runs/{run}/sample", self._job(self.room.sample), methods=["POST"]),
            Route("/api/runs/{run}/chat", self._job(self.room.chat), methods=["POST"]),
            Route("/api/results/{key}/files/{name}", self._result_file),
            Route("/api/results/{key}/animation.{ending}", self._animation),
        ]
        handlers: Any = {
            HTTPException: _on_status,
            UserError: _answer(400),
            UnknownError: _answer(404),
            BusyError: _answer(429),
        }
        return Guard(Starlette(routes=routes, exception_handlers=handlers), self._hosts)

    async def _page(self, request: Request) -> Response:
        return self._content("index.html")

    async def _file(self, request: Request) -> Response:
        return self._content(request.path_params["name"])

    def _content(self, name: str) -> Response:
        if name not in self._static:
            raise UnknownError(f"The page has no file {name!r:.80}.")
        return Response(self._static[name], media_type=_MEDIA[Path(name).suffix])

    async def _list(self, request: Request) -> Response:
        return ASCIIResponse(await run_in_threadpool(self.runs.listed))

    async def _curves(self, request: Request) -> Response:
        runs, name = _runs_of(request), request.query_params.get("name", "")
        shape: dict[str, Any] = {
            "points": int(_number(request, "points", 1000, most=_MOST_POINTS)),
            "smoothing": _number(request, "smoothing", 0, most=1),
            "first": _number(request, "first", 0),
            "last": _number(request, "last", float("inf")),
        }

        def read() -> dict[str, Any]:
            of = {run: self.runs.curves(run) for run in runs}
            names = sorted({name for curves in of.values() for name in curves.names()})
            return {"names": names, "curves": {run: curves.curve(name, **shape) for run, curves in of.items()}}

        def version() -> str:
            return "-".join([self._born, *(str(self.runs.curves(run).refreshed()) for run in runs)])

        tag = f'"{await run_in_threadpool(version)}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return ASCIIResponse(await run_in_threadpool(read), headers={"ETag": tag})

    async def _settings(self, request: Request) -> Response:
        return ASCIIResponse(await run_in_threadpool(self.runs.settings, _runs_of(request)))

    async def _samples(self, request: Request) -> Response:
        return ASCIIResponse(await run_in_threadpool(self.runs.samples, request.path_params["run"]))

    async def _sample_file(self, request: Request) -> Response:
        run, name = request.path_params["run"], request.path_params["name"]
        content, media = await run_in_threadpool(self.runs.file, run, name)
        return Response(content, media_type=media, headers=DOWNLOAD)

    async def _describe(self, request: Request) -> Response:
        await body_of(request, self._max_body)
        run = request.path_params["run"]
        return self._stream(lambda emit: self.room.describe(run))

    async def _count(self, request: Request) -> Response:
        body, run = await body_of(request, self._max_body), request.path_params["run"]
        text = body.get("text")
        if not isinstance(text, str):
            raise UserError("text is missing.")
        return self._stream(lambda emit: {"tokens": self.room.count(run, text)})

    def _job(self, work: _Work) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            body, run = await body_of(request, self._max_body), request.path_params["run"]
            return self._stream(lambda emit: work(run, body, emit))

        return answer

    def _stream(self, work: Callable[[Emit], dict[str, Any]]) -> Response:
        """The lines of a job. Its last one is its result, or an error."""
        if self.is_closing:
            raise BusyError("The studio is closing.")
        return StreamingResponse(self.jobs.stream(work), media_type="application/x-ndjson")

    async def _result_file(self, request: Request) -> Response:
        content, media = self.room.file(request.path_params["key"], request.path_params["name"])
        return Response(content, media_type=media, headers=DOWNLOAD)

    async def _animation(self, request: Request) -> Response:
        makers = {"html": (self.room.html, "text/html; charset=utf-8"), "gif": (self.room.gif, "image/gif")}
        ending = request.path_params["ending"]
        if ending not in makers:
            raise UnknownError(f"There are animations as html and gif, and not as {ending!r:.20}.")
        make, media = makers[ending]
        content = await run_in_threadpool(make, request.path_params["key"])
        saved = {"Content-Disposition": f'attachment; filename="animation.{ending}"', **DOWNLOAD}
        return Response(content, media_type=media, headers=saved)


def _static() -> dict[str, bytes]:
    """The files of the page, by their names in URLs."""
    root = files(__package__).joinpath("static")
    found: dict[str, bytes] = {}
    for folder, prefix in ((root, ""), (root.joinpath("vendor"), "vendor/")):
        for each in folder.iterdir():
            if Path(each.name).suffix in _MEDIA:
                found[prefix + each.name] = each.read_bytes()
    animation = files("seedfast.report.animation")
    found["film.js"] = animation.joinpath("film.js").read_bytes()
    found["film.css"] = (CSS + colours() + animation.joinpath("page.css").read_text("utf-8")).encode()
    return found


def _runs_of(request: Request) -> list[str]:
    runs = list(dict.fromkeys(request.query_params.getlist("run")))
    if len(runs) > _MOST_RUNS:
        raise UserError(f"{len(runs)} runs are too many to compare: choose {_MOST_RUNS} at most.")
    return runs


def _number(request: Request, name: str, otherwise: float, *, most: float = float("inf")) -> float:
    """A number of the query from 0 to `most`. Raises UserError for anything else."""
    given = request.query_params.get(name)
    try:
        value = otherwise if given is None else float(given)
    except ValueError:
        value = -1
    if not 0 <= value <= most:
        raise UserError(f"{name} must be a number from 0 to {most:g}, not {given!r:.40}.")
    return value


def _answer(status: int) -> Any:
    async def answer(request: Request, error: Exception) -> Response:
        return ASCIIResponse({"error": str(error)}, status)

    return answer


async def _on_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return ASCIIResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)
