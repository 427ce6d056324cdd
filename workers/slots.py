"""A slot of this machine and its runner process: start it, give it a job, watch it, end it.

<home>/slots/slot<i>.pid   the runner, so that a killed agent's successor ends it
<home>/slots/slot<i>-…/    the runner's temporary files, an unpacked base among them: they go with it, however it ends
<home>/logs/slot<i>.log    its standard error; the last one before is slot<i>.log.1
"""

import contextlib
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

from jsm_queue import logs, processes
from jsm_queue.crashpoints import around
from workers.board import Ended, Held
from workers.hardware import SlotPlan
from workers.lines import Command, CommandLine, EventLine, JobLine

RUNNER = ("-m", "workers.runner")
TEMPORARY = ("TMPDIR", "TEMP", "TMP")  # where temporary files go: the home's disk is watched, and /tmp may be memory
LOOK_S = 0.1  # between two looks at what is wanted of the attempt
SAVE_S = 1.0  # for a last checkpoint of what is to leave the slot; its memory is free then, whatever it did
ASLEEP_S = 5.0  # a longer time between two looks is one in which this machine slept, and its runner too
UNSAVED = "there was no time to save what it did since its last checkpoint"
LOG_BYTES = 5_000_000  # of a slot's log, before it is put aside
TAIL_LINES = 50  # of the log that go with an end
TAIL_CHARS = 20_000
DEATH_S = 10.0  # from the end of a runner's output to its own
KILLED = "somebody killed it, or the system, which does so when memory runs out"

OnEvent = Callable[[EventLine], object]

NOTHING = EventLine(event="progress", attempt="")
"""What a runner says that says nothing."""


def keeps_runner(kind: str, warm_base: str | None, base: str | None) -> bool:
    """Whether a warm runner may take the next job.

    On a GPU only with the same base: what the last one left in VRAM would be missing, or fragmented. On a CPU
    always: starting torch costs more than a small base's memory.
    """
    return kind == "cpu" or warm_base == base


