"""Points at which a test lets a process die, as if by `kill -9` or a power cut: every commit, rename and send.

A point's name is `ROLE MOMENT WHAT ABOUT`, e.g. `api before commit attempt offered 3fa91c20`, and depends on no timing:

    ROLE     the process, by its main module: api, agent, runner
    MOMENT   before or after it; of a file's bytes also amid: some of them are through
    WHAT     commit    of a write transaction: its first event and how many follow; without an event, who opened it
             rename    a file, or the outbox's folder, gets the name by which it is found
             append    the api writes the first bytes of an upload
             ring      the coordinator sends a message to a worker's queue
             GET, POST, PATCH and the path   a worker asks the api, until it has the answer
             upload    the bytes of a file, to the api
             download  likewise, from it
             line      the agent gives its runner a job
             event     the runner tells its agent: progress, done, failed
    ABOUT    the first digits of the job's id or of the file's hash; a message's label where only that is known

`JSM_CRASH_ONCE=folder` makes all of it work: each process adds the points that it passes to `<folder>/passed`.
`JSM_CRASH_AT=name;name;…` (or patterns, as of file names) lets it kill itself at the first pass of each of them, which
leaves a file there, so that whoever comes next goes on. With a process id in `<folder>/victim` that process is killed
instead. Without `JSM_CRASH_ONCE`, which is read once, a point does nothing.
"""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from pathlib import Path

from jsm_queue import logs

HASH = re.compile(r"\b[0-9a-f]{32,64}\b")
SHORT = 8  # digits of an id or a hash in a name

_folder = Path(os.environ["JSM_CRASH_ONCE"]) if os.environ.get("JSM_CRASH_ONCE") else None
_wanted = tuple(filter(None, os.environ.get("JSM_CRASH_AT", "").split(";")))
_passed: set[str] = set()
_about: ContextVar[str] = ContextVar("crash_about", default="")


@contextmanager
def within(about: str) -> Iterator[None]:
    """The points inside, in this thread, are about that; else about the job that is logged."""
    token = _about.set(about)
    try:
        yield
    finally:
        _about.reset(token)


@contextmanager
def around(what: str, about: str | None = None) -> Iterator[None]:
    """A point before the block and one after it, unless it raises."""
    reach(f"before {what}", about)
    yield
    reach(f"after {what}", about)


def reach(point: str, about: str | None = None) -> None:
    """Die here when `JSM_CRASH_AT` names this point, and nobody died here before."""
    if _folder is None:
        return
    if about is None:
        about = "" if HASH.search(point) else _about.get() or logs.context().get("job", "")
    name = _short(f"{_role()} {point} {about}").strip()
    if name not in _passed:
        _passed.add(name)
        with (_folder / "passed").open("a", encoding="utf-8") as file:
            file.write(name + "\n")
    for wanted in _wanted:
        if fnmatchcase(name, wanted) and _is_first(_folder / marker(wanted)):
            _die(_folder / "victim")


def marker(wanted: str) -> str:
    """The name of the file that says that somebody died at a point."""
    return re.sub(r"[^\w-]+", "_", wanted)


def commit_name(events: list[str], depth: int) -> str:
    """A transaction's name: its first event, else the function that opened it, `depth` frames above the caller."""
    if _folder is None:
        return "commit"
    if not events:
        return f"commit {sys._getframe(depth + 1).f_code.co_name} {_about.get()}".rstrip()
    return f"commit {events[0]}" + (f" +{len(events) - 1}" if len(events) > 1 else "")


def _role() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name.removesuffix(".__main__").rpartition(".")[2] if spec else "process"
    return {"workers": "agent"}.get(name, name)


def _short(name: str) -> str:
    return HASH.sub(lambda found: found[0][:SHORT], name)


def _is_first(file: Path) -> bool:
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _die(victim: Path) -> None:
    pid = int(victim.read_text(encoding="utf-8")) if victim.exists() else os.getpid()
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows SIGTERM is TerminateProcess
