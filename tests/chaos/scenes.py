"""What two workers and a user do one after the other, before the faults: the turns of the protocol that chance takes
seldom. Each scene says what must come of it; in between the store is watched.

    A, B    puppets with one slot each; who is not told to take part is paused
    study   one of the scenes' own, whose jobs no other study lists but for its `prepare`
"""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
from sqlmodel import select

from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.chaos import study as studies
from tests.chaos.pool import LEASE_S, OFFER_S, ChaosPool
from tests.chaos.puppet import Made, Puppet, attempts_of
from tests.chaos.stage import Stage, must, ok, refused, told_as
from tests.chaos.watch import Watch
from tests.pool import crash_at

AT_ONCE = 8  # clients that send the same

SCENES: list[Callable[[Stage], None]] = []


def scene(play: Callable[[Stage], None]) -> Callable[[Stage], None]:
    """They are played in their order."""
    SCENES.append(play)
    return play


def send_files(puppet: Puppet, made: Made) -> None:
    """All of a result's, before it is told of."""
    for data in made.files.values():
        ok(puppet.send(data), "a file")


@scene
def claims_and_results_come_twice(s: Stage) -> None:
    a, b = s.a, s.b
    refused(a.ask("POST", "/workers/join", {"name": "again"}, a.invite), "an invite that is used up", 401)
    a.beat(free=True)
    s.user("POST", f"/workers/{a.id}/resume")
    refused(b.claim(a.offered(), "d" * 32), "another worker's run")
    run, first = a.claim_next("d" * 32)
    must(ok(a.claim(run, "d" * 32), "the same delivery").json() == first, "the same delivery gets another answer")
    refused(a.claim(run, "e" * 32), "another delivery")
    grant = first["attempts"][0]
    attempt, made = grant["attempt"], a.make(grant)
    a.beat(free=False, run=run, held={attempt: "running"})
    refused(b.end(attempt, "released"), "an end of another's attempt")
    refused(b.ask("POST", f"/attempts/{attempt}/result", {}), "a result of another's attempt")
    refused(a.send(b"other bytes", next(iter(made.files))), "bytes of another hash", 403, 409)
    refused(a.ask("POST", f"/attempts/{attempt}/result", made.body), "a result whose files were never sent")
    send_files(a, made)
    with ThreadPoolExecutor(AT_ONCE) as many:
        beats = [many.submit(a.beat) for _ in range(AT_ONCE)]
        asked = [many.submit(a.ask, "POST", f"/attempts/{attempt}/result", made.body) for _ in range(AT_ONCE)]
        for each in (*asked, *beats):
            ok(each.result(), "one of many at once")
    must(s.run_state(attempt) == "claimed", "a slot counts as free before its worker says so")
    a.rest()
    must(s.run_state(attempt) == "closed", "a slot is free, and its run stays open")
    s.until(lambda: len(s.jobs("ready")) >= 4, "jobs that are ready after the first")


@scene
def a_worker_is_removed(s: Stage) -> None:
    other = Puppet(s.pool, "puppet-c")
    other.leave()
    s.user("POST", f"/workers/{other.id}/remove")
    refused(other.beat(), "a heartbeat of a worker that was removed", 401)


@scene
def a_foreign_file_is_named(s: Stage) -> None:
    """By who never sent it nor was given it: it could read it in the next job."""
    a, b = s.a, s.b
    mine, theirs = s.take_kind(a, "train"), s.take_kind(b, "train")
    made = a.make(mine)
    send_files(a, made)
    told = b.ask("POST", f"/attempts/{theirs['attempt']}/result", made.body)
    refused(told, "a result with another worker's files")
    for puppet, grant in ((a, mine), (b, theirs)):
        ok(puppet.end(grant["attempt"], "released"), "an end")
        puppet.rest()


@scene
def checkpoints_and_crashes(s: Stage) -> None:
    a = s.a
    grant = s.take_kind(a, "train")
    job, attempt, made = grant["job"], grant["attempt"], a.make(grant)
    for position in (5, 10):
        ok(a.checkpoint(attempt, position, made.checkpoints[position]), "a checkpoint")
    ok(a.checkpoint(attempt, 10, made.checkpoints[10]), "a checkpoint that comes twice")
    refused(a.checkpoint(attempt, 7, made.checkpoints[7]), "a checkpoint that goes back")
    must(s.job(job).position == 10, "the newest checkpoint is not the job's")
    ok(a.end(attempt, "released"), "an end")
    must(s.run_state(attempt) == "claimed", "a slot counts as free before its worker says so")
    refused(a.deliver(attempt, made), "a result after its attempt was given back")
    a.rest()
    for expected in (5, 0, 0):
        grant = s.take(a, job)
        given = grant["checkpoint"]
        must((given["position"] if given else 0) == s.job(job).position, "a grant's checkpoint is another")
        a.beat(run=attempts_of(s.pool, job)[0].run, free=True)  # what it said before this run
        must(s.run_state(grant["attempt"]) == "claimed", "an older report closes the run")
        a.beat(run=s.attempt(grant["attempt"]).run, free=False)
        ok(a.end(grant["attempt"], "crashed"), "an end")
        must(s.job(job).position == expected, f"after a crash it goes on at {s.job(job).position}, not at {expected}")
        a.rest()
    must(s.job(job).state == "ready", "one worker's crashes quarantine a job although another could do it")
    s.crashes(s.b, job, 1)
    must(s.job(job).state == "quarantined", "a job that crashes everywhere is tried on")
    must(s.jobs("skipped"), "nothing is skipped for a job that is quarantined")
    s.user("POST", f"/studies/{s.study}/retry")
    must(s.job(job).charges == 0, "a retry keeps the charges")
    must(not s.jobs("skipped"), "a retry leaves jobs skipped")


