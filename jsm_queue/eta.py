"""How long the jobs that a study has left will take, on the slots that are here now."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from sqlmodel import Session, col, func, select

from jsm_queue import assigning
from jsm_queue.costs import PRIOR, Costs
from jsm_queue.planner import TERMINAL
from jsm_queue.scheduler import OpenSlot, ReadyJob
from jsm_queue.scheduler.pool import Pool, on_gpu
from jsm_queue.store import costs, works
from jsm_queue.store import tables as t


def seconds_left(session: Session, study: t.Study, now: float) -> float | None:
    """Seconds, as if the pool were this study's alone; None where it does not run, or nobody can say.

    Of the jobs known so far: what a later stage adds is not in it.
    """
    if study.state != "running":
        return None
    learned = costs.learned(session)
    jobs = _jobs(session, study)
    slots = assigning.open_slots(session, now, learned)
    return left(jobs, slots, learned) if jobs and slots else None


def _jobs(session: Session, study: t.Study) -> list[tuple[ReadyJob, int]]:
    """The open jobs that are alike as one, with how many they are."""
    known = works.known(study)
    if known is None:
        return []
    listing = t.StudyJob
    alike = (t.Job.kind, listing.stage, listing.base, listing.n, listing.format)
    query = (
        select(*alike, func.count(func.distinct(col(t.Job.id))).label("number"))  # type: ignore[call-overload]
        .join(listing, col(listing.job) == col(t.Job.id))
        .where(listing.study == study.id, col(t.Job.state).not_in(list(TERMINAL)))
        .group_by(*alike)
    )
    found = []
    for row in session.exec(query):
        split = "validation" if (row.kind, row.stage) == ("score", "scale") else "bench"
        gpu = row.kind == "judge" and known.facts.judge == "gguf"
        work = known.task(row.kind, {"split": split}, row)
        found.append((ReadyJob(row.kind, row.kind, 0, (), gpu=gpu, task=work), row.number))
    return found


def left(jobs: Sequence[tuple[ReadyJob, int]], slots: Sequence[OpenSlot], learned: Costs = PRIOR) -> float | None:
    """Seconds until so many of each job are done where all slots that fit work; None where one has no slot."""
    pool = Pool(slots, learned)
    work: dict[bool, float] = defaultdict(float)
    longest = 0.0
    for job, number in jobs:
        seconds = pool.seconds(job)
        if not np.isfinite(seconds).any():
            return None
        longest = max(longest, float(seconds.min()))
        work[on_gpu(job)] += number / float((1 / seconds).sum())
    return max([longest, *work.values()])
