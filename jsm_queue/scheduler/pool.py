"""The pool's slots as arrays, and the rules which slots suit a job.

Thousands of jobs meet a thousand slots at a look, so a rule is an array with a truth value a slot. The same rules say
which slot a job may have and why it has none.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from jsm_queue.costs import TRANSFER_BYTES_S, Costs, SlotClass, Task
from jsm_queue.kinds import KINDS
from jsm_queue.scheduler.offers import Files, OpenSlot, ReadyJob

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

USABLE = 0.9  # of a slot's memory, when what runs there is gone; the rest is its owner's desktop
REASONABLE_S = 86_400.0  # a job that takes a CPU longer waits for a GPU
CAUTION = 1.15  # a slot that is busy may be so for longer than is thought
LOADED_WEIGHTS_S = 1.5e9  # of a base, from a worker's disk into its slot


class Pool:
    """The slots in the order of (worker, idx). `free`: may be given away; `wait`: seconds until each is free, inf where
    nobody knows or it is kept for another. `kept`: workers with an exclusive job, or kept for one. `shares`: study →
    how many slots it has; `left`: how many are free.
    """

    def __init__(self, slots: Sequence[OpenSlot], costs: Costs) -> None:
        self.slots = sorted(slots, key=lambda slot: (slot.worker, slot.idx))
        self.costs = costs
        self.kept = {slot.worker for slot in slots if slot.exclusive_run}
        self.free: Mask = np.array([s.free and s.worker not in self.kept for s in self.slots], dtype=bool)
        waits = [np.inf if s.worker in self.kept else free_in(s) for s in self.slots]
        self.wait: Values = np.array(waits, dtype=float)
        self.gpu: Mask = np.array([slot.kind == "gpu" for slot in self.slots], dtype=bool)
        with_gpus = {slot.worker for slot in self.slots if slot.kind == "gpu"}
        self.beside_gpu: Mask = np.array([slot.worker in with_gpus for slot in self.slots], dtype=bool)
        self.room: Values = _rooms(self.slots)
        self.fuses = np.array([slot.fuses for slot in self.slots])
        self.shares = Counter(slot.study for slot in self.slots if slot.study is not None)
        self.left = int(self.free.sum())
        self._speeds = [slot.speed or SlotClass(slot.kind) for slot in self.slots]
        self._classes = list(dict.fromkeys(self._speeds))
        self._gpu_classes = np.array([speed.kind == "gpu" for speed in self._classes], dtype=bool)
        self._times = costs.times(tuple(self._classes))
        places = {speed: i for i, speed in enumerate(self._classes)}
        self._class = np.array([places[speed] for speed in self._speeds], dtype=int)
        self._usual = {gpu: _most(self._speeds, gpu) for gpu in (True, False)} if slots else {}
        self._any = np.ones(len(self.slots), dtype=bool)
        self._lacks: dict[str, Mask] = {}
        self._largest = {gpu: _largest(self.slots, gpu) for gpu in (True, False)}
        self._codes: dict[str, tuple[dict[str | None, int], NDArray[np.int_]]] = {}
        self._right = {gpu: ~self.beside_gpu | (self.gpu == gpu) for gpu in (True, False)}
        self._fits: dict[object, Mask] = {}
        self._fetch: dict[tuple[Files, ...], Values] = {}

    def take(self, slot: int, seconds: float) -> None:
        """It was given away, for so long."""
        self.free[slot] = False
        self.wait[slot] = seconds
        self.left -= 1

    def keep(self, worker: str) -> None:
        """Nobody else gets its slots now."""
        self.kept.add(worker)
        own = self.named("worker", worker)
        self.left -= int((self.free & own).sum())
        self.free[own] = False
        self.wait[own] = np.inf

    def named(self, attribute: str, value: str | None) -> Mask:
        """The slots with that worker, hardware or warm_base."""
        if attribute not in self._codes:
            values = [getattr(slot, attribute) for slot in self.slots]
            codes = {each: i for i, each in enumerate(dict.fromkeys(values))}
            self._codes[attribute] = (codes, np.array([codes[each] for each in values], dtype=int))
        codes, coded = self._codes[attribute]
        return coded == codes.get(value, -1)

    def fits(self, job: ReadyJob) -> Mask:
        """Where it may run, free or not."""
        memory = (self.needs(job, True), self.needs(job, False))
        # All that the rules look at: groups of jobs differ in more, and there may be a thousand of them.
        key = (job.kind, job.gpu, job.hardware, job.excluded, memory, self._reasonable(job).tobytes())
        known = self._fits.get(key)
        if known is None:
            known = self.any.copy()
            for rule in RULES.values():
                known &= rule(self, job)
            self._fits[key] = known
        return known

    def right(self, gpu: bool) -> Mask:
        """Which slots take GPU jobs, or the others: of a worker with GPUs those of that kind, else all."""
        return self._right[gpu]

    def can(self, kind: str) -> Mask:
        """Whose workers can do that kind."""
        if kind not in self._lacks:
            able = [not slot.lacks or kind not in dict(slot.lacks) for slot in self.slots]
            self._lacks[kind] = np.array(able, dtype=bool)
        return self._lacks[kind]

    @property
    def any(self) -> Mask:
        """All slots."""
        return self._any

    def needs(self, job: ReadyJob, gpu: bool) -> float:
        """Bytes of a GPU's or a CPU slot's memory. An estimate alone keeps no job from the largest that there is."""
        estimate = self.costs.memory(task_of(job), "gpu" if gpu else "cpu")
        return max(float(job.memory_needed), min(estimate, self._largest[gpu]))

    def reasonable(self, job: ReadyJob) -> Mask:
        """Which slots do it in a reasonable time. A guess at an unknown base keeps nobody from a CPU."""
        return self._reasonable(job)[self._class]

    def _reasonable(self, job: ReadyJob) -> Mask:
        """The same of each class."""
        work = task_of(job)
        return self._gpu_classes | (self._times(work).seconds <= REASONABLE_S) | (not work.known)

    def seconds(self, job: ReadyJob) -> Values:
        """Time of the job in each slot, loading its base included; inf where it may not run."""
        work = task_of(job)
        return np.where(self.fits(job), self._times(work).doubtful[self._class] + self._loading(job), np.inf)

    def taken(self, work: Task) -> Values:
        """Time of the work alone in each slot, wherever it may run."""
        return self._times(work).seconds[self._class]

    def _loading(self, job: ReadyJob) -> Values:
        if job.base is None:
            return np.zeros(len(self.slots))
        load = 1.0 + task_of(job).parameters / LOADED_WEIGHTS_S
        return np.where(self.named("warm_base", job.base), 0.0, load)

    def fetching(self, job: ReadyJob) -> Values | float:
        """Time until its files are there, in each slot."""
        if not job.files:
            return 0.0
        known = self._fetch.get(job.files)
        if known is None:
            known = np.zeros(len(self.slots))
            for files in job.files:
                here = [self.named("worker", worker) for worker in files.workers]
                known += np.where(np.logical_or.reduce(here), 0.0, files.size / TRANSFER_BYTES_S) if here else 0.0
            self._fetch[job.files] = known
        return known

    def usual(self, gpu: bool) -> SlotClass:
        """The class that most GPU slots have, or most others; of all where there are no such slots."""
        return self._usual[gpu]


def _most(speeds: Sequence[SlotClass], gpu: bool) -> SlotClass:
    counts = Counter([speed for speed in speeds if (speed.kind == "gpu") == gpu] or speeds)
    return min(counts, key=lambda speed: (-counts[speed], speed.name))


def free_in(slot: OpenSlot) -> float:
    """Seconds until its run is over; inf where nobody knows, as while its owner keeps it."""
    if slot.hold is not None:
        return np.inf
    if slot.free:
        return 0.0
    return np.inf if slot.busy_s is None else slot.busy_s * CAUTION


def _rooms(slots: Sequence[OpenSlot]) -> Values:
    """Bytes that a job may have. What a warm runner or a job that runs holds goes with it."""
    beside = Counter(slot.worker for slot in slots if slot.kind != "gpu")
    return np.array([_room(slot, beside[slot.worker]) for slot in slots], dtype=float)


def _room(slot: OpenSlot, beside: int) -> float:
    if not slot.memory_free and not slot.memory_total:
        return np.inf
    if slot.kind != "gpu":  # CPU slots share their machine's
        return max(slot.memory_free, slot.memory_total / beside)
    if slot.free and slot.warm_base is None:
        return slot.memory_free
    return max(slot.memory_free, USABLE * slot.memory_total)


def _largest(slots: Sequence[OpenSlot], gpu: bool) -> float:
    """Bytes of the slot with the most memory, when nothing else is in it."""
    sizes = [s.memory_total or s.memory_free or np.inf for s in slots if (s.kind == "gpu") == gpu]
    return USABLE * max(sizes, default=np.inf)


BARE = {kind: Task(kind) for kind in KINDS}
"""The work of jobs that nobody described."""


def task_of(job: ReadyJob) -> Task:
    """Its work; that of a job of its kind where nobody says more."""
    return job.task or BARE[job.kind]


def on_gpu(job: ReadyJob) -> bool:
    """Does it go to a GPU slot where its worker has one?"""
    return job.gpu or KINDS[job.kind].gpu


def _right_kind(pool: Pool, job: ReadyJob) -> Mask:
    """GPU jobs go to GPU slots where their worker has any; the others to CPU slots."""
    return pool.right(on_gpu(job))


def _can(pool: Pool, job: ReadyJob) -> Mask:
    return pool.can(job.kind)


def _of_its_hardware(pool: Pool, job: ReadyJob) -> Mask:
    return pool.named("hardware", job.hardware) if job.hardware else pool.any


def _allowed(pool: Pool, job: ReadyJob) -> Mask:
    if not job.excluded:
        return pool.any
    return np.array([slot.worker not in job.excluded for slot in pool.slots], dtype=bool)


def _roomy(pool: Pool, job: ReadyJob) -> Mask:
    return np.where(pool.gpu, pool.needs(job, True), pool.needs(job, False)) <= pool.room


def _in_reasonable_time(pool: Pool, job: ReadyJob) -> Mask:
    return pool.reasonable(job)


RULES: Mapping[str, Callable[[Pool, ReadyJob], Mask]] = {
    "hardware": _of_its_hardware,
    "kind": _right_kind,
    "lacks": _can,
    "excluded": _allowed,
    "time": _in_reasonable_time,
    "memory": _roomy,
}
"""What a slot must meet to get a job, in the order in which people ask."""
