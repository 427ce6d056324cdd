"""Content-addressed files of the api: visible only whole and verified; a broken upload resumes or vanishes.

<root>/<first two digits>/<sha256>      whole
<root>/partial/<sha256>                 being uploaded
"""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from sqlalchemy import Engine

from jsm_queue.crashpoints import reach
from jsm_queue.errors import ConflictError, NotFoundError
from jsm_queue.store.database import insert_or_ignore, writing
from jsm_queue.store.tables import Artifact


def path_of(root: Path, sha: str) -> Path:
    """Where a whole artifact lies. `sha` must have been validated as 64 hexadecimal digits."""
    return root / sha[:2] / sha


def find(root: Path, sha: str) -> Path:
    """The file of a whole artifact. Raises NotFoundError."""
    path = path_of(root, sha)
    if not path.is_file():
        raise NotFoundError(f"No artifact {sha}", "It was never uploaded, or it was collected")
    return path


def offset(root: Path, sha: str) -> int:
    """How many bytes of a broken upload are there."""
    partial = root / "partial" / sha
    return partial.stat().st_size if partial.exists() else 0


async def receive(root: Path, sha: str, size: int, start: int, chunks: AsyncIterator[bytes]) -> int:
    """Append to a partial file from byte `start`. Returns its size.

    Raises ConflictError when `start` is not its size, or when more than `size` bytes come.
    """
    partial = root / "partial" / sha
    partial.parent.mkdir(parents=True, exist_ok=True)
    have = offset(root, sha)
    if start != have:
        raise ConflictError(
            f"Artifact {sha}: {have} bytes are here, the upload starts at {start}", "Ask for the offset again"
        )
    with partial.open("ab") as file:
        async for chunk in chunks:
            have += len(chunk)
            if have > size:
                file.close()
                partial.unlink()
                raise ConflictError(f"Artifact {sha}: more than its {size} bytes were sent", "Upload it again")
            file.write(chunk)
    return have


def finish(engine: Engine, root: Path, sha: str, size: int, now: float) -> None:
    """Verify a complete upload, make it visible, then known. Raises ConflictError when its hash is another."""
    partial, whole = root / "partial" / sha, path_of(root, sha)
    if partial.exists():
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha:
            partial.unlink()
            raise ConflictError(f"Artifact {sha}: what arrived has sha256 {found}", "Upload it again")
        whole.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(whole)
        reach("artifact_renamed")
    with writing(engine) as session:
        insert_or_ignore(session, Artifact(sha=sha, size=size, created_at=now))
