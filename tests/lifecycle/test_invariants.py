"""DESIGN §8, one test each: first it holds, then a bug is planted that breaks it, and the same check says so."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from sqlalchemy import Engine
from sqlmodel import select

from jsm_queue import artifacts, lifecycle, protocol, verdicts
from jsm_queue.artifacts import Uploads
from jsm_queue.canonical import canonical_json
from jsm_queue.comparison import CellValues
from jsm_queue.errors import ConflictError, JsmError, NotFoundError
from jsm_queue.kinds import JobDraft
from jsm_queue.lifecycle import sessions
from jsm_queue.planner import Wanted
from jsm_queue.scheduler import Offer
from jsm_queue.store import queries, results
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading, writing
from tests.lifecycle import invariants, scene
from tests.lifecycle.planted import BUGS
from tests.lifecycle.pool import POINTS, Pool
from tests.lifecycle.scene import A, D
from tests.waiting import wait_for
from workers import client as http
from workers.board import Board
from workers.cache import Cache
from workers.client import Client
from workers.delivery import Delivery
from workers.outbox import Outbox
from workers.runner import write_result

LEASE_S = 60.0
BOOT = "b" * 32

Check = Callable[[], None]


def holds_until(bug: str, check: Check) -> None:
    """The check passes, and fails once the bug is planted."""
    check()
    with BUGS[bug](), pytest.raises(AssertionError):
        check()


def _run(attempt: str) -> str:
    """The run of an attempt."""
    return "f" * 8 + attempt


class Store:
    """Two workers and study s1 (A and D, then E), anew for each check."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        scene.empty(engine)
        with writing(engine) as s:
            for worker in scene.SLOTS:
                scene.join(s, worker)
                lifecycle.hello(s, s.get_one(t.Worker, worker), scene.greeting(worker, BOOT), LEASE_S, 0.0)
            scene.submit(s, "s1", 0.0)

    def start(self, attempt: str, worker: str = "w0", job: JobDraft = A) -> None:
        """Offer and claim."""
        with writing(self.engine) as s:
            assert lifecycle.offer(s, Offer((job.id,), job.kind, worker, 0), _run(attempt), [attempt], 1.0)
            claim = protocol.ClaimRequest(boot_id=BOOT, delivery="d" * 8)
            lifecycle.claim(s, _run(attempt), s.get_one(t.Worker, worker), claim, 1.0)

    def end(self, attempt: str, reason: protocol.EndReason, worker: str = "w0", log: str = "") -> None:
        """It ends, and its slot is free."""
        with writing(self.engine) as s:
            lifecycle.end(s, attempt, worker, protocol.EndRequest(reason=reason, log_tail=log), 2.0)
            report = scene.report(0, free=True, run=_run(attempt))
            beat = protocol.HeartbeatRequest(boot_id=BOOT, slots=[report])
            lifecycle.heartbeat(s, s.get_one(t.Worker, worker), beat, LEASE_S, 2.0)

    def deliver(self, attempt: str, worker: str = "w0", job: str = "A") -> str:
        """A complete result. Returns what came of it."""
        files = scene.files(job, attempt)
        with writing(self.engine) as s:
            for file in files.values():
                lifecycle.know(s, file, 1, 2.0)
        result = scene.result(files, {"q1": 1.0, f"only {attempt}": 1.0})
        try:
            with writing(self.engine) as s:
                return "accepted" if lifecycle.accept(s, attempt, worker, result, 3.0) else "replayed"
        except ConflictError:
            return "refused"

    def view(self) -> dict[str, Any]:
        """Everything."""
        with reading(self.engine) as s:
            return scene.view(s)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """SQLite alone: what holds here is a matter of the code above the store."""
    engine = open_store(f"sqlite:///{(tmp_path / 'store.sqlite').as_posix()}")
    yield engine
    engine.dispose()


def test_1_one_accepted_result_a_job_with_its_own_records(engine: Engine) -> None:
    def check() -> None:
        store = Store(engine)
        store.start("a0")
        store.end("a0", "lost")
        store.start("a1", "w1")
        answers = [store.deliver("a0"), store.deliver("a1", "w1"), store.deliver("a0")]
        invariants.one_accepted_result(store.view())
        assert answers == ["accepted", "refused", "replayed"]

    holds_until("a job is accepted twice", check)
    holds_until("a refused result leaves its records", check)


