"""The log of every process: one line an event, for people or as JSON, with the study, job and attempt it is about.

    2026-11-25 12:03:04 INFO    workers.attempts  job=3fa91c20b7d4 attempt=5c0d… study=river  slot 0: train begins

`JSM_LOG_FORMAT` and `JSM_LOG_LEVEL` choose form and level. No secret gets into a log: what looks like one is masked.
"""

import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal

SHORT = 12  # digits of an id in the form for people, as `jsm jobs` shows them
CHATTY = ("httpx", "httpcore", "celery", "kombu", "gguf", "uvicorn", "alembic", "matplotlib")
"""A line a request, a task, a file: only their warnings are of interest."""
SECRETS = re.compile(r"(?<=://)[^/\s@]+(?=@)|(?<=Bearer )\S+", re.IGNORECASE)

_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


def set_up(form: Literal["text", "json"] = "text", level: str = "info", file: Path | None = None) -> None:
    """From now on this process logs to standard error, or appends to `file`. Python's warnings are logged too."""
    handler = logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonForm() if form == "json" else TextForm())
    root = logging.getLogger()
    for former in [each for each in root.handlers if isinstance(each.formatter, (TextForm, JsonForm))]:
        root.removeHandler(former)  # ours; another program's stay, such as a test's
        former.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


# ---- what a line is about ----------------------------------------------------------------------------------


@contextmanager
def about(**words: str) -> Iterator[None]:
    """What is logged inside is about these: study, job, attempt, worker. A thread that is started inside begins
    without.
    """
    token = _about.set({**_about.get(), **words})
    try:
        yield
    finally:
        _about.reset(token)


def tell_about(**words: str) -> None:
    """As `about`, to the end of this thread or of this request."""
    _about.set({**_about.get(), **words})


def context() -> dict[str, str]:
    """What a line would be about here and now; another thread may go on with it."""
    return dict(_about.get())


# ---- forms -------------------------------------------------------------------------------------------------


class TextForm(logging.Formatter):
    """For people: ids are cut, a traceback follows in lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """One event."""
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        words = " ".join(f"{name}={_short(value)}" for name, value in _about.get().items())
        head = f"{at} {record.levelname:<7} {record.name}  " + (f"{words}  " if words else "")
        return masked("\n".join([head + record.getMessage(), *_traceback(self, record)]))


class JsonForm(logging.Formatter):
    """For programs: one JSON object a line, with whole ids and the time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """One event."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "logger": record.name, **_about.get()}
        line["message"] = masked(record.getMessage())
        if trace := _traceback(self, record):
            line["error"] = masked("\n".join(trace))
        return json.dumps(line, ensure_ascii=False)


def _traceback(form: logging.Formatter, record: logging.LogRecord) -> list[str]:
    return [form.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []


def _short(value: str) -> str:
    if re.fullmatch(r"[0-9a-f]{32,64}", value):
        return value[:SHORT]
    return value if value.isprintable() and " " not in value else json.dumps(value)


def masked(text: str) -> str:
    """`text` without the passwords of URLs and without tokens: a second line of defence, for nobody logs them."""
    return SECRETS.sub("…", text)


# ---- files -------------------------------------------------------------------------------------------------


def put_aside(log: Path, limit: int) -> int:
    """Copies a log of more than `limit` bytes to `<name>.1` and empties it. Returns its size then.

    Who appends to it goes on at its new end; a line that is written meanwhile may be lost.
    """
    size = log.stat().st_size if log.exists() else 0
    if size <= limit:
        return size
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)
    return 0
