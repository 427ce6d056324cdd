"""How much a worker would have to fetch for a job; what is left over. What it may touch: `tests/security`."""

from sqlalchemy import Engine
from sqlmodel import Session

from jsm_queue import lifecycle
from jsm_queue.store import access, leftovers, queries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing

SHAS = {name: name * 64 for name in "abcdef"}
COMMIT = "c" * 40


def add_artifact(session: Session, name: str, size: int) -> str:
    session.add(t.Artifact(sha=SHAS[name], size=size, created_at=1.0))
    return SHAS[name]


def add_job(session: Session, name: str, checkpoint: str | None = None, **params: object) -> None:
    session.add(t.Job(id=name, kind="judge", params=params, state="ready", checkpoint=checkpoint, created_at=1.0))
    session.flush()


def add_worker(session: Session, name: str, state: str = "active") -> None:
    session.add(t.Worker(id=name, name=name, state=state, token_hash=name, joined_at=1.0))
    session.flush()


def test_what_a_job_s_inputs_take(engine: Engine) -> None:
    base = {"form": "folder", "files": {"model.safetensors": SHAS["a"]}, "adapter": {"x.safetensors": SHAS["b"]}}
    hub = {"form": "hub", "files": {}, "repo": "owner/name", "revision": COMMIT}
    with writing(engine) as session:
        for size, name in enumerate("abcde", start=1):
            add_artifact(session, name, 10**size)
        add_job(session, "needed")
        session.add(t.ArtifactRef(job="needed", role="gguf", sha=SHAS["c"]))
        add_job(session, "job", checkpoint=SHAS["d"], base=base, source={"sha": SHAS["e"], "suffix": ".yaml"})
        session.add(t.JobNeed(job="job", name="gguf", needs="needed"))
        add_job(session, "twice", base=base | {"adapter": {"y.safetensors": SHAS["a"]}})
        add_job(session, "hub", base=hub)
        add_job(session, "unknown", base=hub | {"revision": "d" * 40})
        inputs = {"bases": {"x": hub}, "facts": {"x": {"bytes": 16_000}}}
        session.add(t.Study(id="s", name="s", spec={}, inputs=inputs, state="running", created_at=1.0))
    with reading(engine) as session:
        found = queries.input_bytes(session, ["needed", "job", "twice", "hub", "unknown"])
    assert found == {"needed": 0, "job": 111_110, "twice": 10, "hub": 16_000, "unknown": 0}


def test_what_it_sent_and_nobody_uses_is_counted(engine: Engine) -> None:
    with writing(engine) as session:
        add_worker(session, "w")
        add_worker(session, "v")
        for name in "abcde":
            lifecycle.know(session, add_artifact(session, name, 1), 1, 10.0, "w")
        lifecycle.know(session, add_artifact(session, "f", 1), 1, 10.0, "v")
        add_job(session, "job", checkpoint=SHAS["a"])
        session.add(t.ArtifactRef(job="job", role="gguf", sha=SHAS["b"]))
        session.get_one(t.Artifact, SHAS["c"]).created_at = 0.5
    with reading(engine) as session:
        assert access.unused(session, "w", 1.0) == {SHAS["d"]: 1, SHAS["e"]: 1}


def test_places_of_files_and_workers_that_are_gone_are_forgotten(engine: Engine) -> None:
    with writing(engine) as session:
        add_worker(session, "w")
        add_worker(session, "gone", "removed")
        add_artifact(session, "a", 1)
        for sha, worker in (("a", "w"), ("a", "gone"), ("b", "w")):
            session.add(t.ArtifactAt(sha=SHAS[sha], worker=worker))
            session.add(t.ArtifactFrom(sha=SHAS[sha], worker=worker))
    with reading(engine) as session:
        assert leftovers.stale_places(session) == 4
    with writing(engine) as session:
        assert lifecycle.forget_places(session) == 4
        assert access.sent(session, "w", SHAS["a"]) and not access.sent(session, "gone", SHAS["a"])
        assert lifecycle.forget_places(session) == 0


def test_logs_of_attempts_that_ended_long_ago(engine: Engine) -> None:
    with writing(engine) as session:
        add_worker(session, "w")
        for name, ended in (("old", 5.0), ("new", 50.0), ("live", None)):
            add_job(session, name)
            session.add(t.Run(id=name, worker="w", slot=0, state="closed", offered_at=1.0))
            session.flush()
            state = "ended" if ended else "running"
            row = {"job": name, "run": name, "worker": "w", "offered_at": 1.0}
            session.add(t.Attempt(id=name, state=state, ended_at=ended, **row))
    with reading(engine) as session:
        assert leftovers.ended_before(session, {"old", "new", "live", "unknown"}, 10.0) == {"old", "unknown"}
