"""Artifacts in and out: offered, sent in pieces that can be resumed, read by range.

People may send and read all; a worker what the attempts that it holds name (`store/access.py`).
"""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from starlette.concurrency import run_in_threadpool

from api import attemptlogs, files
from api.auth import ADMIN, READER, SENDER, Caller
from api.context import Context, Ctx
from jsm_queue import artifacts, lifecycle
from jsm_queue.errors import ForbiddenError, NotFoundError
from jsm_queue.kinds import Sha
from jsm_queue.protocol import LARGEST, ArtifactOffer, ArtifactState
from jsm_queue.store import access, leftovers
from jsm_queue.store.database import reading, writing

UNTOUCHED_S = 86_400.0  # an upload that no study used after this long was given up
LOGS_S = 30 * 86_400.0  # the log of an attempt is kept for so long after its end

router = APIRouter(tags=["artifacts"])

Sender = Annotated[Caller, Depends(SENDER)]
Reader = Annotated[Caller, Depends(READER)]


@router.post("/artifacts")
def offer(ctx: Ctx, sender: Sender, request: ArtifactOffer) -> ArtifactState:
    """Is this file here? If not, from which byte on is it missing?

    A worker hears that a file is here only if it sent it before or a job of its attempts names it.
    """
    had = sender.worker is None or _may_send(ctx, sender.worker, request.sha, request.size)
    return ctx.uploads.offer(request.sha, request.size, ctx.now(), sender.worker or "", had)


@router.post("/artifacts/collect", dependencies=[Depends(ADMIN)])
def collect(ctx: Ctx, dry_run: bool = False) -> dict[str, Any]:
    """Remove the files that no job and no study refers to and that nobody touched for a day; or list them.

    Also uploads that broke off a day ago (`uploads`), logs of attempts that ended 30 days ago (`logs`), and what is
    believed of workers' caches for files that are gone (`places`).
    """
    before = ctx.now() - UNTOUCHED_S
    with reading(ctx.engine) as session:
        found = {artifact.sha: artifact.size for artifact in leftovers.unreferenced(session, before)}
        places = leftovers.stale_places(session)
    logs = _old_logs(ctx)
    broken = len(ctx.uploads.abandoned(before)) if dry_run else ctx.uploads.drop_abandoned(before)
    removed = [] if dry_run else ctx.uploads.collect(before, ctx.now())
    if not dry_run:
        for log in logs:
            log.unlink(missing_ok=True)
        with writing(ctx.engine) as session:
            places = lifecycle.forget_places(session)
    return {
        "found": len(found),
        "bytes": sum(found.values()),
        "removed": len(removed),
        "artifacts": sorted(found),
        "uploads": broken,
        "logs": len(logs),
        "places": places,
    }


@router.patch("/artifacts/{sha}")
async def receive(
    ctx: Ctx,
    sender: Sender,
    sha: Sha,
    request: Request,
    upload_offset: Annotated[int, Header(ge=0, le=LARGEST)],
    upload_length: Annotated[int, Header(ge=0, le=LARGEST)],
) -> ArtifactState:
    """Send the file's bytes from Upload-Offset on; Upload-Length is the whole file's size."""
    worker = sender.worker or ""
    if worker:
        await run_in_threadpool(_may_send, ctx, worker, sha, upload_length)
    have = await ctx.uploads.receive(sha, upload_length, upload_offset, request.stream(), worker)
    if have == upload_length:
        await run_in_threadpool(ctx.uploads.finish, sha, upload_length, ctx.now(), worker)
    return ArtifactState(have=have == upload_length, offset=have)


@router.get("/artifacts/{sha}")
def read(ctx: Ctx, reader: Reader, sha: Sha, request: Request) -> Response:
    """The file, whole or by Range. To a worker what it may not have is not there."""
    if reader.worker is not None:
        with reading(ctx.engine) as session:
            if not access.may_read(session, reader.worker, sha):
                raise NotFoundError(f"No artifact {sha}", "No attempt that this worker holds names it")
    return files.ranged(request, artifacts.find(ctx.artifacts, sha), "application/octet-stream")


def _may_send(ctx: Context, worker: str, sha: str, size: int) -> bool:
    """Whether the worker may know if this file is here. Raises ForbiddenError where it may send none of that size now.

    What it sent and nobody used within a day counts, and what it is sending: an attempt cannot fill the api's disk.
    """
    limits = ctx.settings
    with reading(ctx.engine) as session:
        attempts = len(access.held(session, worker))
        waiting = access.unused(session, worker, ctx.now() - UNTOUCHED_S)
        had = access.may_read(session, worker, sha)
    if not attempts:
        raise ForbiddenError("This worker holds no attempt, so it has nothing to send", "Drop the file")
    waiting |= ctx.uploads.begun(worker)
    waiting[sha] = size
    files, most = attempts * limits.attempt_files, attempts * limits.attempt_bytes
    if len(waiting) > files or sum(waiting.values()) > most:
        raise ForbiddenError(
            f"This worker's {attempts} attempts may send {files} files and {most} bytes within a day before a result "
            f"names them: this would be {len(waiting)} and {sum(waiting.values())}",
            "Raise JSM_ATTEMPT_FILES or JSM_ATTEMPT_BYTES where the api runs",
        )
    return had


def _old_logs(ctx: Context) -> list[Path]:
    found = {path.stem: path for path in attemptlogs.folder(ctx.settings.home).glob("*.log")}
    with reading(ctx.engine) as session:
        old = leftovers.ended_before(session, found.keys(), ctx.now() - LOGS_S)
    return [found[attempt] for attempt in sorted(old)]
