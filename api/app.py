"""The FastAPI application: its routes, its one error shape, its coordinator thread."""

import errno
import logging
import os
import re
import threading
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from api import brokerusers, hubcache
from api.context import Context
from api.requests import CheckedRequests, error_response
from api.routes import artifacts, hub, jobs, join, logs, studies, tokens, worker, workers
from jsm_queue import __version__, broker, coordinator, tls
from jsm_queue import logs as log_lines
from jsm_queue.artifacts import Uploads
from jsm_queue.errors import (
    DisconnectedError,
    InternalError,
    JsmError,
    MethodError,
    NotFoundError,
    RequestError,
    StoreAwayError,
)
from jsm_queue.protocol import STORE_AWAY, Bell
from jsm_queue.settings import Settings
from jsm_queue.store.database import open_store

logger = logging.getLogger(__name__)

SEE_DOCS = "See /docs"


def create_app(settings: Settings) -> FastAPI:
    """The api with its coordinator, on the store and broker of the settings."""
    engine = open_store(settings.store_url)
    models = hubcache.from_environment(settings.home / "hub", settings.hub_cache_bytes, dict(os.environ))
    ctx = Context(engine, settings, Uploads(engine, settings.home / "artifacts"), models)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        brokerusers.start(ctx)
        thread = start_coordinator(ctx)
        yield
        ctx.stop.set()
        ctx.wake.set()
        thread.join(timeout=10)

    app = FastAPI(title="jsm-queue", version=__version__, lifespan=lifespan, redirect_slashes=False)
    app.state.context = ctx
    app.add_middleware(CheckedRequests)
    app.add_middleware(tell_what_it_is_about)
    app.add_middleware(tell_of_the_store, ctx.store_away)
    for routes in (studies, jobs, logs, workers, worker, artifacts, join, tokens, hub):
        app.include_router(routes.router, prefix="/v1")
    app.include_router(join.scripts)
    app.add_api_route("/healthz", health, tags=["health"])
    app.add_exception_handler(JsmError, _jsm_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_left)
    for unstorable in (DataError, OverflowError, UnicodeEncodeError):
        app.add_exception_handler(unstorable, _unstorable)
    for away in (OperationalError, InterfaceError):
        app.add_exception_handler(away, _store_away)
    app.add_exception_handler(OSError, _disk)
    app.add_exception_handler(Exception, _bug)
    return app


def tell_what_it_is_about(app: ASGIApp) -> ASGIApp:
    """What is logged while a request is answered names the study, job, attempt or run of its path."""
    words = {"studies": "study", "jobs": "job", "attempts": "attempt", "runs": "run"}

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        named = re.match(r"/v1/(studies|jobs|attempts|runs)/([0-9a-f-]{6,64})(?:/|$)", scope.get("path", ""))
        if named:
            log_lines.tell_about(**{words[named[1]]: named[2]})
        await app(scope, receive, send)

    return answer


def tell_of_the_store(app: ASGIApp, store_away: threading.Event) -> ASGIApp:
    """While the store cannot be written, what is read of it is old: every answer's header says so."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def told(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and store_away.is_set():
                MutableHeaders(scope=message)[STORE_AWAY] = "1"
            await send(message)

        await app(scope, receive, told)

    return answer


def health() -> dict[str, str]:
    """Is the api up? Needs no token."""
    return {"status": "ok", "version": __version__}


def start_coordinator(ctx: Context) -> threading.Thread:
    """The coordinator's loop in a thread of this process."""
    app = broker.sender(ctx.settings.broker_url or "", tls.read_ca(ctx.settings.broker_ca))

    def ring(worker_id: str, kind: str, bell: Bell) -> None:
        broker.ring(app, worker_id, kind, bell)

    thread = threading.Thread(
        target=coordinator.loop,
        args=(ctx.engine, ctx.settings, ring, ctx.wake, ctx.stop, ctx.store_away),
        name="coordinator",
        daemon=True,
    )
    thread.start()
    return thread


async def _jsm_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, JsmError)
    return error_response(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    places = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:10])
    return error_response(RequestError(f"The request is not valid: {places}"))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    if error.status_code == NotFoundError.status:
        return error_response(NotFoundError(f"{where}: there is no such path", SEE_DOCS), error.headers)
    if error.status_code == MethodError.status:
        return error_response(MethodError(f"{where}: the path has not this method"), {"Allow": _allowed(request)})
    return error_response(RequestError(f"{where}: {error.detail}"), error.headers)


def _allowed(request: Request) -> str:
    """Every method of the path, which several routes may share. Of each only the first is asked otherwise."""
    routes, methods = request.app.routes, ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
    asked = {method: {**request.scope, "method": method} for method in methods}
    return ", ".join(name for name in asked if any(r.matches(asked[name])[0] == Match.FULL for r in routes))


async def _unstorable(request: Request, error: Exception) -> JSONResponse:
    """A value that passed every check and that the store cannot hold. Nothing of the request was written."""
    logger.warning("%s %s: the store refused a value: %s", request.method, request.url.path, error)
    return error_response(RequestError("The request holds a value that the store cannot hold"))


async def _store_away(request: Request, error: Exception) -> JSONResponse:
    """The database is away, stands still or is full: whoever asked may ask again, and a worker does."""
    assert isinstance(error, DBAPIError)
    logger.error("%s %s: the store cannot be used: %s", request.method, request.url.path, error.orig)
    return error_response(StoreAwayError("The store cannot be used now"))


async def _disk(request: Request, error: Exception) -> JSONResponse:
    """What a full disk stopped goes on where it was once there is room; any other trouble with a file is a bug."""
    assert isinstance(error, OSError)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return await _bug(request, error)
    logger.error("%s %s: the disk is full: %s", request.method, request.url.path, error)
    return error_response(StoreAwayError("The api's disk is full", "Make room on it; what was sent so far is kept"))


async def _client_left(request: Request, _error: Exception) -> JSONResponse:
    logger.info("%s %s broke off", request.method, request.url.path)
    return error_response(DisconnectedError("The request broke off"))


async def _bug(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(InternalError("The api failed on this request"))