@scene
def a_result_comes_after_the_quarantine(s: Stage) -> None:
    a, b = s.a, s.b
    grant = s.take_kind(a, "train")
    attempt, job, made = grant["attempt"], grant["job"], a.make(grant)
    send_files(a, made)
    a.said.silent = True
    s.until(lambda: s.state(attempt)[0] in ("suspect", "ended"), "a silent worker's attempt is suspect")
    s.crashes(b, job, 3)
    must(s.job(job).state == "quarantined", "a job that crashed thrice where alone it could run is tried on")
    must(a.hello((attempt,)) == [], "a result that counts is not wanted")
    ok(a.ask("POST", f"/attempts/{attempt}/result", made.body), "a late result of a quarantined job")
    must(not s.jobs("skipped"), "what waits for a late result stays skipped")
    a.rest()


@scene
def a_worker_comes_back(s: Stage) -> None:
    """In time; too late, and with the first complete result all the same."""
    a, b = s.a, s.b
    grant = s.take_kind(a, "train")
    attempt, job, made = grant["attempt"], grant["job"], a.make(grant)
    send_files(a, made)
    a.said.silent = True
    s.until(lambda: s.state(attempt)[0] != "running", "a silent worker's attempt is suspect")
    a.beat(silent=False)
    must(s.state(attempt)[0] == "running", "a worker that is back in time has lost its attempt")
    a.said.silent = True
    s.until(lambda: s.state(attempt)[0] == "suspect", "a silent worker's attempt is suspect")
    successor = s.take(b, job)
    theirs = b.make(successor)
    must(s.state(attempt) == ("ended", "lost"), "a suspect goes on although another took over")
    ok(a.beat(silent=False), "a heartbeat")
    must(s.state(attempt) == ("ended", "lost"), "a heartbeat revives an attempt that was replaced")
    ok(a.ask("POST", f"/attempts/{attempt}/result", made.body), "a late result that is the first")
    must(s.state(successor["attempt"]) == ("ended", "superseded"), "the winner does not end the others")
    must(b.wish(successor["attempt"]) == "stop", "what was superseded is not told to stop")
    refused(b.deliver(successor["attempt"], theirs), "a second result")
    s.watch.look(now=True)
    a.rest()
    b.rest()


@scene
def a_worker_starts_anew(s: Stage) -> None:
    a = s.a
    grant = s.take_kind(a, "train")
    attempt, made, old = grant["attempt"], a.make(grant), a.boot
    must(a.hello((attempt,)) == [], "a result that counts is not wanted")
    must(s.state(attempt)[0] == "delivering", "a result that is whole on the disk is lost at hello")
    slot = a._slot()
    refused(a.ask("POST", "/worker/heartbeat", {"boot_id": old, "slots": [slot]}), "an ended session", 410)
    refused(a.ask("POST", "/worker/heartbeat", {"boot_id": "f" * 32, "slots": [slot]}), "an unknown session", 410)
    ok(a.deliver(attempt, made), "a result of an earlier session")
    a.rest()
    grant = a.take()
    a.rest()
    must(s.state(grant["attempt"]) == ("ended", "lost"), "what a worker dropped goes on")


@scene
def a_disk_is_full(s: Stage) -> None:
    grant = s.a.take()
    ok(s.a.end(grant["attempt"], "disk"), "an end")
    s.a.rest()
    other = s.a.take()
    must(other["job"] != grant["job"], "a job comes back to the disk that it filled")
    ok(s.a.end(other["attempt"], "released"), "an end")
    s.a.rest()


@scene
def nobody_claims(s: Stage) -> None:
    s.a.beat(free=True, held={})
    s.user("POST", f"/workers/{s.a.id}/resume")
    run = s.a.offered()
    with reading(s.pool.store) as session:
        attempt = session.exec(select(t.Attempt.id).where(t.Attempt.run == run)).one()
    time_out = time.monotonic() + OFFER_S
    s.until(lambda: s.state(attempt)[0] == "ended" or time.monotonic() > time_out + 2, "the end of an offer")
    must(s.state(attempt) == ("ended", "unclaimed"), "an offer that nobody claims stays")
    s.user("POST", f"/workers/{s.a.id}/pause")
    refused(s.a.claim(run, "f" * 32), "a message that comes late")
    s.a.rest()


