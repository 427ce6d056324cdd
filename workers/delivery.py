"""Delivery: a thread that brings results and ends to the api, however long that is away. Once each."""

import logging
import queue
import threading
from dataclasses import dataclass
from pathlib import Path

from jsm_queue.crashpoints import reach
from jsm_queue.errors import AuthError, ConflictError, GoneError, JsmError, ModelError
from jsm_queue.kinds import ROLE_FILES
from jsm_queue.protocol import ArtifactIn, EndRequest, ResultReply
from workers import threads
from workers.board import Board
from workers.cache import Cache
from workers.client import Client, Stopped, Unreachable, pauses
from workers.outbox import Outbox
from workers.threads import OnGone

logger = logging.getLogger(__name__)

LEAVE_S = 2.0  # for the ends that are still due when the agent leaves; longer they do not hold up its exit


@dataclass
class Due:
    """Something to bring: an attempt's end, or with None the result that is in the outbox."""

    attempt: str
    end: EndRequest | None
    noted: bool = False  # that it has to wait


class Delivery:
    """Ends wait in memory (an agent that dies loses its attempts anyway), results in the outbox.

    What cannot be brought now goes behind the others and is tried again, for ever: only a 409 is the api's last word.
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
            try:
                self._bring(due)
                waits = pauses()
            except (GoneError, AuthError):
                raise
            except (Unreachable, Stopped, JsmError, OSError) as error:
                if not self._board.leaving.is_set():
                    self._postpone(due, error)
                    self._board.leaving.wait(next(waits))

    def _postpone(self, due: Due, why: Exception) -> None:
        if not due.noted:
            logger.warning("attempt %s: delivery waits (%s); trying on", due.attempt, why)
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
                self._client.upload(folder / ROLE_FILES[artifact.role], artifact, self._board.leaving)
        except (ModelError, ValueError, FileNotFoundError) as error:
            logger.warning("attempt %s: its result is damaged: %s", attempt, error)
            return _crashed(f"the result was damaged on the worker's disk: {error}")
        reach("before_result_post")
        try:
            reply = self._client.post(f"/v1/attempts/{attempt}/result", result, ResultReply)
        except ConflictError as error:
            # Mostly another attempt was faster, and the end that we send is refused too. Only where this attempt is
            # still the job's own the job hears why its result could not be taken, and is tried again.
            logger.warning("attempt %s: result refused: %s", attempt, error)
            return _crashed(f"the result was refused: {error}")
        reach("after_result_post")
        logger.info("attempt %s: result delivered, accepted=%s", attempt, reply.accepted)
        self._keep(folder, result.artifacts)
        return None

    def _tell_end(self, attempt: str, end: EndRequest) -> None:
        try:
            self._client.tell(f"/v1/attempts/{attempt}/end", end)
            logger.info("attempt %s: ended (%s)", attempt, end.reason)
        except ConflictError as error:
            logger.info("attempt %s: dropped: %s", attempt, error.message)

    def _keep(self, folder: Path, artifacts: list[ArtifactIn]) -> None:
        """The files of a delivered result stay in the cache: the next job may need them here."""
        for artifact in artifacts:
            try:
                self._cache.adopt(folder / ROLE_FILES[artifact.role], artifact.sha)
            except OSError as error:
                logger.warning("artifact %s is not kept: %s", artifact.sha, error)


def _crashed(why: str) -> EndRequest:
    return EndRequest(reason="crashed", message=why[:4000])
