"""The tables. States and their changes: `jsm_queue/lifecycle.py`, which alone writes them.

Times are seconds since the epoch, by the api's clock. Ids of studies and jobs are content hashes; ids of workers, runs
and attempts are random.
"""

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, String, text
from sqlmodel import Field, SQLModel
from sqlmodel.sql.sqltypes import AutoString

TEXT = String().with_variant(String(collation="C"), "postgresql")
"""Ordered by code points on both databases, so that equal records give equal verdict bytes."""
BIG = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits: sizes in bytes, and numbers that only grow. SQLite's integers have them anyway."""


def _json(nullable: bool = False) -> Any:
    return Field(default=None if nullable else ..., sa_column=Column(JSON, nullable=nullable))


class Study(SQLModel, table=True):
    """One spec and what follows from it. state: running | paused | cancelled | ended."""

    id: str = Field(primary_key=True)
    name: str
    spec: dict[str, Any] = _json()
    inputs: dict[str, Any] = _json()
    state: str = Field(index=True)
    priority: int = 0
    hardware: str | None = Field(default=None, description="hardware class of the latency jobs, fixed once")
    created_at: float
    ended_at: float | None = None


class StudyJob(SQLModel, table=True):
    """Which cell of which stage a study wants a job for. `reused`: it was done before the study listed it."""

    __tablename__ = "study_job"  # type: ignore[assignment]
    study: str = Field(primary_key=True, foreign_key="study.id")
    job: str = Field(primary_key=True, foreign_key="job.id", index=True)
    stage: str = Field(primary_key=True)
    cell: str = Field(primary_key=True)
    base: str | None = None
    n: int | None = None
    seed: int | None = None
    format: str | None = None
    reused: bool = False
    # The job too: who counts what a study reuses need not read its rows.
    __table_args__ = (Index("listing_by_reuse", "study", "reused", "job"),)


class VerdictRow(SQLModel, table=True):
    """What a stage decided, written once per look."""

    __tablename__ = "verdict"  # type: ignore[assignment]
    study: str = Field(primary_key=True, foreign_key="study.id")
    stage: str = Field(primary_key=True)
    look: int = Field(primary_key=True)
    decision: dict[str, Any] = _json()
    evidence: dict[str, Any] = _json()
    rules_version: int
    created_at: float


class Job(SQLModel, table=True):
    """One unit of work. state: waiting | ready | active | done | failed | quarantined | skipped.

    `charges`: attempts that crashed or stalled, on the workers `charged`; `losses`: lost ones in a row without a new
    checkpoint; `ooms`: those that ran out of memory. `checkpoint`, `position`: the newest checkpoint and where it
    stands, `…_prev`: the one before it. `solo`: it was in a fused run that failed, and runs alone from now on.
    `memory_needed`: bytes that a slot must have free, learnt from what was too small; 0: as the cost model says.
    """

    id: str = Field(primary_key=True)
    kind: str
    params: dict[str, Any] = _json()
    state: str
    accepted_attempt: str | None = None
    charges: int = 0
    charged: list[str] | None = _json(nullable=True)
    losses: int = 0
    ooms: int = 0
    memory_needed: int = Field(default=0, sa_type=BIG)  # type: ignore[call-overload]
    solo: bool = False
    checkpoint: str | None = None
    position: int = Field(default=0, sa_type=BIG)  # type: ignore[call-overload]
    checkpoint_prev: str | None = None
    position_prev: int = Field(default=0, sa_type=BIG)  # type: ignore[call-overload]
    created_at: float
    ended_at: float | None = None
    error: str | None = None
    # The id too: who counts jobs by state need not read their rows.
    __table_args__ = (Index("job_by_state", "state", "id"),)


class JobNeed(SQLModel, table=True):
    """Job `job` needs the result of job `needs`, under the name `name`."""

    __tablename__ = "job_need"  # type: ignore[assignment]
    job: str = Field(primary_key=True, foreign_key="job.id")
    name: str = Field(primary_key=True)
    needs: str = Field(foreign_key="job.id", index=True)


class Worker(SQLModel, table=True):
    """One machine of the pool. state: active | paused | draining | removed, as people want it.

    `boot_id`: its session, since `hello_at`; `control_rev` grows when a desired state may have changed. `disk_free`:
    bytes that it can still write, as last reported. `broker_secret_hash`: sha256 of its password at the broker.
    """

    id: str = Field(primary_key=True)
    name: str
    state: str = "active"
    token_hash: str = Field(index=True)
    broker_secret_hash: str | None = None
    boot_id: str | None = None
    hello_at: float = 0.0
    lease_until: float = 0.0
    hardware: dict[str, Any] | None = _json(nullable=True)
    disk_free: int | None = Field(default=None, sa_type=BIG)  # type: ignore[call-overload]
    control_rev: int = 0
    joined_at: float


class Slot(SQLModel, table=True):
    """Each GPU of a worker and its CPU slots, as last reported. `vram_free`, `vram_total` in bytes.

    `hold`: why its owner keeps it.
    """

    worker: str = Field(primary_key=True, foreign_key="worker.id")
    idx: int = Field(primary_key=True)
    kind: str
    device: str
    vram_free: int = Field(sa_type=BIG)  # type: ignore[call-overload]
    vram_total: int = Field(default=0, sa_type=BIG)  # type: ignore[call-overload]
    free: bool
    hold: str | None = None
    warm_base: str | None = None


