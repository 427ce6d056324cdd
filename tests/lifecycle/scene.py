"""Who takes part: five jobs, three studies that share some, two workers; and the store's state, in short names."""

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, SQLModel

from jsm_queue import lifecycle, protocol
from jsm_queue.canonical import content_hash
from jsm_queue.kinds import KINDS, JobDraft
from jsm_queue.planner import Cell, Wanted
from jsm_queue.store import queries
from jsm_queue.store import tables as t

A = JobDraft("convert", {"x": 1})
B = JobDraft("answer", {"x": 2}, {"gguf": A.id})
C = JobDraft("judge", {"x": 3}, {"answers": B.id})
D = JobDraft("convert", {"x": 4})
E = JobDraft("answer", {"x": 5}, {"gguf.0": A.id, "gguf.1": D.id})
JOBS = {"A": A, "B": B, "C": C, "D": D, "E": E}
STUDIES = {"s0": "ABC", "s1": "ADE", "s2": "AB"}
"""Study → the jobs that it lists, needs first."""
SLOTS = {"w0": (0, 1), "w1": (0,)}
"""Worker → its slots."""

NAMES = {draft.id: name for name, draft in JOBS.items()}
HARDWARE = protocol.Hardware(hardware_class="A", os="x", cpu="x", cores=1, memory_bytes=1)
CELL = Cell("bases", "a")


def sha(text: str) -> str:
    """The hash of a file that is called so."""
    return content_hash({"file": text})


def inputs(study: str) -> dict[str, Any]:
    """What a study's submitter uploaded: one file."""
    return {"source": {"sha": sha(study), "suffix": ".yaml"}}


def study_id(study: str) -> str:
    """Its id in the store."""
    return content_hash({"spec": {"name": study}, "inputs": inputs(study)})


STUDY_NAMES = {study_id(study): study for study in STUDIES}


def wanted(study: str) -> list[Wanted]:
    """What the planner would say of a study."""
    return [Wanted("bases", CELL, JOBS[job]) for job in STUDIES[study]]


def submit(session: Session, study: str, now: float) -> tuple[bool, int]:
    """Whether the study is new, and how many of its listings are."""
    row, new = lifecycle.add_study(session, {"name": study}, inputs(study), now)
    return new, lifecycle.list_jobs(session, row.id, wanted(study), now)


def join(session: Session, worker: str) -> None:
    """A machine joins the pool; it has not said hello."""
    invite = t.Token(hash=f"invite {worker}", scope="invite", created_at=0.0)
    session.add(invite)
    lifecycle.join(session, invite, worker, worker, f"token {worker}", 0.0)


def greeting(
    worker: str, boot: str, undelivered: Iterable[str] = (), running: Iterable[str] = (), taken: Collection[int] = ()
) -> protocol.HelloRequest:
    """A worker's first words, its slots free but for those `taken`."""
    return protocol.HelloRequest(
        boot_id=boot,
        hardware=HARDWARE,
        slots=[report(idx, free=idx not in taken) for idx in SLOTS[worker]],
        undelivered=list(undelivered),
        running=list(running),
    )


def report(idx: int, free: bool, run: str | None = None) -> protocol.SlotReport:
    """What a worker says of a slot."""
    return protocol.SlotReport(idx=idx, kind="cpu", device="cpu", vram_free=1, free=free, run=run)


def files(job: str, attempt: str) -> dict[str, str]:
    """Role → sha, of a complete result. Each attempt's bytes are others."""
    return {role: sha(f"{role} of {attempt}") for role in KINDS[JOBS[job].kind].outputs}


def result(files: dict[str, str], records: dict[str, float]) -> protocol.ResultRequest:
    """A result with a score an item."""
    return protocol.ResultRequest(
        records=[protocol.RecordIn(item=item, name="score", value=value) for item, value in records.items()],
        artifacts=[protocol.ArtifactIn(role=role, sha=sha, size=1) for role, sha in files.items()],
    )


def empty(engine: Engine) -> None:
    """Remove every row."""
    with engine.execution_options(jsm_write=True).begin() as connection:
        for table in reversed(SQLModel.metadata.sorted_tables):
            connection.execute(table.delete())


def view(session: Session) -> dict[str, Any]:
    """The store's whole state but for its events, in the form of `Model.view`."""
    rows = {table: _rows(session, f"SELECT {columns} FROM {table}") for table, columns in COLUMNS.items()}
    return {
        "job": {NAMES[row[0]]: _job_row(row[1:]) for row in rows["job"]},
        "listing": {(STUDY_NAMES[study], NAMES[job]) for study, job in rows["study_job"]},
        "study": {STUDY_NAMES[study]: state for study, state in rows["study"]},
        "worker": {row[0]: row[1:] for row in rows["worker"]},
        "slot": {row[:2]: bool(row[2]) for row in rows["slot"]},
        "run": {row[0]: row[1:] for row in rows["run"]},
        "attempt": {row[0]: (NAMES[row[1]], *row[2:]) for row in rows["attempt"]},
        "artifact": {row[0]: row[1:] for row in rows["artifact"]},
        "ref": {(NAMES[row[0]], row[1]): row[2] for row in rows["artifact_ref"]},
        "record": {(NAMES[row[0]], *row[1:3]): row[3:] for row in rows["record"]},
    }


def seen_by_others(session: Session) -> dict[str, Any]:
    """What the coordinator and the workers read from it, in the form of `Model.seen_by_others`."""
    return {
        "ready": {NAMES[row.id] for row in queries.ready_jobs(session)},
        "desired": {worker: queries.desired(session, worker) for worker in SLOTS},
    }


COLUMNS = {
    "job": "id, state, accepted_attempt, charges, losses, ooms, checkpoint, position, checkpoint_prev, position_prev",
    "study_job": "study, job",
    "study": "id, state",
    "worker": "id, boot_id, lease_until, disk_free",
    "slot": "worker, idx, free",
    "run": "id, worker, slot, state, delivery",
    "attempt": "id, job, run, worker, state, reason",
    "artifact": "sha, state, touched_at",
    "artifact_ref": "job, role, sha",
    "record": "job, item, name, attempt, value",
}


def _rows(session: Session, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in session.connection().exec_driver_sql(query)]


def _job_row(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple("" if value is None and place in (5, 7) else value for place, value in enumerate(row))


def events(session: Session, after: int) -> list[tuple[int, str, str | None]]:
    """(number, what, the study, attempt, job or worker that it is about) of the events after a number."""
    columns = "seq, what, study, attempt, job, worker"
    rows = _rows(session, f"SELECT {columns} FROM event WHERE seq > {after} ORDER BY seq")
    return [(seq, what, _about(*about)) for seq, what, *about in rows]


def _about(study: str | None, attempt: str | None, job: str | None, worker: str | None) -> str | None:
    return STUDY_NAMES.get(study or "") or attempt or NAMES.get(job or "") or worker
