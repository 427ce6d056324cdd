"""A file as an answer, whole or by Range."""

import re
from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import FileResponse

from api.requests import error_response
from jsm_queue.errors import RangeError, RequestError

PART = re.compile(r"([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18})")
SHOWN = 60  # characters of a wrong header that are repeated


def ranged(request: Request, path: Path, media_type: str, filename: str | None = None) -> Response:
    """The file, or the part of it that the request's Range names. Raises RequestError for what is no range."""
    size = path.stat().st_size
    try:
        check_range(request.headers.get("range"), size)
    except RangeError as error:
        return error_response(error, {"Content-Range": f"bytes */{size}"})
    return FileResponse(path, media_type=media_type, filename=filename)


def check_range(header: str | None, size: int) -> None:
    """What FileResponse would refuse in a shape of its own.

    Raises RequestError for what is no range of bytes, RangeError for one behind the file's `size`.
    """
    if header is None:
        return
    unit, _, parts = header.partition("=")
    for part in parts.split(","):
        found = PART.fullmatch(part.strip())
        if unit.strip().lower() != "bytes" or not found or (found[2] and int(found[2]) < int(found[1])):
            fix = "Send bytes=FIRST-LAST, bytes=FIRST- or bytes=-LENGTH, or no Range"
            raise RequestError(f"The Range {header[:SHOWN]!r} is none", fix)
        if (int(found[1]) if found[1] else size - int(found[3])) >= size:
            raise RangeError(f"The file has {size} bytes, and the Range {header[:SHOWN]!r} begins behind them")
