"""The model hub through the api, as `huggingface_hub` asks one: HF_ENDPOINT is `<api>/v1/hub`, the token the worker's.

No open proxy: a worker gets the repositories, at the commits, that the jobs of its attempts name, and of those only the
files that a safetensors model needs.
"""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Send

from api.auth import WORKER, Caller
from api.context import Context, Ctx
from api.hubcache import BrokeOff, Fetch
from api.requests import error_response
from jsm_queue import hub
from jsm_queue.errors import HubRefusedError, JsmError, NotFoundError, RequestError
from jsm_queue.store import access
from jsm_queue.store.database import reading

router = APIRouter(tags=["hub"])

Asker = Annotated[Caller, Depends(WORKER)]
RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")


@router.get("/hub/api/models/{repo:path}/tree/{commit}")
def list_tree(ctx: Ctx, asker: Asker, repo: str, commit: str) -> Response:
    """The files of a repository at a commit that workers may have, as a hub lists them."""
    try:
        files = _files(ctx, asker, repo, commit)
    except JsmError as error:
        return _told(error)
    return JSONResponse([hub.as_hub_lists(file) for file in files.values()])


@router.get("/hub/api/models/{repo:path}/revision/{commit}")
def show_revision(ctx: Ctx, asker: Asker, repo: str, commit: str) -> Response:
    """The same, in the form that older clients ask for."""
    try:
        files = _files(ctx, asker, repo, commit)
    except JsmError as error:
        return _told(error)
    return JSONResponse({"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]})


@router.head("/hub/{repo:path}/resolve/{commit}/{name}", include_in_schema=False)
@router.get("/hub/{repo:path}/resolve/{commit}/{name}")
def resolve(ctx: Ctx, asker: Asker, request: Request, repo: str, commit: str, name: str) -> Response:
    """One file, whole or by Range, while it still comes from outside too. HEAD tells its size and hash, and fetches
    nothing.
    """
    try:
        file = _files(ctx, asker, repo, commit).get(name)
        if file is None:
            raise NotFoundError(f"{repo} at {commit} has no {name} that workers may have", "Check the base's files")
        start, end = _range(request.headers.get("range"), file.size)
        headers = {
            "ETag": f'"{file.etag}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Length": str(end - start),
        }
        if (start, end) != (0, file.size):
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        status = 206 if "Content-Range" in headers else 200
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        fetch = ctx.hub.fetch(repo, commit, name)
    except JsmError as error:
        return _told(error)
    return Coming(ctx, fetch, start, end, status, headers)


def _files(ctx: Context, asker: Caller, repo: str, commit: str) -> dict[str, hub.HubFile]:
    """Raises NotFoundError for what is no repository, and for what this worker may not have."""
    asked = hub.is_repository(repo) and hub.COMMIT.fullmatch(commit) is not None
    with reading(ctx.engine) as session:
        if not asked or not access.may_fetch_base(session, asker.worker or "", repo, commit):
            raise NotFoundError("No attempt that this worker holds names this model", "Drop it")
    return ctx.hub.files(repo, commit)


def _range(header: str | None, size: int) -> tuple[int, int]:
    """(first byte, byte after the last one). Raises RequestError for a range that the file does not have."""
    found = RANGE.fullmatch(header or "bytes=0-")
    if found is None:
        return 0, size
    start, end = int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)
    if start >= end and (start, end) != (0, 0):
        raise RequestError(f"The file has {size} bytes, no byte {start}")
    return start, end


def _told(error: JsmError) -> JSONResponse:
    """In our one shape, and as the hub's client understands it."""
    codes: dict[type[JsmError], str] = {NotFoundError: "RepoNotFound", HubRefusedError: "GatedRepo"}
    plain = " ".join(str(error).split()).encode("ascii", "replace").decode()
    code = codes.get(type(error))
    return error_response(error, {"X-Error-Message": plain} | ({"X-Error-Code": code} if code else {}))


class Coming(StreamingResponse):
    """A file as it comes. Where it comes no further the connection ends before the length that was told."""

    def __init__(self, ctx: Context, fetch: Fetch, start: int, end: int, status: int, headers: dict[str, Any]) -> None:
        super().__init__(ctx.hub.read(fetch, start, end), status, headers, media_type="application/octet-stream")

    async def stream_response(self, send: Send) -> None:
        """Sends the head, then every piece."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for piece in self.body_iterator:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except BrokeOff:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
