"""Keeps the parts of a pool running: starts them, starts them again when they die, ends them in order.

    <home>/run/<part>.pid    process id and start time: by it leftovers of a killed `jsm up` are ended
    <home>/logs/<part>.log   what the part says; what came before is <part>.log.1
    <home>/logs/up.log       what happened to the parts

Everything happens in the caller's thread: children die with the thread that started them (`jsm_queue.processes`).
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jsm_queue import logs, processes
from jsm_queue.errors import SetupError

GRACE_S = 6.0  # between asking a part to end and killing it; the api drains for 2 s
STEADY_S = 30.0  # a part that lived this long is not in a crash loop
LONGEST_WAIT_S = 30.0  # between two starts of a part that keeps dying
TAIL_LINES = 12  # of a log that are shown when a part cannot start
LOG_BYTES = 20_000_000  # of a part's log, before it is put aside

logger = logging.getLogger(__name__)


@dataclass
class Part:
    """One process to keep running. `start` makes it, with its output in `log`."""

    name: str
    start: Callable[[], processes.Process]
    log: Path
    process: processes.Process
    started_at: float
    crashes: int = 0
    due_at: float | None = None


def wait_before(crashes: int) -> float:
    """Seconds before a part is started again: at once after its first death, then longer from time to time."""
    return 0.0 if crashes <= 1 else min(2.0 ** (crashes - 1), LONGEST_WAIT_S)


class Supervisor:
    """The parts of one home folder, in the order in which they were started."""

    def __init__(self, home: Path, say: Callable[[str], None]) -> None:
        self.run, self.logs, self._show = home / "run", home / "logs", say
        self.parts: list[Part] = []

    def say(self, line: str) -> None:
        """Tell the user, and the log."""
        logger.warning("%s", line)
        self._show(line)

    def end_leftovers(self) -> None:
        """End what a killed supervisor of this home folder left running. Hold the home folder's lock."""
        for path in sorted(self.run.glob("*.pid")):
            if processes.end_leftover(path):
                self.say(f"ended {path.stem}, left by a `jsm up` that was killed")

    def start(self, name: str, start: Callable[[], processes.Process]) -> Part:
        """Start a part and keep it running from now on."""
        part = Part(name, start, self.logs / f"{name}.log", start(), time.monotonic())
        processes.write_pid_file(self.run / f"{name}.pid", part.process.pid)
        logger.info("%s is started as process %d", name, part.process.pid)
        self.parts.append(part)
        return part

    def tick(self) -> None:
        """Start again what died, put long logs aside. Call it about once a second."""
        for part in self.parts:
            with contextlib.suppress(OSError):  # another program reads it just now
                logs.put_aside(part.log, LOG_BYTES)
            if part.due_at is None and part.process.poll() is not None:
                self._note_death(part)
            if part.due_at is not None and time.monotonic() >= part.due_at:
                self._start_again(part)

    def _note_death(self, part: Part) -> None:
        lived = time.monotonic() - part.started_at
        part.crashes = 1 if lived >= STEADY_S else part.crashes + 1
        self._wait(part, f"ended ({exit_words(part.process.returncode)})")

    def _wait(self, part: Part, what: str) -> None:
        wait = wait_before(part.crashes)
        part.due_at = time.monotonic() + wait
        again = "it is started again" if wait == 0 else f"it is tried again in {wait:.0f} s; see {part.log}"
        self.say(f"{part.name} {what}; {again}")

    def _start_again(self, part: Part) -> None:
        try:
            part.process, part.started_at, part.due_at = part.start(), time.monotonic(), None
        except SetupError as error:
            part.crashes += 1
            self._wait(part, f"did not start ({error.message})")
        else:
            processes.write_pid_file(self.run / f"{part.name}.pid", part.process.pid)

    def wait_until(self, part: Part, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait for a part that was just started. Raises SetupError with its log's end when it dies or is slow."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            code = part.process.poll()
            if code is not None or time.monotonic() > deadline:
                how = f"ended ({exit_words(code)})" if code is not None else f"did not answer within {timeout_s:.0f} s"
                raise SetupError(f"{part.name} {how}{last_words(part.log)}", "Correct that, start again")
            time.sleep(0.1)

    def stop(self) -> None:
        """End all parts, the last one first."""
        while self.parts:
            part = self.parts.pop()
            processes.terminate_then_kill(part.process, GRACE_S)
            (self.run / f"{part.name}.pid").unlink(missing_ok=True)


def exit_words(code: int | None) -> str:
    """ "exit status 1", "signal 9"."""
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


def last_words(log: Path) -> str:
    """What a part said last: its error where it ended with one, which is a line; else the end of its log."""
    end = tail(log)
    last = end.rpartition("\n")[2]
    return f": {last.removeprefix('error: ')}" if last.startswith("error: ") else f"; the end of {log}:\n{end}"


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])
    except OSError:
        return "(no log)"
