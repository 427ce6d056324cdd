"""The FastAPI application: its routes, its one error shape, its coordinator thread."""

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.context import Context
from api.routes import artifacts, jobs, studies, worker, workers
from jsm_queue import __version__, broker, coordinator
from jsm_queue.artifacts import Uploads
from jsm_queue.errors import JsmError
from jsm_queue.settings import Settings
from jsm_queue.store.database import open_store

logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """The api with its coordinator, on the store and broker of the settings."""
    engine = open_store(settings.store_url)
    ctx = Context(engine, settings, Uploads(engine, settings.home / "artifacts"))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        thread = start_coordinator(ctx)
        yield
        ctx.stop.set()
        ctx.wake.set()
        thread.join(timeout=10)

    app = FastAPI(title="jsm-queue", version=__version__, lifespan=lifespan)
    app.state.context = ctx
    for routes in (studies, jobs, workers, worker, artifacts):
        app.include_router(routes.router, prefix="/v1")
    app.add_api_route("/healthz", health, tags=["health"])
    app.add_exception_handler(JsmError, _jsm_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.add_exception_handler(Exception, _bug)
    return app


def health() -> dict[str, str]:
    """Is the api up? Needs no token."""
    return {"status": "ok", "version": __version__}


def start_coordinator(ctx: Context) -> threading.Thread:
    """The coordinator's loop in a thread of this process."""
    app = broker.sender(ctx.settings.broker_url or "")

    def ring(worker_id: str, kind: str, bell: coordinator.Bell) -> None:
        broker.ring(app, worker_id, kind, bell)

    thread = threading.Thread(
        target=coordinator.loop,
        args=(ctx.engine, ctx.settings, ring, ctx.wake, ctx.stop),
        name="coordinator",
        daemon=True,
    )
    thread.start()
    return thread


def error_body(code: str, message: str, fix: str = "") -> dict[str, dict[str, str]]:
    """The one JSON shape of every error."""
    return {"error": {"code": code, "message": message, "fix": fix}}


async def _jsm_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, JsmError)
    return JSONResponse(error_body(error.code, error.message, error.fix), status_code=error.status)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    places = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:10])
    return JSONResponse(error_body("invalid", f"The request is not valid: {places}", "See /docs"), status_code=422)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body("http", str(error.detail), "See /docs"), status_code=error.status_code)


async def _client_left(request: Request, _error: Exception) -> JSONResponse:
    logger.info("%s %s broke off", request.method, request.url.path)
    return JSONResponse(error_body("disconnected", "The request broke off", "Send it again"), status_code=400)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse(error_body("internal", "The api failed on this request", "See the api's log"), status_code=500)
