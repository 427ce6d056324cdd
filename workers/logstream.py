"""The running attempts' logs on their way to the api, so that `jsm logs -f` shows them: a thread that no job waits for.

Nothing here can hurt a job: what the api refuses is given up, what it does not answer is sent again later, and the
log on this machine is whole in any case (`<home>/logs/slot<i>.log`).
"""

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from jsm_queue import logs
from jsm_queue.errors import JsmError
from jsm_queue.protocol import LogRequest, LogSize
from workers.client import Client, Unreachable

logger = logging.getLogger(__name__)

SEND_S = 2.0  # between two looks at what is new
FLUSH_S = 2.0  # what an ended attempt waits for its last lines to be sent, before its end is told
LIMIT = 2**20  # bytes of an attempt's log that are sent: its beginning; its last lines come with a bad end
PIECE = 2**16  # bytes a request
TIMEOUT = httpx.Timeout(10.0, connect=5.0)
FULL = "(the rest of this log stays with its worker: no more than 1 MiB is sent)\n"


@dataclass
class Tail:
    """One attempt's log: bytes from `start` on of a slot's log. `sent` of them are with the api, as `offset` bytes."""

    log: Path
    start: int
    sent: int = 0
    offset: int = 0
    whole: bytes | None = None  # all of it, once the attempt ended: the slot's log is then the next attempt's
    tried: threading.Event = field(default_factory=threading.Event)  # to send the whole of it

    def piece(self) -> bytes:
        """What is to be sent next: whole lines while the attempt runs."""
        if self.whole is not None:
            return self.whole[self.sent : self.sent + PIECE]
        raw = read(self.log, self.start + self.sent, min(PIECE, LIMIT - self.sent))
        return raw if len(raw) == PIECE else raw[: raw.rfind(b"\n") + 1]


class LogStream:
    """The logs of this worker's attempts. `follow` and `finish` may be called from any thread."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tails: dict[str, Tail] = {}
        self._wake = threading.Event()

    def start(self) -> None:
        """Send what is new, every SEND_S, to the end of this process."""
        threading.Thread(target=self._loop, name="logs", daemon=True).start()

    def follow(self, attempt: str, log: Path, start: int) -> None:
        """From now on send what `log` says after byte `start`."""
        self._tails[attempt] = Tail(log, start)

    def finish(self, attempt: str) -> None:
        """The attempt ended. Waits for its last lines to be sent, FLUSH_S at most; then they are sent when possible."""
        tail = self._tails.get(attempt)
        if tail is None:
            return
        tail.whole = read(tail.log, tail.start, LIMIT)
        self._wake.set()
        tail.tried.wait(FLUSH_S)

    def _loop(self) -> None:
        while True:
            self._wake.wait(SEND_S)
            self._wake.clear()
            for attempt, tail in list(self._tails.items()):
                self.send(attempt, tail)

    def send(self, attempt: str, tail: Tail) -> None:
        """Send what is new of one log. Forgets it once it is sent whole, or refused."""
        ended = tail.whole is not None
        try:
            done = self._send_all(attempt, tail) and ended
        except Unreachable:
            done = False
        except (JsmError, OSError) as error:  # it was replaced, or this api knows no logs yet
            logger.debug("the log of attempt %s is not sent on: %s", attempt, error)
            done = True
        except Exception:
            logger.exception("the log of attempt %s is not sent on", attempt)
            done = True
        if done:
            self._tails.pop(attempt, None)
        if ended or done:
            tail.tried.set()

    def _send_all(self, attempt: str, tail: Tail) -> bool:
        while raw := tail.piece():
            text = cleaned(raw) + (FULL if tail.sent + len(raw) >= LIMIT else "")
            request = LogRequest(offset=tail.offset, text=text)
            reply = self._client.post(f"/v1/attempts/{attempt}/log", request, LogSize, TIMEOUT)
            tail.sent, tail.offset = tail.sent + len(raw), reply.size
        return True


def read(log: Path, start: int, size: int) -> bytes:
    """At most `size` bytes of a file; none where it is missing."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            return file.read(size)
    except OSError:
        return b""


def cleaned(raw: bytes) -> str:
    """A log's lines as a terminal would show them at last: a progress bar overwrites itself. Secrets are masked."""
    lines = raw.decode("utf-8", errors="replace").split("\n")
    return logs.masked("\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines))
