"""Content-addressed files of the api: visible only whole and verified; a broken upload resumes or vanishes.

<root>/<first two digits>/<sha256>      whole
<root>/partial/<sha256>                 being uploaded by people
<root>/partial/<sha256>.<worker>        being uploaded by a worker: none can write into what another sends
"""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

from sqlalchemy import Engine

from jsm_queue import lifecycle
from jsm_queue.canonical import file_hash
from jsm_queue.crashpoints import around, within
from jsm_queue.errors import ConflictError, NotFoundError
from jsm_queue.files import publish
from jsm_queue.protocol import ArtifactState
from jsm_queue.store import access
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
    """The uploads of the one process that serves the api. `worker`: whose upload it is; "" for people.

    A worker has to send what it says it has, also where the api has that file already: else it could find out which
    files there are, and name others' as its own.

    A file has one writer at a time, the newest upload that goes on at the right byte; an older one that still sends is
    refused. The other way round, a connection that died unnoticed would keep the file from ever arriving. While a file
    is verified it has no writer.
    """

    def __init__(self, engine: Engine, root: Path) -> None:
        self.root = root
        self._engine = engine
        # Guards the three below and every change of a partial file. The event loop takes it too: hold it for moments.
        self._changed = threading.Condition()
        # By a partial file's name, which is the hash alone where people send it.
        self._writers: dict[str, FileIO] = {}
        self._verifying: set[str] = set()
        self._sizes: dict[str, int] = {}

    def offer(self, sha: str, size: int, now: float, worker: str = "", had: bool = True) -> ArtifactState:
        """How many bytes of a file are here, and whether they are the whole file, verified and known.

        `had`: whoever asks may know whether the whole file is here.
        """
        # A crash after the last byte or the rename leaves a file that the store does not know yet.
        if (had and _size(path_of(self.root, sha)) == size) or self._complete(sha, size, worker):
            with suppress(ConflictError):  # what is here is not that file: it is to be sent
                self.finish(sha, size, now, worker, had)
                return ArtifactState(have=True, offset=size)
        return ArtifactState(have=False, offset=self.offset(sha, size, worker))

    def _complete(self, sha: str, size: int, worker: str) -> bool:
        return self.offset(sha, size, worker) == size and self._partial(_name(sha, worker)).exists()

    def offset(self, sha: str, size: int, worker: str = "") -> int:
        """How many bytes of a broken upload are here; more than `size` are dropped. Waits while they are verified."""
        name = _name(sha, worker)
        with self._changed:
            self._changed.wait_for(lambda: name not in self._verifying)
            return self._have(name, size)

    def begun(self, worker: str) -> dict[str, int]:
        """sha → bytes that this worker's unfinished uploads take or will take."""
        with self._changed:
            partials = {path.name: _size(path) or 0 for path in (self.root / "partial").glob(f"*.{worker}")}
            return {name.partition(".")[0]: max(size, self._sizes.get(name, 0)) for name, size in partials.items()}

    async def receive(self, sha: str, size: int, start: int, chunks: AsyncIterator[bytes], worker: str = "") -> int:
        """Append to a partial file from byte `start`. Returns its size.

        Raises ConflictError when `start` is not its size, when more than `size` bytes come, while it is verified, and
        when a newer upload of it began.
        """
        name = _name(sha, worker)
        file, have = self._begin(name, size, start), start
        try:
            async for chunk in chunks:
                have += len(chunk)
                self._append(name, file, chunk, fits=have <= size)
        finally:
            with self._changed:
                if self._writers.get(name) is file:
                    self._stop_writer(name)
        return have

    def finish(self, sha: str, size: int, now: float, worker: str = "", had: bool = False) -> None:
        """Verify a complete upload, make it visible, then known, and that this worker sent it.

        Raises ConflictError when what is here is not `size` bytes of that hash, and when a worker that may not know
        (`had`) has sent nothing.
        """
        name = _name(sha, worker)
        partial, whole = self._partial(name), path_of(self.root, sha)
        with ExitStack() as alone:
            alone.enter_context(self._alone(name))
            proven = bool(worker) and partial.exists()
            if worker and not proven and not had:
                self._require_sent(sha, worker)
            if proven:
                _verify(partial, sha, size)
                alone.enter_context(self._alone(sha))  # nobody publishes or removes it beside us
            if not self._is_whole(sha, size):
                if not proven:
                    _verify(partial, sha, size)
                publish(partial, whole)
            with within(sha), writing(self._engine) as session:
                lifecycle.know(session, sha, size, now, worker if proven else "")
            partial.unlink(missing_ok=True)  # it was sent although it is here
            self._sizes.pop(name, None)

    def _require_sent(self, sha: str, worker: str) -> None:
        """Another request of this worker may have finished it meanwhile. Raises ConflictError."""
        with reading(self._engine) as session:
            if not access.sent(session, worker, sha):
                raise ConflictError(f"Artifact {sha}: nothing of it is here", ASK_AGAIN)

    def collect(self, before: float, now: float) -> list[str]:
        """Remove the files that nobody refers to and nobody touched since `before`. Returns their hashes.

        A file that is sent again meanwhile stays: it is not doomed any more.
        """
        with writing(self._engine) as session:
            doomed = lifecycle.doom(session, before, now)
        return [sha for sha in doomed if self._remove(sha)]

    def discard(self, sha: str, now: float) -> bool:
        """Remove a file that was a checkpoint, at once, unless somebody refers to it. Returns whether it went.

        What a crash left doomed goes with it.
        """
        with writing(self._engine) as session:
            doomed = lifecycle.doom(session, now + 1, now, only=sha)
        return sha in [each for each in doomed if self._remove(each)]

    def abandoned(self, before: float) -> list[Path]:
        """The uploads that broke off and that nobody went on with since `before`."""
        with self._changed:
            found = [path for path in (self.root / "partial").glob("*") if path.stat().st_mtime < before]
            return [path for path in found if path.name not in self._writers.keys() | self._verifying]

    def drop_abandoned(self, before: float) -> int:
        """Removes them. Returns how many."""
        with self._changed:
            for path in (found := self.abandoned(before)):
                path.unlink(missing_ok=True)
        return len(found)

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

    def _partial(self, name: str) -> Path:
        return self.root / "partial" / name

    def _begin(self, name: str, size: int, start: int) -> FileIO:
        sha = name.partition(".")[0]
        with self._changed:
            if name in self._verifying:
                raise ConflictError(f"Artifact {sha}: its bytes are being verified", ASK_AGAIN)
            have = self._have(name, size)
            if start != have:
                raise ConflictError(f"Artifact {sha}: {have} bytes are here, the upload starts at {start}", ASK_AGAIN)
            self._stop_writer(name)
            self._partial(name).parent.mkdir(parents=True, exist_ok=True)
            self._writers[name] = self._partial(name).open("ab", buffering=0)
            self._sizes[name] = size
            return self._writers[name]

    def _append(self, name: str, file: FileIO, chunk: bytes, fits: bool) -> None:
        sha = name.partition(".")[0]
        with self._changed:
            if self._writers.get(name) is not file:
                raise ConflictError(f"Artifact {sha}: a newer upload of it began", ASK_AGAIN)
            if not fits:
                self._drop(name)
                raise ConflictError(f"Artifact {sha}: more than its size was sent", SEND_AGAIN)
            rest = memoryview(chunk)
            with around("append", sha):
                while rest:
                    rest = rest[file.write(rest) :]

    def _have(self, name: str, size: int) -> int:
        have = _size(self._partial(name)) or 0
        if have > size:
            self._drop(name)
            return 0
        return have

    def _drop(self, name: str) -> None:
        self._stop_writer(name)
        self._partial(name).unlink(missing_ok=True)

    def _stop_writer(self, name: str) -> None:
        file = self._writers.pop(name, None)
        if file:
            file.close()  # Windows renames and removes no file that is open

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Nobody else writes or verifies this file. Waits while another call verifies it."""
        with self._changed:
            self._changed.wait_for(lambda: name not in self._verifying)
            self._verifying.add(name)
            self._stop_writer(name)
        try:
            yield
        finally:
            with self._changed:
                self._verifying.remove(name)
                self._changed.notify_all()

    def _is_whole(self, sha: str, size: int) -> bool:
        whole = path_of(self.root, sha)
        if _size(whole) != size:
            return False
        with reading(self._engine) as session:
            known = session.get(Artifact, sha)
        return (known is not None and known.state == "whole") or file_hash(whole) == sha


def _name(sha: str, worker: str) -> str:
    """A partial file's; a worker's id is hexadecimal digits and dashes."""
    return f"{sha}.{worker}" if worker else sha


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
