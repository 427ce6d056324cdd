"""How long the jobs that a study has left will take, on the slots that are here now."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from sqlmodel import Session, col, func, select

from jsm_queue import assigning
from jsm_queue.costs import PRIOR, Costs
from jsm_queue.planner import TERMINAL
from jsm_queue.scheduler import OpenSlot, ReadyJob
from jsm_queue.scheduler.pool import Pool, free_in, on_gpu
from jsm_queue.store import costs, works
from jsm_queue.store import tables as t


def seconds_left(session: Session, study: t.Study, now: float) -> float | None:
    """Seconds, as if the pool were this study's alone but for what runs now; None where it does not run, or nobody can
    say.

    Of the jobs known so far: what a later stage adds is not in it, nor a job that stands still.
    """
    if study.state != "running":
        return None
    learned = costs.learned(session)
    slots = assigning.open_slots(session, now, learned)
    return left(_jobs(session, study), slots, learned, study.id)


def _jobs(session: Session, study: t.Study) -> list[tuple[ReadyJob, int]]:
    """The jobs that nobody does yet, those that are alike as one, with how many they are."""
    known = works.known(study)
    if known is None:
        return []
    listing = t.StudyJob
    alike = (t.Job.kind, listing.stage, listing.base, listing.n, listing.format)
    query = (
        select(*alike, func.count(func.distinct(col(t.Job.id))).label("number"))  # type: ignore[call-overload]
        .join(listing, col(listing.job) == col(t.Job.id))
        .where(listing.study == study.id, col(t.Job.state).not_in([*TERMINAL, "active"]))
        .group_by(*alike)
    )
    found = []
    for row in session.exec(query):
        split = "validation" if (row.kind, row.stage) == ("score", "scale") else "bench"
        gpu = row.kind == "judge" and known.facts.judge == "gguf"
        work = known.task(row.kind, {"split": split}, row)
        found.append((ReadyJob(row.kind, row.kind, 0, (), gpu=gpu, task=work), row.number))
    return found


def left(
    jobs: Sequence[tuple[ReadyJob, int]], slots: Sequence[OpenSlot], learned: Costs = PRIOR, study: str | None = None
) -> float | None:
    """Seconds until what `study` has in the slots is over, and so many of each job are done where all slots that fit
    work once they are free; None where one has no slot, and where there is nothing to wait for.
    """
    pool = Pool(slots, learned)
    wait = np.array([free_in(slot) for slot in pool.slots])
    own = np.array([slot.study == study and study is not None for slot in pool.slots], dtype=bool)
    ends = [float(seconds) for seconds in wait[own] if np.isfinite(seconds)]
    begin: dict[bool, float] = {}
    work: dict[bool, float] = defaultdict(float)
    for job, number in jobs:
        seconds = np.where(np.isfinite(wait), pool.seconds(job), np.inf)
        fits = np.isfinite(seconds)
        if not fits.any():
            return None
        ends.append(float((wait + seconds)[fits].min()))
        gpu = on_gpu(job)
        begin[gpu] = max(begin.get(gpu, 0.0), float(wait[fits].mean()))
        work[gpu] += number / float((1 / seconds[fits]).sum())
    ends += [begin[gpu] + work[gpu] for gpu in work]
    return max(ends, default=None)
