"""A lower bound of a scenario's makespan that no scheduler can beat, even one that knows everything.

Three things hold whatever a scheduler does. (1) Jobs that wait for each other take at least the sum of their shortest
times, each on the fastest slot that it fits. (2) Slots do no more work than they have time: if slot class c had a price
y_c a second, the time that its slots have until T would be worth Σ_c y_c · time_c(T), and the jobs cost at least
Σ_j min_c (seconds_jc · y_c), whoever runs them. By linear programming's weak duality this holds for any prices; the
best ones found make it the bound of fractional assignment, where jobs may be split over unequal slots. (3) A stage
begins when the one before it is over. So, stage by stage, T = max(path, area) from when the one before can be over at
the earliest, with the time that slots are there. Lost work, leases, loading of bases and the coordinator's looks are
in no bound.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import FREE, Job, Trace, actual
from jsm_queue import costs
from jsm_queue.assigning import STAGES
from jsm_queue.costs import SlotClass
from jsm_queue.scheduler import OpenSlot
from jsm_queue.scheduler.pool import on_gpu

ROUNDS = 400  # of the search for prices
HORIZON_S = 400 * 3600.0

Matrix = NDArray[np.float64]


class Slots:
    """The slots by class, and how much time each class has until T."""

    def __init__(self, slots: Sequence[OpenSlot], trace: Trace) -> None:
        self.beside = {slot.worker for slot in slots if slot.kind == "gpu"}
        keys = [(slot.speed or SlotClass(slot.kind), slot.worker in self.beside) for slot in slots]
        self.classes = sorted(set(keys), key=lambda key: (key[0].kind, key[0].name, key[1]))
        self.count = np.array([keys.count(each) for each in self.classes], dtype=float)
        self.memory = {slot.speed: slot.memory_total * FREE for slot in slots}
        self.gone = [
            sorted(
                times
                for slot, key in zip(slots, keys, strict=True)
                if key == each
                for times in trace.away.get(slot.worker, ())
            )
            for each in self.classes
        ]

    def seconds(self, job: Job, bias: dict[tuple[str, str], float]) -> Matrix:
        """Of a job in each class; inf where it may not run."""
        gpu = on_gpu(job.ready)
        found = np.full(len(self.classes), np.inf)
        for c, (speed, beside) in enumerate(self.classes):
            right = not beside or (speed.kind == "gpu") == gpu
            fits = costs.memory(job.task, speed.kind) <= self.memory[speed] + 1
            if right and fits and (job.ready.hardware in (None, speed.name)):
                found[c] = actual(job, speed, bias)
        return found

    def time(self, start: float, end: float) -> Matrix:
        """Seconds that each class's slots have between the two."""
        total = self.count * (end - start)
        for c, gone in enumerate(self.gone):
            for left, back in gone:
                if left >= end:
                    break
                total[c] -= max(0.0, min(back, end) - max(left, start))
        return total


def bound(
    slots: Sequence[OpenSlot], studies: Sequence[Sequence[Job]], trace: Trace, bias: dict[tuple[str, str], float]
) -> float:
    """Seconds. Several studies share the slots: then it is the larger of all their work's area and each one's own."""
    here = Slots(slots, trace)
    matrices = [np.array([here.seconds(job, bias) for job in jobs]) for jobs in studies]
    alone = [_stages(here, jobs, matrix) for jobs, matrix in zip(studies, matrices, strict=True)]
    return max([*alone, area(here, np.concatenate(matrices), 0.0)])


def _stages(here: Slots, jobs: Sequence[Job], seconds: Matrix) -> float:
    """One study: its stages one after the other. What waits for no verdict may run in any stage."""
    at = 0.0
    shortest = seconds.min(axis=1)
    stages = sorted({STAGES.index(job.stage) for job in jobs})
    for stage in stages:
        own = np.array([STAGES.index(job.stage) == stage and job.barrier == stage for job in jobs])
        until = np.array([STAGES.index(job.stage) <= stage for job in jobs])
        at = max(at + path(jobs, shortest, own), area(here, seconds[own], at), area(here, seconds[until], 0.0))
    return at


def path(jobs: Sequence[Job], shortest: Matrix, own: NDArray[np.bool_]) -> float:
    """The longest chain of needs among those jobs. They are in the order of their needs."""
    ends = np.zeros(len(jobs))
    for place in _in_order(jobs):
        ends[place] += shortest[place] if own[place] else 0.0
        for following in jobs[place].next:
            ends[following] = max(ends[following], ends[place])
    return float(ends.max())


def _in_order(jobs: Sequence[Job]) -> list[int]:
    left = [job.needs for job in jobs]
    order = [place for place, needs in enumerate(left) if not needs]
    for place in order:
        for following in jobs[place].next:
            left[following] -= 1
            if not left[following]:
                order.append(following)
    return order


def area(here: Slots, seconds: Matrix, start: float) -> float:
    """The earliest end of that much work, begun at `start`: the largest over the prices that were tried."""
    if not len(seconds):
        return start
    best = start
    for prices in _prices(here, seconds):
        worth = float((seconds * prices).min(axis=1, where=np.isfinite(seconds), initial=np.inf).sum())
        best = max(best, _end(here, prices, worth, start))
    return best


def _prices(here: Slots, seconds: Matrix) -> list[Matrix]:
    """Prices by rounds of raising those of the classes that too many jobs would choose. The best few."""
    finite = np.where(np.isfinite(seconds), seconds, 1e12)
    usable = np.isfinite(seconds).any(axis=0)
    prices = np.where(usable, 1 / here.count.sum(), 1e-12)
    tried: list[tuple[float, Matrix]] = []
    for turn in range(ROUNDS):
        prices = np.maximum(prices, 1e-12)
        prices = prices / (prices * here.count).sum()
        cost = finite * prices
        chosen = cost.argmin(axis=1)
        tried.append((float(cost[np.arange(len(cost)), chosen].sum()), prices))
        load = np.bincount(chosen, finite[np.arange(len(cost)), chosen], minlength=len(prices)) / here.count
        mean = max(float((load * here.count).sum() / here.count.sum()), 1e-9)
        step = 0.3 / (1 + turn / 20)
        prices = prices * np.exp(step * np.clip(load / mean - 1, -1, 2))
    return [prices for _, prices in sorted(tried, key=lambda each: -each[0])[:3]]


def _end(here: Slots, prices: Matrix, worth: float, start: float) -> float:
    """When the slots' time since `start` is worth so much."""
    low, high = start, start + 1.0
    while float((here.time(start, high) * prices).sum()) < worth and high < start + HORIZON_S:
        high = start + 2 * (high - start)
    for _ in range(40):
        middle = (low + high) / 2
        if float((here.time(start, middle) * prices).sum()) < worth:
            low = middle
        else:
            high = middle
    return low
