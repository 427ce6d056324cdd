"""Delivery: a thread that brings results and ends to the api, however long that is away. Once each."""

import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jsm_queue import logs
from jsm_queue.crashpoints import within
from jsm_queue.errors import AuthError, ConflictError, GoneError, JsmError, ModelError, RequestError
from jsm_queue.kinds import ROLE_FILES
from jsm_queue.protocol import MAX_RESULT, ArtifactIn, EndRequest, ResultReply
from workers import threads
from workers.board import Board
from workers.cache import Cache
from workers.client import Client, Stopped, Unreachable, pauses
from workers.outbox import Outbox
from workers.runner import RESULT
from workers.threads import OnGone

logger = logging.getLogger(__name__)

LEAVE_S = 2.0  # for the ends that are still due when the agent leaves; longer they do not hold up its exit


@dataclass
class Due:
    """Something to bring: an attempt's end, or with None the result that is in the outbox."""

    attempt: str
    end: EndRequest | None
    noted: bool = False  # that it has to wait
    about: dict[str, str] = field(default_factory=logs.context)  # what is logged of it


class Delivery:
    """Ends wait in memory (an agent that dies loses its attempts anyway), results in the outbox.

    What cannot be brought now goes behind the others and is tried again, for ever: only a 409, and a 4xx to
    what no api could take (400, 413, 422), are the api's last word on a result or an end.
    """

    def __init__(self, client: Client, outbox: Outbox, board: Board, cache: Cache, on_gone: OnGone) -> None:
        self._client = client
        self._outbox = outbox
        self._board = board
        self._cache = cache
        self._on_gone = on_gone
        self._due: queue.SimpleQueue[Due | None] = queue.SimpleQueue()  # None: nothing more comes
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Deliver what an earlier session finished, then what comes, until the agent leaves."""
        for attempt in self._outbox.attempts():
            self.result(attempt)
        self._thread = threads.start("delivery", self._loop, self._on_gone)

    def result(self, attempt: str) -> None:
        """The attempt's result is in the outbox."""
        self._board.delivering(attempt)
        self._due.put(Due(attempt, None))

    def end(self, attempt: str, request: EndRequest) -> None:
        """The attempt ended without a result."""
        self._due.put(Due(attempt, request))

    def leave(self) -> None:
        """Tell the ends that are still due, one try each. Results stay in the outbox for the next session."""
        self._due.put(None)
        if self._thread:
            self._thread.join(LEAVE_S)

    def _loop(self) -> None:
        waits = pauses()
        while (due := self._due.get()) is not None:
            if due.end is None and self._board.leaving.is_set():
                continue
            with logs.about(**due.about | {"attempt": due.attempt}):
                waits = self._try(due, waits)

    def _try(self, due: Due, waits: Iterator[float]) -> Iterator[float]:
        """Returns the waits before the next tries."""
        try:
            self._bring(due)
            return pauses()
        except (GoneError, AuthError):
            raise
        except (Unreachable, Stopped, JsmError, OSError) as error:
            if not self._board.leaving.is_set():
                self._postpone(due, error)
                self._board.leaving.wait(next(waits))
            return waits

    def _postpone(self, due: Due, why: Exception) -> None:
        if not due.noted:
            logger.warning("delivery waits (%s); trying on", why)
            due.noted = True
        self._due.put(due)

    def _bring(self, due: Due) -> None:
        end = due.end or self._deliver(due.attempt)
        if end is not None:
            self._tell_end(due.attempt, end)
        self._outbox.drop(due.attempt)
        self._board.forget(due.attempt)

    def _deliver(self, attempt: str) -> EndRequest | None:
        """None when the api took the result, else the end of an attempt whose result it refused or the disk lost.

        Raises Unreachable, JsmError and OSError for what may pass.
        """
        folder = self._outbox.root / attempt
        try:
            self._outbox.put(attempt)
            result = self._outbox.read(attempt)
            for artifact in result.artifacts:
                with within(artifact.sha):
                    self._client.upload(folder / ROLE_FILES[artifact.role], artifact, self._board.leaving)
        except (ModelError, ValueError, FileNotFoundError) as error:
            logger.warning("the result is damaged: %s", error)
            return _crashed(f"the result was damaged on the worker's disk: {error}")
        size = (folder / RESULT).stat().st_size
        if size > MAX_RESULT:  # not sent: an api that is sent so much may close the connection before it answers
            return _final(f"the result is too large: {size} bytes of records, at most {MAX_RESULT}")
        try:
            reply = self._client.post(f"/v1/attempts/{attempt}/result", result, ResultReply)
        except ConflictError as error:
            # Mostly another attempt was faster, and the end that we send is refused too. Only where this attempt is
            # still the job's own the job hears why its result could not be taken, and is tried again.
            logger.warning("result refused: %s", error)
            return _crashed(f"the result was refused: {error}")
        except RequestError as error:  # the same bytes would be refused again, by every api
            logger.warning("result refused: %s", error)
            return _final(f"the api cannot take the result: {error}")
        logger.info("result delivered, accepted=%s", reply.accepted)
        self._keep(folder, result.artifacts)
        return None

    def _tell_end(self, attempt: str, end: EndRequest) -> None:
        """Where the api cannot take the words, the reason is told without them."""
        for told in (_plain(end), EndRequest(reason=end.reason, message="the api refused this worker's words")):
            try:
                self._client.tell(f"/v1/attempts/{attempt}/end", told)
                return logger.info("ended (%s)", end.reason)
            except ConflictError as error:
                return logger.info("dropped: %s", error.message)
            except RequestError as error:
                logger.warning("end refused: %s", error)

    def _keep(self, folder: Path, artifacts: list[ArtifactIn]) -> None:
        """The files of a delivered result stay in the cache: the next job may need them here."""
        for artifact in artifacts:
            try:
                self._cache.adopt(folder / ROLE_FILES[artifact.role], artifact.sha)
            except OSError as error:
                logger.warning("artifact %s is not kept: %s", artifact.sha, error)


def _crashed(why: str) -> EndRequest:
    return EndRequest(reason="crashed", message=why[:4000])


def _final(why: str) -> EndRequest:
    return EndRequest(reason="error", message=why[:4000])


def _plain(end: EndRequest) -> EndRequest:
    """Without NULs, which a library may print and no store holds."""
    texts = {name: getattr(end, name).replace("\0", "\ufffd") for name in ("message", "log_tail")}
    return end.model_copy(update=texts)
