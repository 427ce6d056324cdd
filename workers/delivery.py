"""Delivery: a thread that brings results and ends to the api, however long that is away. Once each."""

import logging
import queue
from pathlib import Path

from jsm_queue.crashpoints import reach
from jsm_queue.errors import AuthError, GoneError, JsmError
from jsm_queue.kinds import ROLE_FILES
from jsm_queue.protocol import ArtifactIn, EndRequest, ResultReply
from workers import threads
from workers.board import Board
from workers.cache import Cache
from workers.client import Client, patiently
from workers.outbox import Outbox
from workers.threads import OnGone

logger = logging.getLogger(__name__)


class Delivery:
    """Ends wait in memory (an agent that dies loses its attempts anyway), results in the outbox."""

    def __init__(self, client: Client, outbox: Outbox, board: Board, cache: Cache, on_gone: OnGone) -> None:
        self._client = client
        self._outbox = outbox
        self._board = board
        self._cache = cache
        self._on_gone = on_gone
        self._due: queue.SimpleQueue[tuple[str, EndRequest | None]] = queue.SimpleQueue()

    def start(self) -> None:
        """Deliver what an earlier session finished, then what comes, until the agent leaves."""
        for attempt in self._outbox.attempts():
            self.result(attempt)
        threads.start("delivery", self._loop, self._on_gone)

    def result(self, attempt: str) -> None:
        """The attempt's result is in the outbox."""
        self._board.delivering(attempt)
        self._due.put((attempt, None))

    def end(self, attempt: str, request: EndRequest) -> None:
        """The attempt ended without a result."""
        self._due.put((attempt, request))

    def _loop(self) -> None:
        while True:
            attempt, end = self._due.get()
            patiently(lambda a=attempt, e=end: self._bring(a, e), self._board.leaving, _away)

    def _bring(self, attempt: str, end: EndRequest | None) -> None:
        if end is None:
            end = self._deliver(attempt)
        if end is not None:
            self._tell_end(attempt, end)
        self._outbox.drop(attempt)
        self._board.forget(attempt)

    def _deliver(self, attempt: str) -> EndRequest | None:
        """None when the api took the result, else the end that follows from its refusal.

        Raises Unreachable.
        """
        folder = self._outbox.root / attempt
        try:
            result = self._outbox.read(attempt)
            for artifact in result.artifacts:
                self._client.upload(folder / ROLE_FILES[artifact.role], artifact, self._board.leaving)
            reach("before_result_post")
            reply = self._client.post(f"/v1/attempts/{attempt}/result", result, ResultReply)
            reach("after_result_post")
        except (GoneError, AuthError):
            raise
        except (JsmError, ValueError, OSError) as error:
            # Mostly a 409: another attempt was faster. The end that we send tells which: it is refused too,
            # and only where this attempt is still the job's own the job hears why its result could not be
            # taken.
            logger.warning("attempt %s: result refused: %s", attempt, error)
            return EndRequest(reason="error", message=f"the result was refused: {error}"[:4000])
        logger.info("attempt %s: result delivered, accepted=%s", attempt, reply.accepted)
        self._keep(folder, result.artifacts)
        return None

    def _tell_end(self, attempt: str, end: EndRequest) -> None:
        try:
            self._client.tell(f"/v1/attempts/{attempt}/end", end)
            logger.info("attempt %s: ended (%s)", attempt, end.reason)
        except (GoneError, AuthError):
            raise
        except JsmError as error:
            logger.info("attempt %s: dropped: %s", attempt, error.message)

    def _keep(self, folder: Path, artifacts: list[ArtifactIn]) -> None:
        """The files of a delivered result stay in the cache: the next job may need them here."""
        for artifact in artifacts:
            try:
                self._cache.adopt(folder / ROLE_FILES[artifact.role], artifact.sha)
            except OSError as error:
                logger.warning("artifact %s is not kept: %s", artifact.sha, error)


def _away(reason: str) -> None:
    logger.warning("delivery: the api is away (%s); trying on", reason)
