"""Checkpoints on this machine, and their way to the api: a thread that no training step waits for.

    <home>/checkpoints/<job>/<position>.<charges>.checkpoint     the two newest of a job        (checkpointfolder.py)
    <home>/checkpoints/<job>/sending                             being uploaded, whatever the job drops meanwhile

They outlive this process: the job may come back to this machine. Those of the jobs that were here longest ago go first.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from jsm_queue import logs
from jsm_queue.canonical import file_hash
from jsm_queue.crashpoints import within
from jsm_queue.errors import AuthError, GoneError, JsmError
from jsm_queue.protocol import ArtifactIn, CheckpointFile, CheckpointRequest, EndRequest, Grant, InputFile
from workers import checkpointfolder, threads
from workers.cache import Cache
from workers.checkpointfolder import Checkpoint, list_checkpoints
from workers.client import Client, Stopped, Unreachable, pauses
from workers.threads import OnGone

logger = logging.getLogger(__name__)

SEND_S = 300.0  # between two uploads of a running attempt's checkpoints, or longer where one takes long
SEND_FACTOR = 10  # times as long as the last upload took
GIVE_UP_S = 600.0  # for the last upload of what was released, while the api is away; then another begins without it
LEAVE_S = 10.0  # for the same when the agent leaves
MAX_JOBS = 16  # whose checkpoints are kept
MAX_BYTES = 16 * 2**30  # that they take

Tell = Callable[[str, EndRequest], object]


@dataclass
class Sending:
    """What an attempt has made, and up to where the api has it. `end`: it gives way, and ends once that is told."""

    job: str
    due: float
    newest: Checkpoint | None = None
    made: bool = False
    sent: int = 0
    end: EndRequest | None = None
    given_up: float = 0.0
    waits: float = 0.0
    about: dict[str, str] = field(default_factory=logs.context)

    def is_due(self, now: float) -> bool:
        """Whether something is to be sent or told now."""
        return now >= self.due and (self.end is not None or self.has_news())

    def has_news(self) -> bool:
        """Whether the api lacks the newest."""
        return self.newest is not None and self.newest.position > self.sent


class Checkpoints:
    """The checkpoints of one worker. Safe to use from several threads."""

    def __init__(self, home: Path, client: Client, cache: Cache, end: Tell, on_gone: OnGone) -> None:
        """`end`: what tells the api an attempt's end."""
        self.root = home / "checkpoints"
        self._client, self._cache, self._end, self._on_gone = client, cache, end, on_gone
        self._changed = threading.Condition()
        self._attempts: dict[str, Sending] = {}
        self._leaving = False
        self._hurry = threading.Event()  # breaks off an upload

    def start(self) -> None:
        """Send what is due, until the agent leaves."""
        threads.start("checkpoints", self._loop, self._on_gone)

    # ---- one attempt ----

    def folder(self, job: str) -> Path:
        """Where a job's checkpoints lie."""
        return self.root / job

    def begin(self, grant: Grant, folder: Path, stop: threading.Event) -> Checkpoint | None:
        """The newest from which the attempt can go on: this machine's or the granted one, which is laid into `folder`.

        Raises Unreachable, Stopped and OSError, as the cache does.
        """
        own = self._own(grant)
        granted = grant.checkpoint
        found = own if own and (granted is None or own.position > granted.position) else None
        if found is None and granted is not None:
            found = self._granted(granted, grant.charges, folder, stop)
        with self._changed:
            sent = granted.position if granted else 0
            self._attempts[grant.attempt] = Sending(grant.job, time.monotonic() + SEND_S, found, sent=sent)
            self._changed.notify_all()
            busy = {each.job for each in self._attempts.values()}
        drop_oldest(self.root, busy)
        return found

    def _own(self, grant: Grant) -> Checkpoint | None:
        """The newest of this machine. One that was made before a charge may be what the job was charged for."""
        good = [each for each in list_checkpoints(self.folder(grant.job)) if each.charges == grant.charges]
        checkpointfolder.keep_only(self.folder(grant.job), [each.path for each in good])
        return good[-1] if good else None

    def _granted(self, given: CheckpointFile, charges: int, folder: Path, stop: threading.Event) -> Checkpoint | None:
        file = InputFile(folder="", name="checkpoint", sha=given.sha, size=given.size)
        try:
            self._cache.build([file], folder, stop)
        except JsmError as error:
            if isinstance(error, (GoneError, AuthError)):
                raise
            logger.warning("begins at the start: its checkpoint cannot be had: %s", error)
            return None
        return Checkpoint(given.position, charges, folder / "checkpoint")

    def made(self, attempt: str, position: int, path: Path, charges: int) -> None:
        """The attempt's runner wrote one; it is sent when the next upload is due."""
        with self._changed:
            if each := self._attempts.get(attempt):
                each.newest, each.made = Checkpoint(position, charges, path), True
                self._changed.notify_all()

    def release(self, attempt: str, end: EndRequest) -> None:
        """The attempt gives way: what the api lacks is sent, then the end is told. Returns at once."""
        with self._changed:
            each = self._attempts.get(attempt)
            waits = each is not None and each.has_news()
            if each is not None and waits:
                now = time.monotonic()
                each.end, each.due, each.given_up = end, now, now + GIVE_UP_S
            else:
                self._attempts.pop(attempt, None)
            self._changed.notify_all()
        if not waits:
            self._end(attempt, end)

    def finish(self, attempt: str, reason: str | None) -> None:
        """The attempt ended otherwise; `reason` None: with a result. What nobody goes on from is dropped.

        Where it fell without new progress, the checkpoint that it began from may be the cause.
        """
        with self._changed:
            each = self._attempts.pop(attempt, None)
        if each is None:
            return
        if reason in (None, "cancelled", "error"):
            shutil.rmtree(self.folder(each.job), ignore_errors=True)
        elif reason in ("crashed", "stalled", "oom") and not each.made:
            for newest in list_checkpoints(self.folder(each.job))[-1:]:
                checkpointfolder.drop(newest.path)

    # ---- the thread ----

    def leave(self) -> None:
        """Send what was released, for LEAVE_S at most, and tell its end in any case."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._releases(), LEAVE_S)
            self._hurry.set()
            left = self._releases()
        for attempt in left:
            self._tell(attempt)

    def _releases(self) -> list[str]:
        return [attempt for attempt, each in self._attempts.items() if each.end]

    def _loop(self) -> None:
        while not self._hurry.is_set():
            for attempt, each in self._wait():
                with logs.about(**each.about):
                    self._bring(attempt, each)

    def _wait(self) -> list[tuple[str, Sending]]:
        """The attempts that are due; waits until there is one. What gives way comes first."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [(attempt, each) for attempt, each in self._attempts.items() if each.is_due(now)]
                if due or self._hurry.is_set():
                    return sorted(due, key=lambda item: item[1].end is None)
                later = [each.due for each in self._attempts.values() if each.end or each.has_news()]
                self._changed.wait(min(later) - now if later else None)

    def _bring(self, attempt: str, each: Sending) -> None:
        """One upload, and the end that waited for it."""
        newest, began = each.newest, time.monotonic()
        try:
            if newest and newest.position > each.sent:
                self._send(attempt, each.job, newest)
                each.sent = newest.position
        except (Unreachable, Stopped) as error:
            if not self._postponed(each, error):
                self._tell(attempt)
            return
        except (GoneError, AuthError):
            raise
        except (JsmError, OSError) as error:  # it was replaced, or is not the newest, or nothing is left of the file
            logger.info("the checkpoint at %d is not sent: %s", newest.position if newest else 0, error)
            each.sent = newest.position if newest else 0
        took = time.monotonic() - began
        with self._changed:
            ends = each.end is not None
            again = ends and each.has_news()  # it gave way while an older one was sent
            each.due = time.monotonic() + (0.0 if again else max(SEND_S, SEND_FACTOR * took))
        if ends and not again:
            self._tell(attempt)

    def _postponed(self, each: Sending, why: Exception) -> bool:
        """Whether the upload is to be tried again."""
        now = time.monotonic()
        if each.end is not None and (self._leaving or now >= each.given_up):
            logger.warning("given up without its newest checkpoint (%s)", why)
            return False
        each.waits = min(2 * each.waits, 30.0) or next(pauses())
        each.due = now + each.waits
        return True

    def _send(self, attempt: str, job: str, checkpoint: Checkpoint) -> None:
        file = _hold(checkpoint.path, self.folder(job) / "sending")
        try:
            artifact = ArtifactIn(role="checkpoint", sha=file_hash(file), size=file.stat().st_size)
            with within(artifact.sha):
                self._client.upload(file, artifact, self._hurry)
            request = CheckpointRequest(sha=artifact.sha, position=checkpoint.position)
            self._client.tell(f"/v1/attempts/{attempt}/checkpoint", request)
        finally:
            checkpointfolder.drop(file)
        logger.info("checkpoint at %d: the api has it (%.1f MB)", checkpoint.position, artifact.size / 1e6)

    def _tell(self, attempt: str) -> None:
        with self._changed:
            each = self._attempts.pop(attempt, None)
            self._changed.notify_all()
        if each and each.end:
            self._end(attempt, each.end)


def drop_oldest(root: Path, busy: Collection[str]) -> None:
    """Remove the checkpoints of the jobs that were here longest ago, until the rest is within bounds."""
    folders = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
    newest_first = sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)
    taken = 0
    for count, folder in enumerate(newest_first, 1):
        taken += sum(file.stat().st_size for file in folder.iterdir())
        if (count > MAX_JOBS or taken > MAX_BYTES) and folder.name not in busy:
            shutil.rmtree(folder, ignore_errors=True)


def _hold(file: Path, name: Path) -> Path:
    """The file under another name, so that it stays when the first is removed."""
    checkpointfolder.drop(name)
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)
    return name
