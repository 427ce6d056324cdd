"""What happens at a job's safe points: progress is told, a checkpoint is written where due, a pause is waited out.

The kind calls `checkpoint` and `progress` from its thread; `obey` is called from the thread that reads commands.
"""

import contextvars
import logging
import math
import threading
import time
from collections.abc import Callable

from jsm_queue.files import save_whole
from workers import checkpointfolder
from workers.lines import Command, EventLine, JobLine
from workers.work import Save, Take

logger = logging.getLogger(__name__)

PROGRESS_S = 0.5  # at most this often a progress line
LOG_S = 5.0  # at most this often one of them in the log, besides the first and the last
MAX_METRICS = 16  # what a heartbeat may carry
CHECKPOINT_S = 5.0  # between two checkpoints, or longer where writing one takes long
SHARE = 0.02  # of a job's time, at most, for writing checkpoints

Say = Callable[[EventLine], object]


class Progress:
    """Says where the attempt is, at most every PROGRESS_S, and in the log every LOG_S."""

    def __init__(self, attempt: str, say: Say) -> None:
        self._attempt, self._say = attempt, say
        self._said_at = self._logged_at = -math.inf
        self._last = EventLine(event="progress", attempt=attempt)
        self._unsaid = False

    def __call__(self, position: int, total: int, metrics: dict[str, float]) -> None:
        """Note the position; say it when the last line is old enough."""
        figures = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        kept = dict(list(figures.items())[:MAX_METRICS])
        self._last = EventLine(event="progress", attempt=self._attempt, position=position, total=total, metrics=kept)
        self._unsaid = True
        if time.monotonic() - self._logged_at >= LOG_S or 0 < total == position:
            logger.info("%s", progress_words(self._last))
            self._logged_at = time.monotonic()
        if time.monotonic() - self._said_at >= PROGRESS_S:
            self.flush()

    def flush(self) -> None:
        """Say what is still unsaid."""
        if self._unsaid:
            self.repeat()

    def repeat(self) -> None:
        """Say where it is, again where that was said before."""
        self._say(self._last)
        self._unsaid, self._said_at = False, time.monotonic()


def progress_words(event: EventLine) -> str:
    """ "12 of 50  loss=2.3104  tokens_per_second=3512"."""
    figures = [f"{name}={value:.{0 if abs(value) >= 100 else 4}f}" for name, value in event.metrics.items()]
    return "  ".join([f"{event.position} of {event.total}", *figures])


class Keeper:
    """Writes a job's checkpoints in a thread of its own: it waits for no disk. `position`: of the newest."""

    def __init__(self, job: JobLine, say: Say) -> None:
        self.position = job.position
        self._job, self._say = job, say
        self._kept = [job.resume] if job.resume else []
        self._next = time.monotonic() + CHECKPOINT_S
        self._writing: threading.Thread | None = None

    def is_due(self) -> bool:
        """Whether a checkpoint should be written now."""
        return time.monotonic() >= self._next and not (self._writing and self._writing.is_alive())

    def write(self, position: int, take: Take) -> None:
        """Take the state now, and bring it to the disk meanwhile. Nothing is done for a position that is there."""
        self.wait()
        if self._job.checkpoints is None or position == self.position:
            return
        began = time.monotonic()
        try:
            save = take()
        except MemoryError:
            self._put_off("there is no memory for it", began)
            return
        context = contextvars.copy_context()  # of the job that is logged
        arguments = (self._write, position, save, began)
        self._writing = threading.Thread(target=context.run, args=arguments, name="checkpoint", daemon=True)
        self._writing.start()

    def wait(self) -> None:
        """Until what is being written is on the disk."""
        if self._writing:
            self._writing.join()

    def _write(self, position: int, save: Save, began: float) -> None:
        assert self._job.checkpoints
        path = checkpointfolder.path_of(self._job.checkpoints, position, self._job.charges)
        try:
            size = save_whole(path, save).stat().st_size
        except (OSError, MemoryError) as error:
            self._put_off(f"{type(error).__name__}: {error}", began)
            return
        self.position = position
        self._kept = [*self._kept, path][-checkpointfolder.KEPT :]
        checkpointfolder.keep_only(path.parent, self._kept)
        self._next = time.monotonic() + pause_after(time.monotonic() - began)
        attempt = self._job.attempt
        self._say(EventLine(event="checkpoint", attempt=attempt, position=position, path=path, size=size))

    def _put_off(self, why: str, began: float) -> None:
        logger.warning("no checkpoint is written now: %s", why)
        self._next = time.monotonic() + 10 * pause_after(time.monotonic() - began)


def pause_after(cost_s: float) -> float:
    """Seconds until the next checkpoint after one that took so many."""
    return max(CHECKPOINT_S, cost_s / SHARE)


class SafePoints:
    """The safe points of one job. `stood_s`: how long it stood still at them, in seconds."""

    def __init__(self, job: JobLine, say: Say) -> None:
        self.job = job
        self.stood_s = 0.0
        self._say = say
        self._told = Progress(job.attempt, say)
        self._keeper = Keeper(job, say)
        self._offer: tuple[int, Take] | None = None
        self._changed = threading.Condition()
        self._paused = self._asked = False

    def checkpoint(self, position: int, take: Take) -> None:
        """The kind can be gone on with from here, until the progress that follows returns."""
        self._offer = (position, take)

    def progress(self, position: int, total: int, metrics: dict[str, float]) -> None:
        """A safe point: it returns when the job is to go on."""
        self._told(position, total, metrics)
        self._keep()
        if self._paused:
            self._stand()
        self._offer = None

    def obey(self, command: Command) -> None:
        """Counts from the next safe point on, or at once where the job stands still at one."""
        with self._changed:
            if command == "save":
                self._asked = True
            else:
                self._paused = command == "pause"
            self._changed.notify_all()

    def end(self) -> None:
        """The job is over: what is unsaid is said."""
        self._keeper.wait()
        self._told.flush()

    def _keep(self) -> None:
        with self._changed:
            asked, self._asked = self._asked, False
        if self._offer and (asked or self._keeper.is_due()):
            self._keeper.write(*self._offer)
        if asked:
            self._keeper.wait()
            self._say(EventLine(event="saved", attempt=self.job.attempt, position=self._keeper.position))

    def _stand(self) -> None:
        began = time.monotonic()
        if self._offer:  # it costs nobody anything now, and whoever wants the memory next does not wait for it
            self._keeper.write(*self._offer)
        self._told.flush()
        logger.info("stands still")
        self._say(EventLine(event="paused", attempt=self.job.attempt))
        while self._paused:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or not self._paused)
            self._keep()
        self.stood_s += time.monotonic() - began
        logger.info("goes on after %.1f s", time.monotonic() - began)
        self._told.repeat()
