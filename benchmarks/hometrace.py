"""`python -m benchmarks.hometrace`: eight gaming PCs over a weekend, in virtual time.

The store, lifecycle, coordinator and scheduler are the real ones, and so are the agent's own decisions
(`workers.board`, `workers.courtesy`, when a checkpoint is sent). Only time, network and work are played.

Each PC fails every two hours of its time on average and starts again; its Wi-Fi is away for 30 s to 2 h every few
hours; its owner plays for a while; once the api is away for an hour. The work is a study's trainings, ten minutes to
fifty each, and their scores, more than the weekend is long. Everything follows from the seed.

Goodput is what ended in accepted results over the time that the PCs were on and not their owners'. What is under way
at the end is neither: the work that is done of it is taken from the time. The command says where the rest went.
"""

import heapq
import itertools
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from sqlalchemy import Engine, update
from sqlmodel import col

from benchmarks.homepc import HARDWARE, PLANS, VRAM, Pc, Work, board, close_cpu
from benchmarks.homestudy import BASE, SPEC, Weekend, length_of, result_of
from jsm_queue import coordinator, lifecycle, protocol
from jsm_queue.canonical import content_hash
from jsm_queue.errors import JsmError
from jsm_queue.kinds import FileRef, Inputs
from jsm_queue.settings import Settings
from jsm_queue.spec import parse_spec
from jsm_queue.store import tables as t
from jsm_queue.store.database import open_store, reading, writing
from workers import courtesy
from workers.board import Room
from workers.checkpoints import SEND_FACTOR, SEND_S
from workers.owner import Readings

PCS = 8
HOURS = 48
START = 1_750_000_000.0
FAILS_S = 2 * 3600.0  # of running, on average, until a PC fails
STARTS_S = (60.0, 600.0)  # until it runs again
GAP_EVERY_S = 12 * 3600.0  # on average, of the Wi-Fi: twice a day and PC, as nobody says how often
GAP_S = (30.0, 7200.0)  # how long, evenly in its logarithm
PLAYS_AT, PLAYS_S = 5 * 3600, (1800.0, 2 * 3600.0)  # each day within three hours from then on, and how long
API_AWAY = (2.5 * 3600.0, 3.5 * 3600.0)
LOAD_S, WARM_S = 30.0, 1.0  # until the first step: with another base, and with the one that is there
SEND_EVERY_S = max(SEND_S, SEND_FACTOR * 40.0)  # half a GB over a Wi-Fi of 100 Mbit/s takes 40 s
LOCAL_S = 60.0  # between two checkpoints on the PC's own disk: half a GB in 1.2 s, for 2 % of the time
TICK_S, RENEW_S, BEAT_S = 25.0, 25.0, 300.0
"""Slower than by default, to simulate faster: between two rounds of the api, between two heartbeats that have nothing
new to say and so only renew the lease, between two whole ones. The lease is the default.
"""
RULES = courtesy.Rules(programs=frozenset({"game"}), quiet_s=60.0)


