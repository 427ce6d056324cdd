"""Content-addressed files of the api: visible only whole and verified; a broken upload resumes or vanishes.

<root>/<first two digits>/<sha256>      whole
<root>/partial/<sha256>                 being uploaded
"""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from sqlalchemy import Engine

from jsm_queue import lifecycle
from jsm_queue.canonical import file_hash
from jsm_queue.crashpoints import around, within
from jsm_queue.errors import ConflictError, NotFoundError
from jsm_queue.files import publish
from jsm_queue.protocol import ArtifactState
from jsm_queue.store.database import reading, writing
from jsm_queue.store.tables import Artifact

ASK_AGAIN = "Ask for the offset again"
SEND_AGAIN = "Upload it again"


def path_of(root: Path, sha: str) -> Path:
    """Where a whole artifact lies. `sha` must have been validated as 64 hexadecimal digits."""
    return root / sha[:2] / sha


def find(root: Path, sha: str) -> Path:
    """The file of a whole artifact. Raises NotFoundError."""
    path = path_of(root, sha)
    if not path.is_file():
        raise NotFoundError(f"No artifact {sha}", "It was never uploaded, or it was collected")
    return path


class Uploads:
    """The uploads of the one process that serves the api.

    A file has one writer at a time, the newest upload that goes on at the right byte; an older one that still sends is
    refused. The other way round, a connection that died unnoticed would keep the file from ever arriving. While a file
    is verified it has no writer.
    """

    def __init__(self, engine: Engine, root: Path) -> None:
        self.root = root
        self._engine = engine
        # Guards the two below and every change of a partial file. The event loop takes it too: hold it for moments.
        self._changed = threading.Condition()
        self._writers: dict[str, FileIO] = {}
        self._verifying: set[str] = set()

    def offer(self, sha: str, size: int, now: float) -> ArtifactState:
        """How many bytes of a file are here, and whether they are the whole file, verified and known."""
        # A crash after the last byte or the rename leaves a file that the store does not know yet.
        if _size(path_of(self.root, sha)) == size or self.offset(sha, size) == size:
            with suppress(ConflictError):  # what is here is not that file: it is to be sent
                self.finish(sha, size, now)
                return ArtifactState(have=True, offset=size)
        return ArtifactState(have=False, offset=self.offset(sha, size))

    def offset(self, sha: str, size: int) -> int:
        """How many bytes of a broken upload are here; more than `size` are dropped. Waits while they are verified."""
        with self._changed:
            self._changed.wait_for(lambda: sha not in self._verifying)
            return self._have(sha, size)

    async def receive(self, sha: str, size: int, start: int, chunks: AsyncIterator[bytes]) -> int:
        """Append to a partial file from byte `start`. Returns its size.

        Raises ConflictError when `start` is not its size, when more than `size` bytes come, while it is verified, and
        when a newer upload of it began.
        """
        file, have = self._begin(sha, size, start), start
        try:
            async for chunk in chunks:
                have += len(chunk)
                self._append(sha, file, chunk, fits=have <= size)
        finally:
            with self._changed:
                if self._writers.get(sha) is file:
                    self._stop_writer(sha)
        return have

    def finish(self, sha: str, size: int, now: float) -> None:
        """Verify a complete upload, make it visible, then known.

        Raises ConflictError when what is here is not `size` bytes of that hash.
        """
        partial, whole = self._partial(sha), path_of(self.root, sha)
        with self._alone(sha):
            if not self._is_whole(sha, size):
                _verify(partial, sha, size)
                publish(partial, whole)
            with within(sha), writing(self._engine) as session:
                lifecycle.know(session, sha, size, now)
            partial.unlink(missing_ok=True)  # it was sent although it is here

    def collect(self, before: float, now: float) -> list[str]:
        """Remove the files that nobody refers to and nobody touched since `before`. Returns their hashes.

        A file that is sent again meanwhile stays: it is not doomed any more.
        """
        with writing(self._engine) as session:
            doomed = lifecycle.doom(session, before, now)
        return [sha for sha in doomed if self._remove(sha)]

    def _remove(self, sha: str) -> bool:
        with self._alone(sha):
            with reading(self._engine) as session:
                row = session.get(Artifact, sha)
            if row is None or row.state != "doomed":
                return False
            path_of(self.root, sha).unlink(missing_ok=True)
            with writing(self._engine) as session:
                lifecycle.forget(session, sha)
        return True

    def _partial(self, sha: str) -> Path:
        return self.root / "partial" / sha

    def _begin(self, sha: str, size: int, start: int) -> FileIO:
        with self._changed:
            if sha in self._verifying:
                raise ConflictError(f"Artifact {sha}: its bytes are being verified", ASK_AGAIN)
            have = self._have(sha, size)
            if start != have:
                raise ConflictError(f"Artifact {sha}: {have} bytes are here, the upload starts at {start}", ASK_AGAIN)
            self._stop_writer(sha)
            self._partial(sha).parent.mkdir(parents=True, exist_ok=True)
            self._writers[sha] = self._partial(sha).open("ab", buffering=0)
            return self._writers[sha]

    def _append(self, sha: str, file: FileIO, chunk: bytes, fits: bool) -> None:
        with self._changed:
            if self._writers.get(sha) is not file:
                raise ConflictError(f"Artifact {sha}: a newer upload of it began", ASK_AGAIN)
            if not fits:
                self._drop(sha)
                raise ConflictError(f"Artifact {sha}: more than its size was sent", SEND_AGAIN)
            rest = memoryview(chunk)
            with around("append", sha):
                while rest:
                    rest = rest[file.write(rest) :]

    def _have(self, sha: str, size: int) -> int:
        have = _size(self._partial(sha)) or 0
        if have > size:
            self._drop(sha)
            return 0
        return have

    def _drop(self, sha: str) -> None:
        self._stop_writer(sha)
        self._partial(sha).unlink(missing_ok=True)

    def _stop_writer(self, sha: str) -> None:
        file = self._writers.pop(sha, None)
        if file:
            file.close()  # Windows renames and removes no file that is open

    @contextmanager
    def _alone(self, sha: str) -> Iterator[None]:
        """Nobody else writes or verifies this file. Waits while another call verifies it."""
        with self._changed:
            self._changed.wait_for(lambda: sha not in self._verifying)
            self._verifying.add(sha)
            self._stop_writer(sha)
        try:
            yield
        finally:
            with self._changed:
                self._verifying.remove(sha)
                self._changed.notify_all()

    def _is_whole(self, sha: str, size: int) -> bool:
        whole = path_of(self.root, sha)
        if _size(whole) != size:
            return False
        with reading(self._engine) as session:
            known = session.get(Artifact, sha)
        return (known is not None and known.state == "whole") or file_hash(whole) == sha


def _size(path: Path) -> int | None:
    """In bytes; None where no file is."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _verify(partial: Path, sha: str, size: int) -> None:
    """Raises ConflictError; a partial file of that size and another hash is removed then."""
    have = _size(partial)
    if have != size:
        raise ConflictError(f"Artifact {sha}: {have or 0} of its {size} bytes are here", ASK_AGAIN)
    found = file_hash(partial)
    if found != sha:
        partial.unlink()
        raise ConflictError(f"Artifact {sha}: what arrived has sha256 {found}", SEND_AGAIN)
