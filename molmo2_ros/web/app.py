"""The web application: the page, the interface for programs, and the stream of what is new."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse

from molmo2_ros.errors import Molmo2Error, QueryError
from molmo2_ros.web.access import Access, Limits
from molmo2_ros.web.api import make_router
from molmo2_ros.web.backend import Backend
from molmo2_ros.web.files import PageFile, read_page
from molmo2_ros.web.hub import Hub
from molmo2_ros.web.stream import serve_viewer

_ABOUT = """\
Ask a robot's cameras in plain language, and correct what is answered. `/api/stream` is a WebSocket
(docs/web.md): scenes, answers and states as they come. Off loopback every request needs the token
that the server printed at its start: `Authorization: Bearer TOKEN`.
"""


def make_app(
    hub: Hub, backend: Backend, *, token: str = "", limits: Limits | None = None
) -> Access:
    """All that is served.

    Args:
        hub: what is known, and who looks.
        backend: who is asked.
        token: needed for every request; "" for none, and then loopback alone is served.
        limits: of size and rate for each address.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        hub.open()
        yield
        hub.close()

    app = FastAPI(
        title="molmo2_ros",
        version="1",
        description=_ABOUT,
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,  # they would fetch scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(make_router(hub, backend))
    app.add_exception_handler(Molmo2Error, _problem)
    pages = read_page()

    @app.websocket("/api/stream")
    async def stream(socket: WebSocket) -> None:
        await serve_viewer(socket, hub)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return _file(pages["index.html"], request)

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str, request: Request) -> Response:
        found = pages.get(name)
        return Response(status_code=404) if found is None else _file(found, request)

    return Access(app, token=token, limits=limits or Limits())


def _file(file: PageFile, request: Request) -> Response:
    headers = {"ETag": file.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    content = file.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content = file.compressed
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=file.kind, headers=headers)


async def _problem(_: Request, error: Exception) -> JSONResponse:
    """What the caller did wrong, in the error's own words."""
    status = 422 if isinstance(error, QueryError) else 409
    return JSONResponse({"detail": str(error)}, status)