def test_2_no_job_is_lost(engine: Engine) -> None:
    def check() -> None:
        store = Store(engine)
        store.start("a0")
        store.end("a0", "error")
        invariants.no_job_is_lost(store.view())
        store.start("a1", job=D)
        with writing(engine) as s:
            lifecycle.hello(s, s.get_one(t.Worker, "w0"), scene.greeting("w0", "c" * 32), LEASE_S, 3.0)
        invariants.no_job_is_lost(store.view())
        assert store.view()["job"]["D"][0] == "ready"

    holds_until("giving up skips nobody", check)
    with patch.object(sessions, "end_attempt", lambda *_: None), pytest.raises(AssertionError):
        check()


def test_3_a_write_from_a_replaced_attempt_changes_nothing(engine: Engine) -> None:
    def check() -> None:
        store = Store(engine)
        store.start("a0" * 4)
        with writing(engine) as s:
            lifecycle.reap(s, 20.0, LEASE_S + 2, leases=True)
        store.start("a1" * 4, "w1")
        before = store.view()
        with writing(engine) as s:
            seen = [protocol.AttemptReport(attempt="a0" * 4, phase="running")]
            busy = [scene.report(0, free=False)]
            beat = protocol.HeartbeatRequest(boot_id=BOOT, slots=busy, attempts=seen)
            lifecycle.heartbeat(s, s.get_one(t.Worker, "w0"), beat, LEASE_S, 70.0)
            lifecycle.know(s, scene.sha("late"), 1, 70.0)
        late = protocol.CheckpointRequest(sha=scene.sha("late"), position=5)
        for refused in (
            lambda s: lifecycle.checkpoint(s, "a0" * 4, "w0", late, 71.0),
            lambda s: lifecycle.end(s, "a0" * 4, "w0", protocol.EndRequest(reason="crashed"), 71.0),
        ):
            with writing(engine) as s, pytest.raises(ConflictError):
                refused(s)
        assert {table: store.view()[table] for table in ("job", "attempt", "run")} == {
            table: before[table] for table in ("job", "attempt", "run")
        }
        assert store.deliver("a0" * 4) == "accepted", "but a complete result, while the job is not done"

    check()
    with BUGS["a heartbeat revives a replaced attempt"](), pytest.raises(Exception, match=r"one_live|UNIQUE"):
        check()
    holds_until("a late result is thrown away", check)


class Api:
    """The worker's api, in this process: away for two requests; its first answer to a result is lost on the way."""

    def __init__(self, store: Store) -> None:
        self.store, self.away, self.lost = store, 2, 1
        self.answers: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            self.away -= 1
            raise httpx.ConnectError("away")
        if request.url.path.endswith("/result"):
            self.answers.append(self._accept(request))
            self.lost -= 1
            return httpx.Response(503) if self.lost == 0 else httpx.Response(200, json={"accepted": True})
        return httpx.Response(204)

    def _accept(self, request: httpx.Request) -> str:
        result = protocol.ResultRequest.model_validate_json(request.read())
        with writing(self.store.engine) as s:
            accepted = lifecycle.accept(s, request.url.path.split("/")[3], "w0", result, 200.0)
        return "accepted" if accepted else "replayed"


def test_4_a_finished_result_is_delivered_later_once(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(http, "LONGEST_WAIT_S", 0.002)
    job = JobDraft("judge", {"x": 9})

    def check() -> None:
        store = Store(engine)
        with writing(engine) as s:
            lifecycle.list_jobs(s, scene.study_id("s1"), [Wanted("bases", scene.CELL, job)], 0.0)
        store.start("a0" * 4, job=job)
        folder = Outbox(tmp_path).begin("a0" * 4) / "out"
        write_result(folder, scene.result({}, {"q1": 2.0}))
        with writing(engine) as s:
            lifecycle.reap(s, 20.0, LEASE_S + 2, leases=True)  # the api is not reached, and the agent dies
        store.start("a1" * 4, "w1", job)
        api = Api(store)
        _deliver_after_a_restart(tmp_path, api)
        with reading(engine) as s:
            assert s.get_one(t.Job, job.id).state == "done"
            assert [record.value for record in s.exec(select(t.Record)).all()] == [2.0]
        assert api.answers == ["accepted", "replayed"]

    check()
    for broken in (
        patch.object(Outbox, "is_finished", lambda *_: False),
        BUGS["a late result is thrown away"](),
    ):
        with broken, pytest.raises(AssertionError):
            check()


def _deliver_after_a_restart(home: Path, api: Api) -> None:
    box = Outbox(home)
    box.recover()
    client = Client("http://api", "secret")
    client._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(api))
    board = Board([])
    gone: list[Exception] = []
    delivery = Delivery(client, box, board, Cache(home / "cache", client), gone.append)
    delivery.start()
    wait_for(lambda: gone or not (box.attempts() or board.attempt_reports()), "the delivery")
    board.leave()
    delivery.leave()


