"""Artifacts in and out: offered, sent in pieces that can be resumed, read by range."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from api.auth import require_admin, require_admin_or_worker
from api.context import Ctx
from jsm_queue import artifacts
from jsm_queue.kinds import Sha
from jsm_queue.protocol import ArtifactOffer, ArtifactState
from jsm_queue.store import queries
from jsm_queue.store.database import reading

UNTOUCHED_S = 86_400.0  # an upload that no study used after this long was given up

router = APIRouter(tags=["artifacts"], dependencies=[Depends(require_admin_or_worker)])


@router.post("/artifacts")
def offer(ctx: Ctx, request: ArtifactOffer) -> ArtifactState:
    """Is this file here? If not, from which byte on is it missing?"""
    return ctx.uploads.offer(request.sha, request.size, ctx.now())


@router.post("/artifacts/collect", dependencies=[Depends(require_admin)])
def collect(ctx: Ctx, dry_run: bool = False) -> dict[str, Any]:
    """Remove the files that no job and no study refers to and that nobody touched for a day; or list them."""
    before = ctx.now() - UNTOUCHED_S
    with reading(ctx.engine) as session:
        found = {artifact.sha: artifact.size for artifact in queries.unreferenced(session, before)}
    removed = [] if dry_run else ctx.uploads.collect(before, ctx.now())
    return {"found": len(found), "bytes": sum(found.values()), "removed": len(removed), "artifacts": sorted(found)}


@router.patch("/artifacts/{sha}")
async def receive(
    ctx: Ctx,
    sha: Sha,
    request: Request,
    upload_offset: Annotated[int, Header(ge=0)],
    upload_length: Annotated[int, Header(ge=0)],
) -> ArtifactState:
    """Send the file's bytes from Upload-Offset on; Upload-Length is the whole file's size."""
    have = await ctx.uploads.receive(sha, upload_length, upload_offset, request.stream())
    if have == upload_length:
        await run_in_threadpool(ctx.uploads.finish, sha, upload_length, ctx.now())
    return ArtifactState(have=have == upload_length, offset=have)


@router.get("/artifacts/{sha}")
def read(ctx: Ctx, sha: Sha) -> FileResponse:
    """The file, whole or by Range."""
    return FileResponse(artifacts.find(ctx.artifacts, sha), media_type="application/octet-stream")
