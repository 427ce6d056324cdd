"""`python -m tests.chaos.stale STUDY JOB WORKER SLOT [JOB WORKER SLOT …]`: a second coordinator, which stood still.

Between its look at the store and what it makes of it others were faster: neither its offers nor its listings may change
anything.

Prints as JSON how many attempts came of its offers, and how many new listings.
"""

import json
import sys
import time
import uuid

from sqlalchemy import Engine

from jsm_queue import coordinator, lifecycle, planner
from jsm_queue.scheduler import Offer
from jsm_queue.settings import settings
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading, writing
from tests.chaos.apibugs import planted


def offer(engine: Engine, job: str, worker: str, slot: int) -> int:
    """How many attempts came of an offer that was decided long ago."""
    with writing(engine) as session:
        choice = Offer((job,), session.get_one(t.Job, job).kind, worker, slot)
        return len(lifecycle.offer(session, choice, uuid.uuid4().hex, [uuid.uuid4().hex], time.time()))


def list_again(engine: Engine, study: str) -> int:
    """How many listings are new of those that somebody else made meanwhile."""
    with reading(engine) as session:
        row = session.get_one(t.Study, study)
        wanted = planner.plan(coordinator._planner_view(session, row, row.hardware or "")).jobs
    with writing(engine) as session:
        return lifecycle.list_jobs(session, study, wanted, time.time())


def main() -> None:
    """All that it decided."""
    study, *words = sys.argv[1:]
    engine = open_store(settings().store_url)
    offers = zip(words[::3], words[1::3], words[2::3], strict=True)
    with planted():
        offered = sum(offer(engine, job, worker, int(slot)) for job, worker, slot in offers)
        print(json.dumps([offered, list_again(engine, study)]))


if __name__ == "__main__":
    main()
