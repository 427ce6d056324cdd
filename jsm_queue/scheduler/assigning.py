"""Who gets what: each job in its order where it ends soonest, be that a free slot or one that will be free.

A job that would end sooner where it has to wait leaves the free slot to another: a CPU does not take a training that a
GPU will have done before, nor a slow card the last one of a stage. Who waits counts where it waits, so the queue there
grows until the free slot is the sooner one.

A job that awaits its worker goes to it before any other of its priority, and to another worker after all of them.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jsm_queue.costs import PRIOR, Costs, further_memory
from jsm_queue.scheduler.offers import Offer, OpenSlot, ReadyJob
from jsm_queue.scheduler.order import IN_ORDER, Group, Turns, by_priority, groups
from jsm_queue.scheduler.pool import Pool, Values, task_of

WAITS = 4  # jobs of a group that wait, one after the other, before the rest is placed at once
LOOKS = 2  # jobs a slot that may wait, before all the rest is
FUSED = 0.95  # of the time of one after the other (8B on a stand-in for an RTX 4060 Ti, measured 2026-11)


def assign(ready: Sequence[ReadyJob], slots: Sequence[OpenSlot], costs: Costs = PRIOR) -> list[Offer]:
    """At most one offer a job and a slot. Equal input gives equal output, whatever its order."""
    if not any(slot.free for slot in slots):
        return []
    pool = Pool(slots, costs)
    offers = _reserve((job for job in ready if job.exclusive), pool)
    for level in by_priority(groups((job for job in ready if not job.exclusive), pool)):
        if not pool.left:
            break
        awaiting = [group for group in level if group.first.awaits]
        offers += [offer for group in awaiting for offer in _reunite(group, pool)]
        offers += _place([group for group in level if not group.first.awaits], pool)
        offers += _place([group for group in awaiting if group.left], pool)
    return offers


def _reserve(waiting: Iterable[ReadyJob], pool: Pool) -> list[Offer]:
    """Each exclusive job reserves a worker of its class: offered when all its slots are free, else kept empty."""
    offers = []
    for job in sorted(waiting, key=lambda job: (-job.priority, *IN_ORDER(job))):
        worker = reserved_worker(job, pool)
        if worker is None:
            continue
        own = np.flatnonzero(pool.named("worker", worker))
        first = min(own, key=lambda i: (not pool.gpu[i], pool.slots[i].idx))
        if pool.free[own].all():
            offers.append(Offer((job.id,), job.kind, worker, pool.slots[first].idx))
        pool.keep(worker)
    return offers


def reserved_worker(job: ReadyJob, pool: Pool) -> str | None:
    """The worker that an exclusive job waits for: the one of its class that is free first; None where there is none."""
    workers = {pool.slots[i].worker for i in np.flatnonzero(pool.fits(job))} - pool.kept
    return min(sorted(workers), key=lambda worker: _emptiness(pool, worker)) if workers else None


def _emptiness(pool: Pool, worker: str) -> tuple[float, int]:
    own = pool.named("worker", worker)
    return float(pool.wait[own].max()), -int(pool.free[own].sum())


def _reunite(group: Group, pool: Pool) -> Iterator[Offer]:
    """What a worker began goes on there."""
    own = np.flatnonzero(pool.free & pool.named("worker", group.first.awaits) & group.fits)
    for slot in own:
        if group.left:
            yield _give(group, int(slot), float(group.seconds[slot]), pool)


def _place(level: Sequence[Group], pool: Pool) -> list[Offer]:
    """Jobs of one priority: one by one while that matters, the rest of each group at once."""
    offers: list[Offer] = []
    rest: list[Group] = []
    looks = LOOKS * len(pool.slots)
    turns = Turns(level, pool)
    for group in turns:
        if not pool.left:
            return offers
        if looks <= 0 or group.waits >= WAITS or not (pool.free & group.fits).any():
            turns.drop(group)
            rest.append(group)
            continue
        offer = _place_next(group, pool)
        looks -= offer is None
        offers += [offer] if offer else []
    for group in rest:
        offers += _place_rest(group, pool) if pool.left else []
    return offers


def _place_next(group: Group, pool: Pool) -> Offer | None:
    """The group's next job goes where it ends soonest; None where that is a slot that is not free yet."""
    (job,) = group.next()
    ends = pool.wait + group.seconds + pool.fetching(job)
    best = int(ends.argmin())
    if pool.free[best]:
        return _give(group, best, float(ends[best]), pool)
    pool.wait[best] = ends[best]
    group.placed += 1
    group.waits += 1
    return None


def _place_rest(group: Group, pool: Pool) -> list[Offer]:
    """All that is left of a group at once: a free slot gets one of its jobs if that ends before the others would do
    the whole.
    """
    level = ending(pool.wait, group.seconds, group.left)
    offers = []
    free = np.flatnonzero(pool.free & group.fits & (group.seconds <= level))
    for slot in free[np.argsort(group.seconds[free], kind="stable")]:
        if group.left:
            offers.append(_give(group, int(slot), float(group.seconds[slot]), pool))
    pool.wait = np.where(group.fits, np.maximum(pool.wait, level), pool.wait)
    return offers


def ending(wait: Values, seconds: Values, jobs: int) -> float:
    """When so many equal jobs are done on slots that are free in `wait` and take `seconds` for one, each slot working
    until then; inf where there is no such slot.
    """
    usable = np.isfinite(wait) & np.isfinite(seconds)
    wait, rate = wait[usable], 1 / seconds[usable]
    level = np.inf
    while len(wait):
        level = (jobs + (wait * rate).sum()) / rate.sum()
        early = wait < level
        if early.all():
            break
        wait, rate = wait[early], rate[early]
    return float(level)


def _give(group: Group, slot: int, ends: float, pool: Pool) -> Offer:
    """The slot gets the group's next job, and with it others that go through its engine together."""
    jobs = group.next(_together(group, slot, pool))
    group.placed += len(jobs)
    group.waits = 0
    pool.take(slot, ends + (len(jobs) - 1) * FUSED * float(group.seconds[slot]))
    where = pool.slots[slot]
    return Offer(tuple(job.id for job in jobs), jobs[0].kind, where.worker, where.idx)


def _together(group: Group, slot: int, pool: Pool) -> int:
    """How many trainings of a group one slot takes: no more than its engine and its memory do, and that there is
    something for every slot.
    """
    job = group.first
    if job.fuses is None or pool.fuses[slot] < 2:
        return 1
    spare = pool.room[slot] - pool.needs(job, bool(pool.gpu[slot]))
    fitting = int(spare // further_memory(task_of(job))) + 1 if np.isfinite(spare) else int(pool.fuses[slot])
    return max(1, min(int(pool.fuses[slot]), fitting, -(-len(group.jobs) // group.fitting)))