class Home:
    """The whole of it. `keep`: whether checkpoints are made, or everything restarts from zero."""

    def __init__(self, engine: Engine, home: Path, seed: int, keep: bool, gap_every_s: float) -> None:
        self.engine, self.settings, self.keep, self.gap_every_s = engine, Settings(home=home), keep, gap_every_s
        self.rng = random.Random(seed)
        self.now, self.seen, self.api = START, -1, True
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.failures, self.accepted, self.jobs = 0, 0.0, 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.pcs = {f"{i:032x}": Pc(f"{i:032x}", board()) for i in range(1, PCS + 1)}

    def run(self) -> Weekend:
        """The weekend, event by event."""
        self._open()
        end = START + HOURS * 3600
        clock = SimpleNamespace(time=lambda: self.now)
        with patch.object(coordinator, "time", clock):
            while self._due[0][0] < end:
                at, _, act = heapq.heappop(self._due)
                self._pass(at)
                act()
        self._pass(end)
        return Weekend(self.spent, self.accepted, self._under_way(), self.jobs, self.failures)

    def _pass(self, at: float) -> None:
        """Time goes on: what the PCs could have worked meanwhile."""
        for pc in self.pcs.values():
            if pc.on and not pc.playing:
                self.spent[pc.doing(self.now, self.api)] += at - self.now
        self.now = at

    def _under_way(self) -> float:
        """Work that is done of jobs without a result: each job's furthest."""
        furthest: defaultdict[str, float] = defaultdict(float)
        for pc in self.pcs.values():
            on_disk = {job: position for job, (position, _) in pc.disk.items()}
            running = {pc.work.job: pc.work.position(self.now)} if pc.work else {}
            for job, position in (*on_disk.items(), *running.items()):
                furthest[job] = max(furthest[job], position)
        with reading(self.engine) as session:
            jobs = {job: session.get_one(t.Job, job) for job in furthest}
            return sum(done for job, done in furthest.items() if jobs[job].state != "done")

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do it then."""
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), act))

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        act()
        self.after(seconds, lambda: self._every(seconds, act))

    def _open(self) -> None:
        spec = parse_spec(SPEC)
        inputs = Inputs(source=FileRef(sha=content_hash("d"), suffix=".jsonl"), bases={"a": BASE})
        with writing(self.engine) as session:
            lifecycle.add_study(session, spec.model_dump(mode="json"), inputs.model_dump(mode="json"), self.now)
            for pc in self.pcs.values():
                session.add(t.Worker(id=pc.id, name=pc.id[-1], token_hash=pc.id, joined_at=self.now))
        for pc in self.pcs.values():
            self._greet(pc)
            self.after(self.rng.uniform(0, BEAT_S), lambda pc=pc: self._every(BEAT_S, lambda: self._beat(pc)))
            self.after(self.rng.uniform(0, RENEW_S), lambda pc=pc: self._every(RENEW_S, lambda: self._renew(pc)))
            self.after(self.rng.expovariate(1 / FAILS_S), lambda pc=pc: self._fail(pc))
            self.after(self.rng.expovariate(1 / self.gap_every_s), lambda pc=pc: self._unlink(pc))
            self.after(PLAYS_AT + self.rng.uniform(0, 3 * 3600), lambda pc=pc: self._play(pc, True))
        self.after(API_AWAY[0], lambda: setattr(self, "api", False))
        self.after(API_AWAY[1], self._return)
        self._every(TICK_S, self._tick)

    # ---- the api ----

    def _tick(self) -> None:
        if self.api:
            self.seen = coordinator.tick(self.engine, self.settings, self._ring, self.seen)

    def _return(self) -> None:
        """The api is back; every PC tries again within half a minute."""
        self.api = True
        for pc in self.pcs.values():
            self.after(self.rng.uniform(0, 30.0), lambda pc=pc: self._beat(pc))

    def _ring(self, worker: str, _kind: str, bell: protocol.Bell) -> None:
        self.after(0.05, lambda: self._claim(self.pcs[worker], bell))

    def _reaches(self, pc: Pc) -> bool:
        return self.api and pc.on and pc.linked

    # ---- a PC speaks ----

    def _greet(self, pc: Pc) -> None:
        pc.boots += 1
        greeting = protocol.HelloRequest(
            boot_id=pc.boot, hardware=HARDWARE, slots=self._slots(pc), undelivered=list(pc.whole)
        )
        with writing(self.engine) as session:
            row = session.get_one(t.Worker, pc.id)
            for attempt in lifecycle.hello(session, row, greeting, self.settings.lease_s, self.now):
                pc.whole.pop(attempt)
        self.after(0.3, self._tick)

    def _slots(self, pc: Pc) -> list[protocol.SlotReport]:
        return pc.board.slot_reports({0: Room(0 if pc.playing else VRAM, VRAM), 1: Room(VRAM, VRAM)})

    def _beat(self, pc: Pc) -> None:
        """A heartbeat; and whatever could not be told before."""
        if not self._reaches(pc):
            return
        if self._is_new(pc):
            self._greet(pc)
        if pc.work:
            pc.board.progress(pc.work.attempt, int(pc.work.position(self.now)), int(pc.work.length), {})
        request = protocol.HeartbeatRequest(
            boot_id=pc.boot, slots=self._slots(pc), attempts=pc.board.attempt_reports(), disk_free=2**40
        )
        with writing(self.engine) as session:
            row = session.get_one(t.Worker, pc.id)
            freed = lifecycle.heartbeat(session, row, request, self.settings.lease_s, self.now)
            desired = coordinator.queries.desired(session, pc.id)
        pc.board.obey(desired)  # type: ignore[arg-type]
        self._obey(pc)
        self._deliver(pc)
        if freed:
            self._tick()

    def _renew(self, pc: Pc) -> None:
        """A heartbeat that says nothing new but how far the work is, of a session that the api knows."""
        if not self._reaches(pc):
            return
        renewed = update(t.Worker).where(col(t.Worker.id) == pc.id, col(t.Worker.boot_id) == pc.boot)
        with writing(self.engine) as session:
            session.connection().execute(renewed.values(lease_until=self.now + self.settings.lease_s))
            if pc.work:
                told = update(t.Attempt).where(col(t.Attempt.id) == pc.work.attempt, col(t.Attempt.state) == "running")
                session.connection().execute(told.values(position=int(pc.work.position(self.now))))

    def _is_new(self, pc: Pc) -> bool:
        """Whether it started anew since it was last heard of."""
        with reading(self.engine) as session:
            return session.get_one(t.Worker, pc.id).boot_id != pc.boot

    def _deliver(self, pc: Pc) -> None:
        for attempt, job in list(pc.whole.items()):
            self._give(pc, attempt, job)
        while pc.ends:
            attempt, end = pc.ends.pop(0)
            with suppress(JsmError), writing(self.engine) as session:
                lifecycle.end(session, attempt, pc.id, end, self.now)

    def _give(self, pc: Pc, attempt: str, job: str) -> None:
        with suppress(JsmError), writing(self.engine) as session:
            row = session.get_one(t.Job, job)
            result = result_of(row)
            for artifact in result.artifacts:
                lifecycle.know(session, artifact.sha, artifact.size, self.now)
            if lifecycle.accept(session, attempt, pc.id, result, self.now):
                if not self.jobs:
                    for each in self.pcs.values():
                        close_cpu(each)
                self.accepted, self.jobs = self.accepted + length_of(row) * (row.kind != "prepare"), self.jobs + 1
        pc.whole.pop(attempt)
        pc.board.forget(attempt)
        pc.disk.pop(job, None)

    # ---- a PC works ----

    def _claim(self, pc: Pc, bell: protocol.Bell) -> None:
        if not self._reaches(pc):
            return
        request = protocol.ClaimRequest(boot_id=pc.boot, delivery="d" * 8)
        with suppress(JsmError):
            with writing(self.engine) as session:
                run, attempts = lifecycle.claim(session, bell.run, session.get_one(t.Worker, pc.id), request, self.now)
                job = session.get_one(t.Job, attempts[0].job)
                granted = (float(job.position), job.charges, length_of(job))
            if not pc.board.occupy(run.slot, run.id):
                pc.ends.append((attempts[0].id, protocol.EndRequest(reason="released")))
            elif run.slot == 1:
                self._begin_on_cpu(pc, attempts[0].id, job.id, length_of(job))
            else:
                self._begin(pc, attempts[0].id, job.id, *granted)

    def _begin_on_cpu(self, pc: Pc, attempt: str, job: str, length: float) -> None:
        """The study's first job alone goes there."""
        boots = pc.boots
        pc.board.begin(attempt, 1)

        def finish() -> None:
            if pc.boots == boots:
                pc.whole[attempt] = job
                pc.board.delivering(attempt)
                pc.board.release(1, None)
                self._beat(pc)

        self.after(length, finish)

    def _begin(self, pc: Pc, attempt: str, job: str, granted: float, charges: int, length: float) -> None:
        held = pc.board.begin(attempt, 0)
        assert held
        own, made = pc.disk.get(job, (0.0, -1))
        start = max(granted, own if made == charges else 0.0) if self.keep else 0.0
        since = self.now + (WARM_S if pc.warm else LOAD_S)
        pc.warm, pc.work = True, Work(attempt, job, held, since, start, length, granted)
        work = pc.work
        self.after(since - self.now, lambda: None)  # it does something else from then on
        self.after(since - self.now + length - start, lambda: self._finish(pc, work))
        self.after(SEND_EVERY_S, lambda: self._send(pc, work))

    def _finish(self, pc: Pc, work: Work) -> None:
        if pc.work is not work:
            return
        pc.work, pc.whole[work.attempt] = None, work.job
        pc.board.delivering(work.attempt)
        pc.board.release(0, "a")
        self._beat(pc)

    def _send(self, pc: Pc, work: Work) -> None:
        """The newest checkpoint goes to the api, as often as the agent sends one."""
        if pc.work is not work or not self.keep:
            return
        self._save(pc, work, work.position(self.now) // LOCAL_S * LOCAL_S)
        self.after(SEND_EVERY_S if self._reaches(pc) else 30.0, lambda: self._send(pc, work))

    def _save(self, pc: Pc, work: Work, position: float) -> None:
        self._lay_down(pc, work, position)
        if position <= work.sent or not self._reaches(pc):
            return
        sha = content_hash([work.job, position])
        with suppress(JsmError), writing(self.engine) as session:
            lifecycle.know(session, sha, 1, self.now)
            request = protocol.CheckpointRequest(sha=sha, position=int(position))
            lifecycle.checkpoint(session, work.attempt, pc.id, request, self.now)
            work.sent = position

    def _lay_down(self, pc: Pc, work: Work, position: float) -> None:
        with reading(self.engine) as session:
            pc.disk[work.job] = (position, session.get_one(t.Job, work.job).charges)

    def _obey(self, pc: Pc) -> None:
        """What was wished of the attempt: it stops, or it is saved and given back."""
        work = pc.work
        if work is None or not work.held.stop.is_set():
            return
        pc.work = None
        ended = work.held.ended()
        if self.keep and ended.reason == "released":
            self._save(pc, work, work.position(self.now))
        pc.board.forget(work.attempt)
        pc.board.release(0, None)
        pc.warm = False
        pc.ends.append((work.attempt, protocol.EndRequest(reason=ended.reason, message=ended.message)))
        self.after(0.1, lambda: self._beat(pc))

    # ---- what happens to a PC ----

    def _fail(self, pc: Pc) -> None:
        """The power goes; it starts again with what is on its disk."""
        self.failures += 1
        if self.keep and pc.work:
            self._lay_down(pc, pc.work, pc.work.position(self.now) // LOCAL_S * LOCAL_S)
        pc.work, pc.on, pc.warm = None, False, False
        pc.board, pc.standing, pc.ends = board(), {}, []
        if self.jobs:
            close_cpu(pc)
        for attempt in pc.whole:
            pc.board.delivering(attempt)
        pc.boots += 1
        self.after(self.rng.uniform(*STARTS_S), lambda: self._start(pc))

    def _start(self, pc: Pc) -> None:
        pc.on = True
        self._look(pc)
        self._beat(pc)
        self.after(self.rng.expovariate(1 / FAILS_S), lambda: self._fail(pc))

    def _unlink(self, pc: Pc) -> None:
        low, high = GAP_S
        pc.linked = False
        self.after(low * (high / low) ** self.rng.random(), lambda: self._link(pc))

    def _link(self, pc: Pc) -> None:
        pc.linked = True
        self._beat(pc)
        self.after(self.rng.expovariate(1 / self.gap_every_s), lambda: self._unlink(pc))

    def _play(self, pc: Pc, begins: bool) -> None:
        pc.playing = begins
        self._look(pc)
        if begins:
            self.after(self.rng.uniform(*PLAYS_S), lambda: self._play(pc, False))
            self.after(24 * 3600.0, lambda: self._play(pc, True))

    def _look(self, pc: Pc) -> None:
        """What the agent makes of what it sees: it gives way at once, and comes back after the quiet time."""
        readings = Readings(datetime.fromtimestamp(self.now, UTC), programs=frozenset({"game"} if pc.playing else ()))
        pc.standing = courtesy.decide(PLANS, readings, RULES, pc.standing, self.now)
        for slot, standing in pc.standing.items():
            pc.board.owner_wishes(slot, standing.wish, standing.why)
            if standing.wish != "run" and not pc.playing:
                self.after(RULES.quiet_s + 1, lambda: self._look(pc))
        self._obey(pc)
        self.after(0.1, lambda: self._beat(pc))


def main() -> int:
    """Where a weekend's GPU-seconds went, for the seeds that are given."""
    for seed in map(int, sys.argv[1:] or ["1"]):
        for keep in (True, False):
            weekend = live(seed, keep)
            print(
                f"seed {seed}, {'checkpoints' if keep else 'from zero'}: goodput {weekend.goodput:.3f}, "
                f"{weekend.jobs} jobs, {weekend.failures} failures, "
                f"{weekend.lost_per_failure:.0f} GPU-seconds lost a failure"
            )
            for what, share in weekend.shares.items():
                print(f"  {share:7.2%}  {what}", flush=True)
    return 0


def live(seed: int, keep: bool, gap_every_s: float = GAP_EVERY_S) -> Weekend:
    """One weekend, with a store of its own in memory where there is a file system for that."""
    roomy = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="jsm-trace-", dir=roomy) as folder:
        engine = open_store(f"sqlite:///{(Path(folder) / 'store.sqlite').as_posix()}")
        try:
            return Home(engine, Path(folder), seed, keep, gap_every_s).run()
        finally:
            engine.dispose()


if __name__ == "__main__":
    raise SystemExit(main())
