"""What attempts say, as files: `<home>/logs/attempts/<attempt>.log`. Never in the database, never needed by a study."""

import re
import threading
from pathlib import Path

from jsm_queue.errors import ConflictError, NotFoundError

LIMIT = 4 * 2**20  # bytes an attempt; a worker stops at 1 MiB, which may grow where it is no UTF-8
PIECE = 2**18  # bytes of one answer

_appending = threading.Lock()


def path(home: Path, attempt: str) -> Path:
    """Where an attempt's log is. Raises NotFoundError for what cannot be an attempt's id."""
    if not re.fullmatch(r"[0-9a-f]{32}", attempt):
        raise NotFoundError(f"No attempt {attempt!r}", "`jsm logs JOB` shows the newest one")
    return folder(home) / f"{attempt}.log"


def folder(home: Path) -> Path:
    """Where the logs are."""
    return home / "logs" / "attempts"


def append(home: Path, attempt: str, offset: int, text: str) -> int:
    """Adds a text that begins at byte `offset`; what of it is there already is not added again.

    Returns the log's size in bytes. Raises ConflictError for a text that would leave a gap or is too much.
    """
    log, data = path(home, attempt), text.encode("utf-8", errors="replace")
    with _appending:
        size = log.stat().st_size if log.exists() else 0
        if offset > size:
            raise ConflictError(f"The log of attempt {attempt} has {size} bytes, not {offset}", "Send it no further")
        new = data[size - offset :]
        if size + len(new) > LIMIT:
            raise ConflictError(f"The log of attempt {attempt} is too long", "Send it no further")
        if new:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                file.write(new)
        return size + len(new)


def read(home: Path, attempt: str, offset: int) -> tuple[str, int] | None:
    """A piece of a log from byte `offset` on, and where the next one begins. None where there is no log."""
    try:
        with path(home, attempt).open("rb") as file:
            file.seek(offset)
            text = file.read(PIECE).decode("utf-8", errors="ignore")  # a character that the piece cuts comes next
    except FileNotFoundError:
        return None
    return text, offset + len(text.encode())