@scene
def users_change_their_minds(s: Stage) -> None:
    a = s.a
    s.until(lambda: not s.offers(), "the end of all offers")
    s.user("POST", f"/studies/{s.study}/pause")
    a.beat(free=True, held={})
    s.user("POST", f"/workers/{a.id}/resume")
    s.ticks(4)
    must(not s.offers(), "a paused study's job is offered")
    s.user("POST", f"/studies/{s.study}/resume")
    grant = a.take()
    sharing = str(s.until(lambda: s.pool.try_submit(studies.scenes(s.toy, "shared")), "another study's submission"))
    s.until(lambda: s.lists(sharing, grant["job"]), "the other study lists a job that runs")
    s.user("DELETE", f"/studies/{sharing}")
    must(a.wish(grant["attempt"]) == "run", "cancelling a study stops what another one wants")
    s.user("DELETE", f"/studies/{s.study}")
    must(a.wish(grant["attempt"]) == "stop", "what nobody wants goes on")
    s.until(lambda: s.pool.try_submit(s.toy), "the same study again")
    must(a.wish(grant["attempt"]) == "run", "what is wanted again is to stop")
    ok(a.end(grant["attempt"], "released"), "an end")
    a.rest()


@scene
def another_coordinator_is_late(s: Stage) -> None:
    a, b = s.a, s.b
    grant = a.take()
    ok(a.deliver(grant["attempt"], a.make(grant)), "a result")
    ready = s.jobs("ready")[0]
    s.user("POST", f"/studies/{s.study}/pause")
    b.beat(free=True, held={})
    s.user("POST", f"/workers/{b.id}/resume")
    words = [grant["job"], b.id, "0", ready, a.id, "0"]  # a job that is done, and a slot that is taken
    late = s.pool.start("stale", ["-m", "tests.chaos.stale", s.study, *words])
    s.until(lambda: late.poll() is not None, "the late coordinator's end")
    del s.pool.parts["stale"]
    said = s.pool.log("stale").splitlines()[-1]
    must(said == "[0, 0]", f"a coordinator that comes late changes something: {said[:300]}")
    s.watch.look(now=True)
    b.rest()
    a.rest()
    s.user("POST", f"/studies/{s.study}/resume")


@scene
def files_are_collected(s: Stage) -> None:
    """Once in peace; and once the api dies between what it decides and what it does."""
    a = s.a
    grant = s.take_kind(a, "train")
    attempt, made = grant["attempt"], a.make(grant)
    ok(a.checkpoint(attempt, 5, made.checkpoints[5]), "a checkpoint")
    send_files(a, made)
    s.watch.look(now=True)
    s.a_day_passes({hashlib.sha256(data).hexdigest() for data in made.files.values()})
    s.user("POST", "/artifacts/collect")
    s.watch.look(now=True)
    some = min(made.files)
    s.a_day_passes(set())
    s.restart_api(**crash_at(["api after commit artifact doomed*"], s.pool.home / "crash"))
    with suppress(httpx.HTTPError):
        s.pool.http.post("/v1/artifacts/collect")
    s.until(lambda: s.pool.parts["api"].poll() is not None, "the api's death")
    s.restart_api()
    with reading(s.pool.store) as session:
        doomed = session.get_one(t.Artifact, some).state
    must(doomed == "doomed", f"a file that nobody uses is {doomed}")
    refused(a.ask("POST", f"/attempts/{attempt}/result", made.body), "a result whose file is doomed")
    ok(a.deliver(attempt, made), "a result whose file was sent again")
    s.watch.look(now=True)
    a.rest()


@scene
def the_api_was_away(s: Stage) -> None:
    """Longer than a lease: who comes back with it has lost nothing."""
    grant = s.a.take()
    s.pool.kill_part("api", 0)
    over = time.monotonic() + LEASE_S + 1
    s.until(lambda: time.monotonic() > over, "an outage")
    s.restart_api()
    s.ticks(8)
    must(s.state(grant["attempt"])[0] == "running", "an outage of the api costs an attempt")
    s.watch.look(now=True)
    ok(s.a.end(grant["attempt"], "released"), "an end")
    s.a.rest()


def play(pool: ChaosPool, watch: Watch, toy: studies.Toy, say: Callable[[str], object]) -> None:
    """All scenes. Raises Broken, with the scene's name."""
    stage = Stage(pool, watch, toy)
    for each in SCENES:
        with told_as(each.__name__, say):
            each(stage)
            watch.look(now=True)
    stage.clear()
