"""What a request may be: its size, and characters and numbers that the store can hold. Checked before any route.

Without this each of them would be a bug of some route, of the store, or of a reader years later.
"""

import asyncio
import json
import math
import re
from collections.abc import Mapping

import pydantic_core
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jsm_queue.errors import DisconnectedError, JsmError, RequestError, TooLargeError
from jsm_queue.protocol import MAX_RESULT

MAX_BODY = 8 * 2**20
"""Bytes of a JSON body. A submitted spec brings chat templates, a heartbeat a few hundred reports."""

SILENCE_S = 30.0
"""How long a client may send nothing in the middle of a body."""

LARGEST_INTEGER = 2**63 - 1
"""What a column holds."""

NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
RESULT = re.compile(r"/v1/attempts/[^/]+/result")
LOG = re.compile(r"/v1/attempts/[^/]+/log")
FILE = re.compile(r"/v1/artifacts/[^/]+")


def error_response(error: JsmError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The one JSON shape of every error."""
    # Of what a client sent half a surrogate pair may come back, which UTF-8 does not know.
    said = {key: _plain(text) for key, text in (("message", error.message), ("fix", error.fix))}
    return JSONResponse({"error": {"code": error.code, **said}}, error.status, headers)


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class CheckedRequests:
    """Middleware that answers what no route could take. The bytes of an artifact pass as they come: they are counted
    and hashed where they are written.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            check_address(scope)
            if not (scope["method"] == "PATCH" and FILE.fullmatch(scope["path"])):
                body = await read_body(scope, receive)
                check_json(body, nul=LOG.fullmatch(scope["path"]) is not None)
                receive = _again(body, receive)
        except JsmError as error:
            return await error_response(error)(scope, receive, send)
        await self._app(scope, receive, send)


def check_address(scope: Scope) -> None:
    """Raises RequestError for a path or query with a NUL, which no store can look for."""
    if "\0" in scope["path"] or b"%00" in scope["query_string"] or b"\0" in scope["query_string"]:
        raise RequestError("The address holds a NUL")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises TooLargeError, whatever its Content-Length says, and DisconnectedError.

    Of a body that is too large as much again is read and thrown away: a client that still sends would see a broken
    connection and no answer. Who announces more than that hears it at once.
    """
    limit = MAX_RESULT if RESULT.fullmatch(scope["path"]) else MAX_BODY
    pieces: list[bytes] = []
    size = 0
    announced = int(dict(scope["headers"]).get(b"content-length", b"0"))
    while max(size, announced) <= 2 * limit:
        try:
            async with asyncio.timeout(SILENCE_S):
                message = await receive()
        except TimeoutError as error:
            raise DisconnectedError(f"Nothing came for {SILENCE_S:.0f} s") from error
        if message["type"] == "http.disconnect":
            raise DisconnectedError("The request broke off")
        piece = message.get("body", b"")
        size += len(piece)
        if size <= limit:
            pieces.append(piece)
        else:
            pieces.clear()
        if not message.get("more_body", False):
            break
    if max(size, announced) > limit:
        raise TooLargeError(f"The request is larger than {limit // 2**20} MiB")
    return b"".join(pieces)


def check_json(body: bytes, nul: bool = False) -> None:
    """Raises RequestError for a body that is no JSON, nests deeply, or holds a value that cannot be kept.

    `nul`: its texts may hold NULs, as they go to a file and not to the store.
    """
    if not body:
        return
    try:
        pydantic_core.from_json(body, allow_inf_nan=False)
        if not nul and b"\\u0000" in body and NUL.search(body):
            raise RequestError("The request holds a NUL in a text")
        json.loads(body, parse_float=_finite, parse_int=_storable)
    except ValueError as error:
        raise RequestError(f"The request is no JSON that can be kept: {error}") from error


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is beyond what a number can be")
    return number


def _storable(text: str) -> int:
    if abs(number := int(text)) > LARGEST_INTEGER:
        raise ValueError(f"{text[:40]} is beyond 64 bits")
    return number


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then what else comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
