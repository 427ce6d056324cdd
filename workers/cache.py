"""Files of this worker by their content, fetched once, and the input folder of an attempt built of them.

    <root>/<first two digits>/<sha256>   whole and verified
    <root>/partial/<sha256>              being fetched; an interrupted one goes on where it was
    <root>/hub/<repository>@<commit>/    a base model of the hub; `.complete` in it is written last

The oldest unused go when the cache takes more than its limit. What an attempt has in its folder is in use: it has a
second hard link there. Room is reserved before anything is fetched, so that two attempts do not both count on it.
"""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from jsm_queue import hub, processes
from jsm_queue.canonical import file_hash
from jsm_queue.errors import ModelError
from jsm_queue.files import publish
from jsm_queue.kinds import BaseRef
from jsm_queue.lru import Entry, evictions, room
from jsm_queue.protocol import InputFile
from workers.client import Client, Stopped, Unreachable

TRIES = 3  # downloads of a file whose bytes turn out to be others
LOOK_S = 0.2  # between two looks at a hub download
HOLDS = 4096  # artifacts that a hello names


class Reservation:
    """Bytes of the disk that something still to be fetched will take. `arrived` ones are on it already."""

    def __init__(self, needed: int) -> None:
        self.left = needed

    def arrived(self, count: int) -> None:
        """So many of them are on the disk now."""
        self.left = max(0, self.left - count)


