"""Files of this worker by their content, fetched once, and the input folder of an attempt built of them.

    <root>/<first two digits>/<sha256>   whole and verified
    <root>/partial/<sha256>              being fetched; an interrupted one goes on where it was
    <root>/hub/<repository>@<commit>/    a base model of the hub; `.complete` in it is written last

The oldest unused go when the cache takes more than half of the disk space that it could have.
"""

import contextlib
import os
import shutil
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jsm_queue import processes
from jsm_queue.canonical import file_hash
from jsm_queue.errors import ModelError
from jsm_queue.files import publish
from jsm_queue.kinds import BaseRef
from jsm_queue.protocol import InputFile
from workers.client import Client, Stopped, Unreachable

SHARE = 0.5  # of the space that is free or the cache's
TRIES = 3  # downloads of a file whose bytes turn out to be others
LOOK_S = 0.2  # between two looks at a hub download


@dataclass(frozen=True)
class Entry:
    """Something that can be removed: a file or a folder, its size in bytes, when it was last used."""

    path: Path
    size: int
    used_at: float


def evictions(entries: Iterable[Entry], limit: int) -> list[Path]:
    """What to remove, the longest unused first, so that the rest takes at most `limit` bytes."""
    oldest = sorted(entries, key=lambda entry: (entry.used_at, entry.path))
    excess = sum(entry.size for entry in oldest) - limit
    removed: list[Path] = []
    for entry in oldest:
        if excess <= 0:
            break
        removed.append(entry.path)
        excess -= entry.size
    return removed


class Cache:
    """The cache of one worker. Safe to use from several threads; two never fetch the same file at once."""

    def __init__(self, root: Path, client: Client) -> None:
        self.root = root
        self._client = client
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def build(self, inputs: Sequence[InputFile], folder: Path, stop: threading.Event) -> None:
        """Fetch what is missing and lay it into `folder` under the names that the kinds expect.

        Raises Unreachable (what arrived is kept), Stopped, NotFoundError, ModelError, OSError when the disk
        is full.
        """
        self.make_room(sum(file.size for file in inputs if not _has_size(self.path_of(file.sha), file.size)))
        for file in inputs:
            _link(self.fetch(file.sha, file.size, stop), folder / file.folder / file.name)

    def path_of(self, sha: str) -> Path:
        """Where a whole file lies or would lie."""
        return self.root / sha[:2] / sha

    def fetch(self, sha: str, size: int, stop: threading.Event) -> Path:
        """The whole, verified file. Raises as `build` does."""
        whole = self.path_of(sha)
        with self._locks[sha]:
            for _ in range(TRIES):
                if _has_size(whole, size):
                    os.utime(whole)
                    return whole
                self._download(sha, size, stop)
        raise ModelError(
            f"Artifact {sha} arrived with another content {TRIES} times",
            "Check the network and the api's disk",
        )

    def _download(self, sha: str, size: int, stop: threading.Event) -> None:
        partial = self.root / "partial" / sha
        partial.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
        if have < size:
            with partial.open("ab") as file:
                for piece in self._client.download(sha, have):
                    if stop.is_set():
                        raise Stopped
                    file.write(piece)
        self.adopt(partial, sha)

    def adopt(self, file: Path, sha: str) -> bool:
        """Move a file into the cache if its content is `sha`'s, else remove it. Returns which."""
        right = file_hash(file) == sha
        if right:
            publish(file, self.path_of(sha))
        else:
            file.unlink()
        return right

    # ---- bases of the hub ----

    def build_hub_base(self, base: BaseRef, folder: Path, log: Path, stop: threading.Event) -> None:
        """Lay the files of a hub repository at a commit into `folder`.

        Raises Unreachable, Stopped, and ModelError when the hub refuses.
        """
        snapshot = self.root / "hub" / f"{(base.repo or '').replace('/', '--')}@{base.revision}"
        with self._locks[str(snapshot)]:
            if not (snapshot / ".complete").exists():
                _download_snapshot(base, snapshot, log, stop)
            os.utime(snapshot / ".complete")
        for file in snapshot.iterdir():
            if file.is_file() and not file.name.startswith("."):
                _link(file, folder / file.name)

    # ---- room ----

    def make_room(self, needed: int) -> None:
        """Remove what was unused the longest until `needed` more bytes fit the cache's share of the disk."""
        entries = list(self._entries())
        held = sum(entry.size for entry in entries)
        self.root.mkdir(parents=True, exist_ok=True)
        limit = int((held + shutil.disk_usage(self.root).free) * SHARE) - needed
        for path in evictions(entries, limit):
            with contextlib.suppress(OSError):  # another slot may be linking it
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _entries(self) -> Iterable[Entry]:
        for file in self.root.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(FileNotFoundError):
                yield Entry(file, file.stat().st_size, file.stat().st_mtime)
        for marker in self.root.glob("hub/*/.complete"):
            size = sum(file.stat().st_size for file in marker.parent.rglob("*") if file.is_file())
            yield Entry(marker.parent, size, marker.stat().st_mtime)


def _download_snapshot(base: BaseRef, snapshot: Path, log: Path, stop: threading.Event) -> None:
    """In a process of its own, because a download of hours must end when nobody wants it any more."""
    command = [sys.executable, "-m", "workers.hub", str(base.repo), str(base.revision), str(snapshot)]
    process = processes.spawn(command, log)
    while process.poll() is None:
        if stop.wait(LOOK_S):
            processes.kill_tree(process.pid)
            raise Stopped
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = lines[-1] if lines else "it said nothing"
    if process.returncode == REFUSED:
        raise ModelError(
            f"{base.repo} at {base.revision} cannot be had from the hub: {said}",
            "Check its name and your access to it",
        )
    if process.returncode != 0:
        raise Unreachable(f"the download of {base.repo} broke off: {said}")


REFUSED = 2
"""Exit code of `workers.hub` when trying again would not help."""


def _has_size(file: Path, size: int) -> bool:
    """Whether a file is there whole; a disk that failed may have left less of it."""
    try:
        return file.stat().st_size == size
    except FileNotFoundError:
        return False


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file systems differ or know none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # of a try that an outage ended
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