class Slot:
    """One slot and its runner. Its methods are called from one thread at a time, `kill` from any."""

    def __init__(self, plan: SlotPlan, home: Path) -> None:
        self.plan = plan
        self.warm_base: str | None = None
        self.log = home / "logs" / f"slot{plan.idx}.log"
        self.pid_file = home / "slots" / f"slot{plan.idx}.pid"
        self._runner: processes.Process | None = None
        self._scratch: Path | None = None
        self._events: queue.SimpleQueue[EventLine | None] = queue.SimpleQueue()
        processes.end_leftover(self.pid_file)
        for left in self.pid_file.parent.glob(f"{self.pid_file.stem}-*"):
            shutil.rmtree(left, ignore_errors=True)

    def run(self, job: JobLine, base: str | None, stall_s: float, held: Held, on_event: OnEvent) -> Ended | None:
        """Run a job to its end; None when its result is whole in its folder.

        `base` names the base model it loads. What is wished of `held` is done: paused, it stands still at its next safe
        point; stopped, the runner is killed; released, it is killed too, after a checkpoint for which it has SAVE_S.
        When it says nothing for `stall_s` seconds, but for a pause, the runner is killed as well.
        """
        if not keeps_runner(self.plan.kind, self.warm_base, base):
            self.kill()
        tail_from = self.put_log_aside()
        self._ensure()
        if base:
            self.warm_base = base
        ended = self._watch(job, stall_s, held, on_event)
        if ended is None:
            return None
        if ended.reason != "error":  # what it loaded, and whether it is sound, is unknown now
            self.kill()
        return Ended(ended.reason, ended.message, tail(self.log, tail_from))

    def _watch(self, job: JobLine, stall_s: float, held: Held, on_event: OnEvent) -> Ended | None:
        runner = self._runner
        assert runner  # another thread may end it from here on
        if not _write(runner, job):
            return _died(runner)
        looked, silent, told, until = time.monotonic(), 0.0, "run", math.inf
        while time.monotonic() < until and held.wish != "stop":
            if held.wish == "release" and until == math.inf:
                until = time.monotonic() + SAVE_S
                _tell(runner, job, "save")
            elif held.wish in ("run", "pause") and held.wish != told:
                told = held.wish
                _tell(runner, job, "pause" if told == "pause" else "resume")
            event = self._next_event()
            now = time.monotonic()
            silent = 0.0 if event is not NOTHING or told == "pause" else silent + min(now - looked, ASLEEP_S)
            looked = now
            if event is None:
                return _died(runner)
            if event is NOTHING:
                if silent > stall_s:
                    return Ended("stalled", f"no progress for {stall_s:.0f} s")
            elif event.attempt == job.attempt:
                on_event(event)
                if event.event in ("done", "failed"):
                    return None if event.event == "done" else Ended(event.reason, event.message)
                if event.event == "saved":
                    return held.ended()
        ended = held.ended()
        return replace(ended, message=f"{ended.message}; {UNSAVED}") if ended.reason == "released" else ended

    def _next_event(self) -> EventLine | None:
        """None when the runner is gone, NOTHING when it says nothing for LOOK_S."""
        try:
            return self._events.get(timeout=LOOK_S)
        except queue.Empty:
            return NOTHING

    def _ensure(self) -> None:
        if self._runner and self._runner.poll() is None:
            return
        self.kill()
        self._events = queue.SimpleQueue()
        self._scratch = self._make_scratch()
        environment = self.environment() | dict.fromkeys(TEMPORARY, str(self._scratch))
        self._runner = processes.spawn([sys.executable, *RUNNER], self.log, environment, stdout=subprocess.PIPE)
        processes.write_pid_file(self.pid_file, self._runner.pid)
        assert self._runner.stdout
        threading.Thread(target=_listen, args=(self._runner.stdout, self._events), daemon=True).start()

    def _make_scratch(self) -> Path:
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{self.pid_file.stem}-", dir=self.pid_file.parent))

    def environment(self) -> dict[str, str]:
        """What the runner's libraries must know before they load."""
        threads = str(self.plan.threads)
        return {
            "CUDA_VISIBLE_DEVICES": self.plan.uuid,  # this slot's GPU alone, there cuda:0; or none
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",  # a base is what the job's id says, never what the hub has today
            "PYTHONUTF8": "1",
        }

    def kill(self) -> None:
        """End the runner at once, if there is one."""
        runner, self._runner, self.warm_base = self._runner, None, None
        scratch, self._scratch = self._scratch, None
        if runner:
            processes.kill_tree(runner.pid)
            runner.wait()
            if runner.stdin:
                with contextlib.suppress(OSError):  # what was not flushed cannot be any more
                    runner.stdin.close()
            self.pid_file.unlink(missing_ok=True)
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)

    def put_log_aside(self) -> int:
        """Where it has grown too long. Returns where the next job's lines begin, in bytes."""
        return logs.put_aside(self.log, LOG_BYTES)


def _listen(stream: IO[bytes], events: "queue.SimpleQueue[EventLine | None]") -> None:
    """Hand on what the runner says; None when it is gone."""
    with stream, contextlib.suppress(ValueError):  # half a line of a dying runner
        for line in stream:
            events.put(EventLine.model_validate_json(line))
    events.put(None)


def _tell(runner: processes.Process, job: JobLine, command: Command) -> None:
    _write(runner, CommandLine(attempt=job.attempt, command=command))


def _write(runner: processes.Process, line: JobLine | CommandLine) -> bool:
    """Whether the runner could be told; one that died is noticed anyway."""
    assert runner.stdin
    try:
        with around("line" if isinstance(line, JobLine) else f"line {line.command}"):
            runner.stdin.write(line.model_dump_json().encode() + b"\n")
            runner.stdin.flush()
    except (OSError, ValueError):  # closed at its other end, or at ours by who ended it
        return False
    return True


def _died(runner: processes.Process) -> Ended:
    with contextlib.suppress(subprocess.TimeoutExpired):
        runner.wait(DEATH_S)
    processes.kill_tree(runner.pid)
    code = runner.wait()
    if code >= 0:
        return Ended("crashed", f"the runner died with exit code {code}")
    known = -code in {number.value for number in signal.Signals}
    name = signal.Signals(-code).name if known else f"signal {-code}"
    return Ended("crashed", f"the runner died by {name}" + (f": {KILLED}" if name == "SIGKILL" else ""))


def tail(log: Path, start: int) -> str:
    """The last lines of a log after byte `start`."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(start, file.tell() - TAIL_CHARS))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-TAIL_LINES:])[-TAIL_CHARS:]