class Cache:
    """The cache of one worker. Safe to use from several threads; two never fetch the same file at once.

    `limit` in bytes, 0: half of the space that it could have. `hub`: environment of what fetches from the hub.
    """

    def __init__(self, root: Path, client: Client, limit: int = 0, hub: Mapping[str, str] | None = None) -> None:
        self.root = root
        self._client = client
        self._limit, self._hub = limit, hub
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._room = threading.Lock()  # guards the two below and what is removed
        self._reserved: list[Reservation] = []
        self._pinned: Counter[Path] = Counter()

    def build(self, inputs: Sequence[InputFile], folder: Path, stop: threading.Event) -> None:
        """Fetch what is missing and lay it into `folder` under the names that the kinds expect.

        Raises Unreachable (what arrived is kept), Stopped, NotFoundError, ModelError, OSError when the disk
        is full or would be: then nothing was fetched.
        """
        with self._pin(path for file in inputs for path in (self.path_of(file.sha), self._partial(file.sha))):
            missing = {file.sha: self._missing(file) for file in inputs}
            with self.reserve(sum(missing.values())) as reserved:
                for file in inputs:
                    whole = self.fetch(file.sha, file.size, stop, reserved)
                    _link(whole, folder / file.folder / file.name)

    def _missing(self, file: InputFile) -> int:
        """Bytes."""
        if _has_size(self.path_of(file.sha), file.size):
            return 0
        return max(0, file.size - _size(self._partial(file.sha)))

    def _partial(self, sha: str) -> Path:
        return self.root / "partial" / sha

    def path_of(self, sha: str) -> Path:
        """Where a whole file lies or would lie."""
        return self.root / sha[:2] / sha

    def fetch(self, sha: str, size: int, stop: threading.Event, reserved: Reservation | None = None) -> Path:
        """The whole, verified file. Raises as `build` does."""
        whole = self.path_of(sha)
        with self._locks[sha]:
            for _ in range(TRIES):
                if _has_size(whole, size):
                    os.utime(whole)
                    return whole
                self._download(sha, size, stop, reserved or Reservation(0))
        raise ModelError(
            f"Artifact {sha} arrived with another content {TRIES} times",
            "Check the network and the api's disk",
        )

    def _download(self, sha: str, size: int, stop: threading.Event, reserved: Reservation) -> None:
        partial = self._partial(sha)
        partial.parent.mkdir(parents=True, exist_ok=True)
        have = partial.stat().st_size if partial.exists() else 0
        if have < size:
            with partial.open("ab") as file:
                for piece in self._client.download(sha, have):
                    if stop.is_set():
                        raise Stopped
                    file.write(piece)
                    reserved.arrived(len(piece))
        self.adopt(partial, sha)

    def adopt(self, file: Path, sha: str) -> bool:
        """Move a file into the cache if its content is `sha`'s, else remove it. Returns which."""
        right = file_hash(file) == sha
        if right:
            publish(file, self.path_of(sha))
        else:
            file.unlink()
        return right

    def holds(self) -> list[str]:
        """The artifacts that lie here whole, at most HOLDS, those used last."""
        newest_first = sorted(self._files(), key=lambda entry: entry.used_at, reverse=True)
        return [entry.path.name for entry in newest_first[:HOLDS]]

    # ---- bases of the hub ----

    def build_hub_base(self, base: BaseRef, folder: Path, log: Path, stop: threading.Event) -> None:
        """Lay the files of a hub repository at a commit into `folder`.

        Raises Unreachable, Stopped, ModelError when the hub refuses, OSError when the disk would be full.
        """
        repo, commit = base.repo or "", base.revision or ""
        if not (hub.is_repository(repo) and hub.COMMIT.fullmatch(commit)):
            raise ModelError(f"{repo!r} at {commit!r} is no repository of a hub at a commit", "Submit the study again")
        snapshot = self.root / "hub" / f"{repo.replace('/', '--')}@{commit}"
        with self._pin([snapshot]), self._locks[str(snapshot)]:
            if not (snapshot / ".complete").exists():
                needed = int(self._ask_hub(repo, commit, snapshot, log, stop, "--missing"))
                with self.reserve(needed):
                    self._ask_hub(repo, commit, snapshot, log, stop)
            os.utime(snapshot / ".complete")
            for file in snapshot.iterdir():
                if file.is_file() and not file.name.startswith("."):
                    _link(file, folder / file.name)

    def _ask_hub(self, repo: str, commit: str, folder: Path, log: Path, stop: threading.Event, *options: str) -> str:
        """In a process of its own, because a download of hours must end when nobody wants it any more.

        Returns what it printed.
        """
        command = [sys.executable, "-m", "workers.hub", repo, commit, str(folder), *options]
        process = processes.spawn(command, log, self._hub, stdout=subprocess.PIPE)
        while process.poll() is None:
            if stop.wait(LOOK_S):
                processes.kill_tree(process.pid)
                raise Stopped
        assert process.stdout is not None
        with process.stdout as output:
            printed = output.read().decode()
        if process.returncode == 0:
            return printed
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = lines[-1] if lines else "it said nothing"
        if process.returncode == REFUSED:
            raise ModelError(
                f"{repo} at {commit} cannot be had from the hub: {said}", "Check its name and your access to it"
            )
        raise Unreachable(f"the download of {repo} broke off: {said}")

    # ---- room ----

    @contextlib.contextmanager
    def reserve(self, needed: int) -> Iterator[Reservation]:
        """Room for `needed` bytes beside what others reserved, until the block is left. Removes what was unused the
        longest for it. Raises OSError (ENOSPC) at once where the disk has not so much.
        """
        reservation = Reservation(needed)
        with self._room:
            others = sum(each.left for each in self._reserved)
            self._evict(needed + others)
            free = shutil.disk_usage(self.root).free
            if needed and free < needed + others:
                raise OSError(
                    errno.ENOSPC,
                    f"{needed} bytes are needed and other attempts still take {others}, of {free} that are free",
                    str(self.root),
                )
            self._reserved.append(reservation)
        try:
            yield reservation
        finally:
            with self._room:
                self._reserved.remove(reservation)

    def make_room(self, needed: int) -> None:
        """Remove what was unused the longest until `needed` more bytes fit the cache's limit."""
        with self._room:
            self._evict(needed)

    def _evict(self, needed: int) -> None:
        entries = list(self._entries())
        held = sum(entry.size for entry in entries)
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        limit = min(room(held, free, self._limit), held + free) - needed
        for path in evictions(entries, limit):
            with contextlib.suppress(OSError):  # Windows: another program reads it
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def _pin(self, paths: Iterable[Path]) -> Iterator[None]:
        """None of these is removed meanwhile."""
        pinned = list(paths)
        with self._room:
            self._pinned.update(pinned)
        try:
            yield
        finally:
            with self._room:
                self._pinned.subtract(pinned)

    def _entries(self) -> Iterator[Entry]:
        yield from self._files()
        yield from self._files("partial/*")
        for folder in self.root.glob("hub/*"):
            with contextlib.suppress(FileNotFoundError):
                stats = [file.stat() for file in folder.rglob("*") if file.is_file()]
                marker = folder / ".complete"
                used_at = (marker if marker.exists() else folder).stat().st_mtime
                in_use = self._pinned[folder] > 0 or any(stat.st_nlink > 1 for stat in stats)
                yield Entry(folder, sum(stat.st_size for stat in stats), used_at, in_use)

    def _files(self, pattern: str = "[0-9a-f][0-9a-f]/*") -> Iterator[Entry]:
        for file in self.root.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                stat = file.stat()
                in_use = self._pinned[file] > 0 or stat.st_nlink > 1
                yield Entry(file, stat.st_size, stat.st_mtime, in_use)


REFUSED = 2
"""Exit code of `workers.hub` when trying again would not help."""


def _has_size(file: Path, size: int) -> bool:
    """Whether a file is there whole; a disk that failed may have left less of it."""
    try:
        return file.stat().st_size == size
    except FileNotFoundError:
        return False


def _size(file: Path) -> int:
    """In bytes; 0 where no file is."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file systems differ or know none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # of a try that an outage ended
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