class Run(SQLModel, table=True):
    """What one slot executes now. state: offered | claimed | closed."""

    id: str = Field(primary_key=True)
    worker: str = Field(foreign_key="worker.id")
    slot: int
    state: str
    offered_at: float
    delivery: str | None = None
    __table_args__ = (
        Index(
            "one_open_run_a_slot",
            "worker",
            "slot",
            unique=True,
            sqlite_where=text("state != 'closed'"),
            postgresql_where=text("state != 'closed'"),
        ),
    )


LIVE = ("offered", "running", "delivering", "suspect")


class Attempt(SQLModel, table=True):
    """One try at one job; its random id is the fencing token.

    state: offered | running | delivering | suspect | accepted | ended; `reason` says how it ended. `began_at`: the
    job's position when it was offered, `disk_free`: what its worker could write then. `memory_free`: what its slot had
    free then, in bytes. `paused`: why it stands still, as last reported.
    """

    id: str = Field(primary_key=True)
    job: str = Field(foreign_key="job.id", index=True)
    run: str = Field(foreign_key="run.id", index=True)
    worker: str = Field(foreign_key="worker.id", index=True)
    state: str
    reason: str | None = Field(default=None, index=True)
    message: str | None = None
    log_tail: str | None = None
    began_at: int = Field(default=0, sa_type=BIG)  # type: ignore[call-overload]
    disk_free: int | None = Field(default=None, sa_type=BIG)  # type: ignore[call-overload]
    position: int = Field(default=0, sa_type=BIG)  # type: ignore[call-overload]
    total: int = Field(default=0, sa_type=BIG)  # type: ignore[call-overload]
    metrics: dict[str, Any] | None = _json(nullable=True)
    memory_free: int = Field(default=0, sa_type=BIG)  # type: ignore[call-overload]
    paused: str | None = None
    provenance: dict[str, Any] | None = _json(nullable=True)
    offered_at: float
    started_at: float | None = None
    ended_at: float | None = None
    __table_args__ = (
        Index(
            "one_live_attempt_a_job",
            "job",
            unique=True,
            sqlite_where=text(f"state IN {LIVE}"),
            postgresql_where=text(f"state IN {LIVE}"),
        ),
        Index("attempt_by_state", "state", "worker"),
    )


class Artifact(SQLModel, table=True):
    """A content-addressed file in the api's storage. state: whole | doomed, which is about to be removed.

    `touched_at`: when somebody last relied on its being here.
    """

    sha: str = Field(primary_key=True)
    size: int = Field(sa_type=BIG)  # type: ignore[call-overload]
    state: str = "whole"
    created_at: float
    touched_at: float = 0.0


class ArtifactRef(SQLModel, table=True):
    """Job `job` delivered artifact `sha` in role `role`."""

    __tablename__ = "artifact_ref"  # type: ignore[assignment]
    job: str = Field(primary_key=True, foreign_key="job.id")
    role: str = Field(primary_key=True)
    sha: str = Field(foreign_key="artifact.sha")


class ArtifactAt(SQLModel, table=True):
    """Worker `worker` said that artifact `sha` is in its cache."""

    __tablename__ = "artifact_at"  # type: ignore[assignment]
    sha: str = Field(primary_key=True)
    worker: str = Field(primary_key=True, foreign_key="worker.id", index=True)


class ArtifactFrom(SQLModel, table=True):
    """Worker `worker` sent artifact `sha`, every byte of it: it may name it in a result."""

    __tablename__ = "artifact_from"  # type: ignore[assignment]
    sha: str = Field(primary_key=True)
    worker: str = Field(primary_key=True, foreign_key="worker.id", index=True)


class CostSample(SQLModel, table=True):
    """What an accepted attempt took. `base`: the base model's name, `gpu`: the slot's hardware.

    `work`: the cost model's own measure of the job, `seconds` without what it waited, `peak_bytes` of memory or 0.
    """

    __tablename__ = "cost_sample"  # type: ignore[assignment]
    attempt: str = Field(primary_key=True)
    kind: str = Field(index=True)
    base: str | None = None
    gpu: str
    work: float
    seconds: float
    peak_bytes: int = Field(default=0, sa_type=BIG)  # type: ignore[call-overload]
    at: float


class Record(SQLModel, table=True):
    """One measured example of an accepted result."""

    job: str = Field(primary_key=True, foreign_key="job.id")
    item: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    attempt: str
    value: float
    meta: dict[str, Any] | None = _json(nullable=True)


class Metric(SQLModel, table=True):
    """A figure of a whole job."""

    job: str = Field(primary_key=True, foreign_key="job.id")
    name: str = Field(primary_key=True)
    value: float


class Event(SQLModel, table=True):
    """What changed, in order. `seq` has no gaps."""

    seq: int = Field(primary_key=True, sa_type=BIG)  # type: ignore[call-overload]
    at: float
    what: str
    study: str | None = None
    job: str | None = None
    attempt: str | None = None
    worker: str | None = None
    data: dict[str, Any] | None = _json(nullable=True)


class Counter(SQLModel, table=True):
    """Named numbers: the last event's `seq`; when the api ticked last; the store's epoch."""

    name: str = Field(primary_key=True)
    value: float


class Token(SQLModel, table=True):
    """Who may do what. scope: admin | submit | read | invite. Only the hash is kept; workers' tokens are in `worker`.

    `name`: what people call it.
    """

    hash: str = Field(primary_key=True)
    scope: str
    name: str = ""
    created_at: float
    expires_at: float | None = None
    used_at: float | None = None
    revoked_at: float | None = None


for _table in SQLModel.metadata.tables.values():
    for _column in _table.columns:
        if isinstance(_column.type, AutoString):
            _column.type = TEXT