def test_5_killing_a_process_anywhere_leads_to_the_same(engine: Engine, tmp_path: Path) -> None:
    undisturbed = Pool(engine, tmp_path).run()
    assert undisturbed["state"] == "ended" and undisturbed["verdicts"] and undisturbed["records"]

    def check() -> None:
        scene.empty(engine)
        pool = Pool(engine, tmp_path, kill_at=set(POINTS))
        assert pool.run() == undisturbed
        assert not pool.kill_at, "nothing died there"

    holds_until("offers that nobody claims stay", check)


def test_6_a_decision_is_a_pure_function_of_records() -> None:
    rng = random.Random(1)
    items = [f"q{i}" for i in range(12)]
    cells = [
        CellValues(f"{base} n=10 seed={seed}", base, 10, seed, None, {i: rng.random() * 3 for i in items}, {}, {})
        for base in ("a", "b")
        for seed in (1, 2)
    ]

    def check() -> None:
        said = {canonical_json(verdicts.bases_verdict(order, 1, []).decision) for order in _orders(cells)}
        assert len(said) == 1

    check()
    real = verdicts.bases_verdict

    def hasty(cells: list[CellValues], keep: int, missing: list[str]) -> verdicts.Verdict:
        found = real(cells, keep, missing)
        return replace(found, decision={**found.decision, "ranking": [cell.base for cell in cells]})

    with patch.object(verdicts, "bases_verdict", hasty), pytest.raises(AssertionError):
        check()


def _orders(cells: list[CellValues]) -> Iterator[list[CellValues]]:
    """The same cells with the same values, as they might have arrived."""
    for seed in range(4):
        rng = random.Random(seed)
        yield rng.sample([replace(cell, values=_shuffled(cell.values, rng)) for cell in cells], len(cells))


def _shuffled(values: Any, rng: random.Random) -> dict[str, float]:
    return dict(rng.sample(list(values.items()), len(values)))


def test_7_an_artifact_is_visible_only_whole_and_verified(engine: Engine, tmp_path: Path) -> None:
    data = b"weights" * 100
    sha = hashlib.sha256(data).hexdigest()

    def check() -> None:
        scene.empty(engine)
        root = tmp_path / "artifacts"
        uploads = Uploads(engine, root)
        asyncio.run(uploads.receive(sha, len(data), 0, _pieces(b"x" * len(data))))  # damaged on the way
        for step in (lambda: uploads.finish(sha, len(data), 1.0), lambda: _break_off(uploads, sha, data)):
            with suppress(JsmError):
                step()
            assert not _visible(root, sha) or _visible(root, sha) == data, "a damaged file is visible"
        resumed = Uploads(engine, root)  # the api died, and is back
        offset = resumed.offer(sha, len(data), 2.0).offset
        assert 0 < offset < len(data)
        asyncio.run(resumed.receive(sha, len(data), offset, _pieces(data[offset:])))
        resumed.finish(sha, len(data), 3.0)
        assert _visible(root, sha) == data
        artifacts.path_of(root, sha).unlink()

    check()
    with patch.object(artifacts, "_verify", lambda *_: None), pytest.raises(AssertionError, match="damaged"):
        check()


def _break_off(uploads: Uploads, sha: str, data: bytes) -> None:
    asyncio.run(uploads.receive(sha, len(data), 0, _pieces(data[:100])))
    uploads.finish(sha, len(data), 1.0)


async def _pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _visible(root: Path, sha: str) -> bytes:
    try:
        return artifacts.find(root, sha).read_bytes()
    except NotFoundError:
        return b""


def test_8_a_job_that_kills_its_workers_is_quarantined_and_the_rest_goes_on(engine: Engine) -> None:
    def check() -> None:
        store = Store(engine)
        for i, worker in enumerate(("w0", "w0", "w1")):
            store.start(f"a{i}", worker)
            store.end(f"a{i}", "crashed", worker, log=f"log of a{i}")
        states = {job: row[0] for job, row in store.view()["job"].items()}
        assert states == {"A": "quarantined", "D": "ready", "E": "skipped"}
        with reading(engine) as s:
            assert [attempt.log_tail for attempt, _ in queries.attempts(s, A.id)][-1] == "log of a2"
            assert results.missing_cells(s, scene.study_id("s1"), "bases") == [scene.CELL.label]
        store.start("a3", job=D)
        assert store.deliver("a3", job="D") == "accepted"

    holds_until("a job that kills its workers is tried for ever", check)
    holds_until("giving up skips nobody", check)
