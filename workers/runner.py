"""`python -m workers.runner`: the process in which kinds run. One job at a time, kept warm between jobs.

It reads one `JobLine` a line on standard input and answers with `EventLine`s on its original standard output:
progress and checkpoints, then done or failed. A `CommandLine` meanwhile is obeyed at the job's next safe point
(safepoints.py). Everything that libraries print goes to standard error, which the agent keeps
as the slot's log; how far a job is stands there too, every few seconds. A complete result is `result.json` in
the job's folder: it is written last, and only it is trusted. When standard input ends the process ends, even in
the middle of a step: its agent is gone.
"""

import contextlib
import errno
import faulthandler
import importlib
import json
import logging
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from jsm_queue import logs, processes
from jsm_queue.canonical import file_hash
from jsm_queue.crashpoints import around
from jsm_queue.errors import DataError, JsmError, ModelError, SetupError, SpecError
from jsm_queue.files import write_whole
from jsm_queue.kinds import KINDS, ROLE_FILES, Params
from jsm_queue.protocol import ArtifactIn, ResultRequest
from jsm_queue.settings import settings
from workers.lines import LINES, EventLine, Failure, JobLine
from workers.safepoints import SafePoints, Say
from workers.work import Device, Outcome, Work

logger = logging.getLogger(__name__)

RESULT = "result.json"
FULL_DISK = ("No space left on device", "os error 28", "os error 112", "There is not enough space on the disk")
FULL_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "failed to allocate")

FINAL = (SpecError, DataError, ModelError)
"""What a kind says of its job: it would come again on every machine. Everything else may be this machine's trouble."""


def main() -> None:
    """Run jobs until standard input ends."""
    os.environ.pop(processes.LIFELINE, None)  # it reads its standard input itself
    faulthandler.enable()
    logs.set_up(settings().log_format, settings().log_level)
    commands, events = _take_streams()
    say = partial(_say, events, threading.Lock())
    jobs: queue.SimpleQueue[SafePoints] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(commands, say, jobs), name="commands", daemon=True).start()
    while True:
        points = jobs.get()
        with logs.about(job=points.job.job, attempt=points.job.attempt, study=points.job.study):
            say(run_job(points))


def _take_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Our standard input and output for ourselves; libraries get an empty input and the log."""
    commands, events = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return commands, events


def _read(commands: IO[bytes], say: Say, jobs: "queue.SimpleQueue[SafePoints]") -> None:
    newest: SafePoints | None = None
    for text in commands:
        line = LINES.validate_json(text)
        if isinstance(line, JobLine):
            newest = SafePoints(line, say)
            jobs.put(newest)
        elif newest and newest.job.attempt == line.attempt:
            newest.obey(line.command)
    os._exit(0)


def _say(events: IO[bytes], one_at_a_time: threading.Lock, event: EventLine) -> None:
    with one_at_a_time, around(f"event {event.event}"):
        events.write(event.model_dump_json().encode() + b"\n")
        events.flush()


def run_job(points: SafePoints) -> EventLine:
    """Run one job to its last event. Its result, if there is one, is whole on the disk when this returns."""
    job, started = points.job, time.monotonic()
    logger.info("%s begins on %s, threads: %d", job.kind, job.device, job.threads)
    if job.resume:
        logger.info("it goes on from %d", job.position)
    try:
        module = importlib.import_module(f"workers.kinds.{job.kind}")
        work = Work(
            params=parse_params(job),
            inputs=job.inputs,
            folder=job.folder,
            device=Device(job.device, job.threads),
            progress=points.progress,
            checkpoint=points.checkpoint,
            resume=job.resume,
            ooms=job.ooms,
            attempt=job.attempt,
        )
        outcome = module.run(work)
        seconds = time.monotonic() - started - points.stood_s
        write_result(job.folder, collect(job.kind, outcome, job.folder, provenance(job, seconds)))
    except (Exception, SystemExit) as error:
        reason, message = classify(error)
        logger.error("%s ends: %s: %s", job.kind, reason, message, exc_info=error)
        points.end()
        return EventLine(event="failed", attempt=job.attempt, reason=reason, message=message)
    points.end()
    logger.info("%s is complete after %.1f s", job.kind, time.monotonic() - started)
    return EventLine(event="done", attempt=job.attempt)


def parse_params(job: JobLine) -> Params:
    """The kind's own type. Raises SetupError when this version of the worker does not know such a job."""
    try:
        return KINDS[job.kind].params.model_validate(job.params)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        raise SetupError(
            f"The job's parameters do not fit this worker's version: {said}", "Update the worker"
        ) from error


def provenance(job: JobLine, seconds: float) -> dict[str, Any]:
    """What is kept of where and how a result was made. `seconds` without what the job stood still.

    `resumed_from`: of a job that was gone on with, whose seconds therefore are not all of it.
    """
    here = {"device": job.device, "threads": job.threads, "seconds": round(seconds, 3)}
    return job.provenance | here | ({"resumed_from": job.position} if job.resume else {})


def collect(kind: str, outcome: Outcome, folder: Path, provenance: dict[str, Any]) -> ResultRequest:
    """The complete result: records, metrics, and the kind's files, which are on the disk then, with their hashes.

    Raises JsmError when a file is missing or a metric is not finite, as neither can be a result.
    """
    for name, value in outcome.metrics.items():
        if not math.isfinite(value):
            raise JsmError(f"{kind}: metric {name} is {value}")
    artifacts = [_artifact(kind, role, folder) for role in KINDS[kind].outputs]
    return ResultRequest(records=outcome.records, metrics=outcome.metrics, artifacts=artifacts, provenance=provenance)


def _artifact(kind: str, role: str, folder: Path) -> ArtifactIn:
    file = folder / ROLE_FILES[role]
    if not file.is_file():
        raise JsmError(f"{kind} did not write {file.name}", "This is a bug of the kind")
    with file.open("ab") as written:  # for writing: Windows flushes no file that was opened for reading
        os.fsync(written.fileno())
    return ArtifactIn(role=role, sha=file_hash(file), size=file.stat().st_size)


def write_result(folder: Path, result: ResultRequest) -> None:
    """Whole or not at all, also after a power cut. Raises JsmError where `meta` is not JSON."""
    try:
        text = json.dumps(result.model_dump(mode="python"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise JsmError(f"A record's meta or the provenance is not plain JSON: {error}") from error
    write_whole(folder / RESULT, text)


def classify(error: BaseException) -> tuple[Failure, str]:
    """Why a job failed, and what to say. `error` is final for everyone; the others may go better elsewhere."""
    for cause in _causes(error):
        if isinstance(cause, JsmError):
            break  # it says itself what is wrong
        text = str(cause)
        if getattr(cause, "errno", None) == errno.ENOSPC or any(mark in text for mark in FULL_DISK):
            return "disk", f"{type(cause).__name__}: {text}"
        if isinstance(cause, ValidationError) and any(each["type"] == "finite_number" for each in cause.errors()):
            return "error", f"what it computed is no number. {ModelError.cure}"
        if isinstance(cause, MemoryError) or _is_torch_oom(cause) or any(mark in text for mark in FULL_MEMORY):
            return "oom", f"{type(cause).__name__}: {text}"
    words = str(error) if isinstance(error, JsmError) else f"{type(error).__name__}: {error}"
    return "error" if isinstance(error, FINAL) else "crashed", words


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _is_torch_oom(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the agent went away between two lines
        main()
