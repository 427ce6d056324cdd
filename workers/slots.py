"""A slot of this machine and its runner process: start it, give it a job, watch it, end it.

<home>/slots/slot<i>.pid   the runner, so that a killed agent's successor ends it
<home>/logs/slot<i>.log    its standard error; the last one before is slot<i>.log.1
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jsm_queue import logs, processes
from jsm_queue.crashpoints import around
from jsm_queue.protocol import EndReason
from workers.hardware import SlotPlan
from workers.runner import EventLine, JobLine

RUNNER = ("-m", "workers.runner")
LOOK_S = 0.25  # between two looks at whether the attempt is still wanted
LOG_BYTES = 5_000_000  # of a slot's log, before it is put aside
TAIL_LINES = 50  # of the log that go with an end
TAIL_CHARS = 20_000
DEATH_S = 10.0  # from the end of a runner's output to its own
MEMORY_KILL = "the system killed it, perhaps because memory ran out"

OnProgress = Callable[[EventLine], object]


@dataclass(frozen=True)
class Ended:
    """An attempt without a result: why, in words, and the end of the runner's log."""

    reason: EndReason
    message: str
    log_tail: str = ""


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
        self._events: queue.SimpleQueue[EventLine | None] = queue.SimpleQueue()
        processes.end_leftover(self.pid_file)

    def run(
        self, job: JobLine, base: str | None, stall_s: float, stop: threading.Event, on_progress: OnProgress
    ) -> Ended | None:
        """Run a job to its end; None when its result is whole in its folder.

        `base` names the base model it loads. The runner is killed when `stop` is set (ended `cancelled`) and
        when it says nothing for `stall_s` seconds.
        """
        if not keeps_runner(self.plan.kind, self.warm_base, base):
            self.kill()
        tail_from = self.put_log_aside()
        self._ensure()
        if base:
            self.warm_base = base
        ended = self._watch(job, stall_s, stop, on_progress)
        if ended is None:
            return None
        if ended.reason != "error":  # what it loaded, and whether it is sound, is unknown now
            self.kill()
        return Ended(ended.reason, ended.message, tail(self.log, tail_from))

    def _watch(self, job: JobLine, stall_s: float, stop: threading.Event, on_progress: OnProgress) -> Ended | None:
        runner = self._runner
        assert runner and runner.stdin
        try:
            with around("line"):
                runner.stdin.write(job.model_dump_json().encode() + b"\n")
                runner.stdin.flush()
        except OSError:
            return _died(runner)
        heard = time.monotonic()
        while not stop.is_set():
            try:
                event = self._events.get(timeout=LOOK_S)
            except queue.Empty:
                if time.monotonic() - heard > stall_s:
                    return Ended("stalled", f"no progress for {stall_s:.0f} s")
                continue
            heard = time.monotonic()
            if event is None:
                return _died(runner)
            if event.attempt != job.attempt:
                continue
            if event.event == "progress":
                on_progress(event)
            else:
                return None if event.event == "done" else Ended(event.reason, event.message)
        return Ended("cancelled", "no longer wanted")

    def _ensure(self) -> None:
        if self._runner and self._runner.poll() is None:
            return
        self.kill()
        self._events = queue.SimpleQueue()
        self._runner = processes.spawn([sys.executable, *RUNNER], self.log, self.environment(), stdout=subprocess.PIPE)
        processes.write_pid_file(self.pid_file, self._runner.pid)
        assert self._runner.stdout
        threading.Thread(target=_listen, args=(self._runner.stdout, self._events), daemon=True).start()

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
        if runner:
            processes.kill_tree(runner.pid)
            runner.wait()
            if runner.stdin:
                with contextlib.suppress(OSError):  # what was not flushed cannot be any more
                    runner.stdin.close()
            self.pid_file.unlink(missing_ok=True)

    def put_log_aside(self) -> int:
        """Where it has grown too long. Returns where the next job's lines begin, in bytes."""
        return logs.put_aside(self.log, LOG_BYTES)


def _listen(stream: IO[bytes], events: "queue.SimpleQueue[EventLine | None]") -> None:
    """Hand on what the runner says; None when it is gone."""
    with stream, contextlib.suppress(ValueError):  # half a line of a dying runner
        for line in stream:
            events.put(EventLine.model_validate_json(line))
    events.put(None)


def _died(runner: processes.Process) -> Ended:
    with contextlib.suppress(subprocess.TimeoutExpired):
        runner.wait(DEATH_S)
    processes.kill_tree(runner.pid)
    code = runner.wait()
    if code >= 0:
        return Ended("crashed", f"the runner died with exit code {code}")
    known = -code in {number.value for number in signal.Signals}
    name = signal.Signals(-code).name if known else f"signal {-code}"
    return Ended("crashed", f"the runner died by {name}" + (f": {MEMORY_KILL}" if name == "SIGKILL" else ""))


def tail(log: Path, start: int) -> str:
    """The last lines of a log after byte `start`."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(start, file.tell() - TAIL_CHARS))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-TAIL_LINES:])[-TAIL_CHARS:]
