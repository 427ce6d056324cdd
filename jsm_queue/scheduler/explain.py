"""Why a job waits, in one sentence: by the rules that give it a slot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jsm_queue.costs import Costs
from jsm_queue.scheduler.assigning import assign, reserved_worker
from jsm_queue.scheduler.offers import OpenSlot, ReadyJob
from jsm_queue.scheduler.order import groups
from jsm_queue.scheduler.pool import RULES, Mask, Pool, on_gpu, task_of

GB = 1e9


@dataclass(frozen=True)
class Need:
    """A job that another needs and that is not done. `label`: for people; `worker`: the name of who runs it."""

    label: str
    state: str
    worker: str | None = None


@dataclass(frozen=True)
class Situation:
    """A job as the store has it. `studies`: name and state of those that list it. Of its newest attempt: its `worker`'s
    name, its state as `attempt`, how many seconds ago that began, where it is, and why it stands still. `rests_s`: for
    how long it is not offered, as its judge's server was away. `away_s`: for how long the worker of an active one is
    away. `set_aside`: name and state of the workers that are told to take no jobs.
    """

    state: str
    error: str | None = None
    studies: tuple[tuple[str, str], ...] = ()
    needs: tuple[Need, ...] = ()
    worker: str | None = None
    attempt: str | None = None
    since_s: float = 0.0
    position: int = 0
    total: int = 0
    paused: str | None = None
    job: str = ""
    rests_s: float | None = None
    away_s: float | None = None
    set_aside: tuple[tuple[str, str], ...] = ()


def explain(now: Situation, ready: Sequence[ReadyJob], slots: Sequence[OpenSlot], costs: Costs) -> str:
    """Why the job waits, where it runs, or why it ended. `ready`: all jobs that `assign` would be asked about."""
    if now.state == "done":
        return f"it is done: {now.worker} delivered its result" if now.worker else "it is done"
    if now.state in ("failed", "quarantined", "skipped"):
        return f"it {'was ' * (now.state != 'failed')}{now.state}: {now.error or 'nobody says why'}"
    if now.state == "active":
        return _runs(now)
    if unwanted := _unwanted(now):
        return unwanted
    if now.state == "waiting":
        return _needs(now)
    if now.rests_s is not None:
        return f"its judge's server was away; it is asked again in about {about(now.rests_s)}"
    if not slots:
        aside = " and ".join(f"{name} is {state}" for name, state in now.set_aside)
        return "no worker is here that takes jobs" + (f": {aside}" if aside else "")
    own = next((job for job in ready if job.id == now.job), None)
    return "it is not among the jobs that may be offered" if own is None else _waits(own, ready, slots, costs)


def _runs(now: Situation) -> str:
    if now.attempt == "offered":
        return f"it was offered to {now.worker}, which has not claimed it yet"
    if now.paused:
        return f"it stands still on {now.worker}: {now.paused}"
    if now.attempt == "delivering":
        return f"{now.worker} has its whole result and delivers it"
    far = f", at {now.position} of {now.total}" if now.total else ""
    if now.away_s is not None:
        gone = f"it was on {now.worker}{far} when that went away, {about(now.away_s)} ago"
        return f"{gone}; it goes on there or on another worker"
    return f"it runs on {now.worker} since {about(now.since_s)}{far}"


def _unwanted(now: Situation) -> str | None:
    if any(state == "running" for _, state in now.studies):
        return None
    if not now.studies:
        return "no study lists it"
    state = "paused" if any(state == "paused" for _, state in now.studies) else now.studies[0][1]
    names = sorted({name for name, each in now.studies if each == state})
    whose = f"study {names[0]} is" if len(names) == 1 else f"studies {', '.join(names)} are"
    return f"its {whose} {state}"


def _needs(now: Situation) -> str:
    if not now.needs:
        return "all it needs is done; it becomes ready with the next look"
    order = ("active", "ready", "waiting")
    first = min(now.needs, key=lambda need: (order.index(need.state) if need.state in order else 9, need.label))
    doing = f"runs on {first.worker}" if first.state == "active" and first.worker else f"is {first.state} itself"
    more = f", and {len(now.needs) - 1} more" if len(now.needs) > 1 else ""
    return f"it needs {first.label}, which {doing}{more}"


def _waits(own: ReadyJob, ready: Sequence[ReadyJob], slots: Sequence[OpenSlot], costs: Costs) -> str:
    pool = Pool(slots, costs)
    left = np.ones(len(slots), dtype=bool)
    for name, rule in RULES.items():
        before, left = left, left & rule(pool, own)
        if not left.any():
            return MISFITS[name](pool, own, before)
    if any(own.id in offer.jobs for offer in assign(ready, slots, costs)):
        return "a slot is free for it; it is offered with the next look"
    if own.exclusive:
        return _reserves(own, ready, pool)
    return _queues(own, ready, pool, left)


def _no_hardware(pool: Pool, own: ReadyJob, _: Mask) -> str:
    return f"it waits for a worker of class {own.hardware!r}, and none is here"


def _no_kind(pool: Pool, own: ReadyJob, _: Mask) -> str:
    return f"no worker here has a {'GPU' if on_gpu(own) else 'CPU'} slot for it"


def _none_can(pool: Pool, own: ReadyJob, before: Mask) -> str:
    slot = pool.slots[int(np.flatnonzero(before)[0])]
    return f"no worker here can do {own.kind}: {slot.name or slot.worker} lacks it: {dict(slot.lacks)[own.kind]}"


def _all_excluded(pool: Pool, own: ReadyJob, before: Mask) -> str:
    names = sorted({pool.slots[i].name or pool.slots[i].worker for i in np.flatnonzero(before)})
    return f"it is kept from {', '.join(names)}, whose disk is too full for it"


def _too_slow(pool: Pool, own: ReadyJob, before: Mask) -> str:
    soonest = float(pool.taken(task_of(own))[before].min())
    return f"it needs a GPU: the CPUs here would take about {about(soonest)} for it"


def _no_room(pool: Pool, own: ReadyJob, before: Mask) -> str:
    gpu = bool(pool.gpu[before].any())
    most = float(pool.room[before & (pool.gpu == gpu)].max())
    memory = "GPU memory" if gpu else "memory"
    return f"no slot fits: it needs {pool.needs(own, gpu) / GB:.1f} GB of {memory}, the most free is {most / GB:.1f} GB"


MISFITS: dict[str, Callable[[Pool, ReadyJob, Mask], str]] = {
    "hardware": _no_hardware,
    "kind": _no_kind,
    "lacks": _none_can,
    "excluded": _all_excluded,
    "time": _too_slow,
    "memory": _no_room,
}
"""Rule of the pool → what it means for a job that no slot is left for."""


def _reserves(own: ReadyJob, ready: Sequence[ReadyJob], pool: Pool) -> str:
    worker = reserved_worker(own, pool)
    if worker is None:
        return "it needs a whole worker of its class, and all of them are taken by jobs like it"
    busy = pool.named("worker", worker) & ~pool.free
    name = next(slot.name or worker for slot in pool.slots if slot.worker == worker)
    if not busy.any():
        return f"it needs all of {name}, which another job like it has first"
    return f"it needs all of {name}, which is kept for it; {_until(pool, busy)}"


def _queues(own: ReadyJob, ready: Sequence[ReadyJob], pool: Pool, fitting: Mask) -> str:
    kept = _kept_for(ready, pool)
    if kept and all(pool.slots[i].worker in kept for i in np.flatnonzero(fitting)):
        return f"the slots that fit are kept for {', '.join(sorted(set(kept.values())))}, which needs a whole worker"
    held = np.array([slot.hold is not None for slot in pool.slots], dtype=bool) & fitting
    if (held == fitting).all():
        return _keeps(pool, held, "what fits")
    fitting = fitting & ~held
    before = _before(own, ready, pool)
    ahead = f"; {before} job{'s go' if before > 1 else ' goes'} before it" if before else ""
    if own.awaits:
        ahead += "; a worker that went away has more of it done, and goes on with it when it is back"
    if held.any():
        ahead += f"; {_keeps(pool, held, 'what fits there')}"
    if (fitting & pool.free).any():
        if before:
            return f"the slots that are free go to others first{ahead}"
        return f"a slot is free, but it ends sooner where it waits: {_until(pool, fitting & ~pool.free)}"
    slots = "slot that fits is" if fitting.sum() == 1 else f"{int(fitting.sum())} slots that fit are"
    return f"the {slots} busy; {_until(pool, fitting)}{ahead}"


def _keeps(pool: Pool, held: Mask, what: str) -> str:
    first = pool.slots[int(np.flatnonzero(held)[0])]
    return f"the owner of {first.name or first.worker} keeps {what}: {first.hold}"


def _kept_for(ready: Sequence[ReadyJob], pool: Pool) -> dict[str, str]:
    """Worker → the kind of the exclusive job that has it, or that it is kept for."""
    kept = {slot.worker: "latency" for slot in pool.slots if slot.exclusive_run}
    for job in sorted((job for job in ready if job.exclusive), key=lambda job: (-job.priority, job.order, job.id)):
        worker = reserved_worker(job, pool)
        if worker is not None:
            pool.keep(worker)
            kept[worker] = job.kind
    return kept


def _before(own: ReadyJob, ready: Sequence[ReadyJob], pool: Pool) -> int:
    """How many jobs go before it."""
    count = 0
    for group in groups((job for job in ready if not job.exclusive), pool):
        ids = [job.id for job in group.jobs]
        if own.id in ids:
            return count + ids.index(own.id)
        count += len(ids)
    return count


def _until(pool: Pool, which: Mask) -> str:
    soonest = float(pool.wait[which].min())
    if not np.isfinite(soonest):
        return "nobody knows yet when the next is free"
    return f"the next is free in about {about(soonest)}"


def about(seconds: float) -> str:
    """ "40 s", "5 min", "2.5 h", "3 days"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    if seconds < 100 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{round(seconds / 86_400)} days"
