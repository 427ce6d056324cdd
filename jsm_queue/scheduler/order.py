"""Which job comes first.

Priority, then the study with the fewest slots, and of its jobs the one with the longest way to its stage's end, the
longer the fewer slots it fits; and whoever waits moves up, a second a second, so that nobody starves.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import attrgetter

import numpy as np

from jsm_queue.scheduler.offers import Alike, ReadyJob
from jsm_queue.scheduler.pool import Mask, Pool, Values, on_gpu, task_of

IN_ORDER = attrgetter("order", "id")
SINCE = attrgetter("since")


@dataclass
class Group:
    """Jobs that are alike, of which `first` is the first. The pool's slots that suit them: `fits`, so many as are
    `fitting`. Some are `placed`: they have a slot, or wait for one; the last `waits` of them do.
    """

    first: ReadyJob
    jobs: list[ReadyJob]
    pool: Pool
    fits: Mask
    fitting: int
    rank: float
    placed: int = 0
    waits: int = 0

    @cached_property
    def seconds(self) -> Values:
        """What each takes in every slot, inf where it may not run. Not before: most groups have no turn."""
        return self.pool.seconds(self.first)

    @property
    def left(self) -> int:
        """How many have no place yet."""
        return len(self.jobs) - self.placed

    def next(self, count: int = 1) -> tuple[ReadyJob, ...]:
        """The next ones that need a place, in their order."""
        if not self.placed:
            self.jobs.sort(key=IN_ORDER)
        return tuple(self.jobs[self.placed : self.placed + count])


def groups(ready: Iterable[ReadyJob], pool: Pool) -> list[Group]:
    """The jobs that some slot fits, the highest priority first, and of each study the most urgent first."""
    alike: defaultdict[Alike, list[ReadyJob]] = defaultdict(list)
    for job in ready:
        alike[job.alike].append(job)
    found = [_group(jobs, pool) for jobs in alike.values()]
    return sorted((g for g in found if g.fitting), key=lambda g: (-g.first.priority, -g.rank, IN_ORDER(g.first)))


def _group(jobs: list[ReadyJob], pool: Pool) -> Group:
    first = min(jobs, key=IN_ORDER)
    fits = pool.fits(first)
    fitting = int(np.count_nonzero(fits))
    path = pool.costs.path(task_of(first), pool.usual(on_gpu(first)))
    scarcity = len(pool.slots) / max(fitting, 1)
    return Group(first, jobs, pool, fits, fitting, path * scarcity - min(map(SINCE, jobs)))


def by_priority(ordered: Iterable[Group]) -> Iterator[list[Group]]:
    """The groups of each priority, the highest first."""
    for _, same in groupby(ordered, key=lambda group: group.first.priority):
        yield list(same)


class Turns:
    """Whose turn it is: the study's that has the fewest slots. Its first group stays until it is dropped."""

    def __init__(self, ordered: Iterable[Group], pool: Pool) -> None:
        self._queues: dict[str, deque[Group]] = {}
        for group in ordered:
            self._queues.setdefault(group.first.study, deque()).append(group)
        self._heap = [(pool.shares[study], study) for study in self._queues]
        heapq.heapify(self._heap)

    def __iter__(self) -> Iterator[Group]:
        """Each time the group whose next job needs a place."""
        while self._heap:
            share, study = self._heap[0]
            queue = self._queues[study]
            while queue and not queue[0].left:
                queue.popleft()
            if not queue:
                heapq.heappop(self._heap)
                continue
            heapq.heapreplace(self._heap, (share + 1, study))
            yield queue[0]

    def drop(self, group: Group) -> None:
        """It takes no more turns."""
        self._queues[group.first.study].popleft()
