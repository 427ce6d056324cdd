"""From a bell to a result or an end, with a pretended api and a slot that does as it is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from jsm_queue.broker import AttemptEnded
from jsm_queue.errors import JsmError, ModelError, NotFoundError
from jsm_queue.protocol import AttemptReport, Bell, EndReason, EndRequest, ResultRequest
from tests.unit.workers.fakes import PARAMS
from workers.attempts import Attempts
from workers.board import Board, Ended, Held
from workers.cache import Cache
from workers.checkpoints import Checkpoints
from workers.client import Client
from workers.hardware import SlotPlan
from workers.lines import EventLine, JobLine
from workers.logstream import LogStream
from workers.outbox import Outbox
from workers.runner import RESULT, write_result
from workers.session import Session
from workers.slots import OnEvent

ATTEMPT = "a1a1a1a1"
BELL = Bell(run="b2b2b2b2", attempts=[ATTEMPT], study="s", label="judge")
PLAN = SlotPlan(0, "cpu", "cpu", 1)
GRANT = {"attempt": ATTEMPT, "job": "c3c3c3c3", "kind": "judge", "params": PARAMS, "inputs": []}
LATENCY = {
    "study": "s",
    "stage": "bases",
    "hardware": "any",
    "cells": [],
    "questions": 1,
    "repeats": 1,
    "decoding": {},
    "system_prompt": None,
}


class FakeSlot:
    """Runs a job as `does` says."""

    plan, warm_base = PLAN, None

    def __init__(self, does: Callable[[JobLine], Ended | None], log: Path) -> None:
        self.does, self.jobs, self.log = does, list[JobLine](), log

    def put_log_aside(self) -> int:
        return 0

    def run(self, job: JobLine, base: str | None, stall_s: float, held: Held, on_event: OnEvent) -> Ended | None:
        self.jobs.append(job)
        self.tell = on_event
        return self.does(job)


class Told:
    """What delivery was told."""

    def __init__(self) -> None:
        self.results: list[str] = []
        self.ends: list[tuple[str, EndRequest]] = []

    def result(self, attempt: str) -> None:
        self.results.append(attempt)

    def end(self, attempt: str, request: EndRequest) -> None:
        self.ends.append((attempt, request))

    @property
    def reasons(self) -> list[EndReason]:
        return [request.reason for _, request in self.ends]


class Parts:
    """The attempts of a worker with one slot and 8 cores, which claims `grants` at each bell."""

    def __init__(self, home: Path, does: Callable[[JobLine], Ended | None], *grants: dict[str, Any]) -> None:
        answer = httpx.Response(200, json={"slot": 0, "attempts": grants or [GRANT]})
        client = Client("http://api", "secret")
        client._http = httpx.Client(base_url="http://api", transport=httpx.MockTransport(lambda _: answer))
        self.board, self.box, self.slot, self.told = Board([PLAN]), Outbox(home), FakeSlot(does, home / "log"), Told()
        session = Session(client, self.board, [PLAN], home, lambda _: None)
        session.boot_id = "d4d4d4d4"
        cache = Cache(home / "cache", client)
        self.attempts = Attempts(
            home=home,
            client=client,
            session=session,
            board=self.board,
            slots={0: self.slot},  # type: ignore[dict-item]
            cache=cache,
            outbox=self.box,
            delivery=self.told,  # type: ignore[arg-type]
            checkpoints=Checkpoints(home, client, cache, self.told.end, lambda _: None),
            logstream=LogStream(client),
            cores=8,
            provenance={},
            on_gone=lambda _: None,
        )

    def ring(self) -> None:
        """The bell, whatever comes of it."""
        try:
            self.attempts.handle("judge", BELL, "e5e5e5e5")
        except AttemptEnded:
            return


def finish(job: JobLine) -> None:
    write_result(job.folder, ResultRequest())


def test_a_finished_job_is_a_result_and_its_inputs_go(tmp_path: Path) -> None:
    parts = Parts(tmp_path, finish)
    parts.ring()
    assert parts.told.results == [ATTEMPT] and parts.told.ends == []
    assert parts.box.attempts() == [ATTEMPT] and not list(parts.box.work.iterdir())


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (Ended("released", "its worker left the pool"), "released"),
        (Ended("crashed", "the runner died by SIGTERM"), "released"),
        (Ended("oom", "no room"), "oom"),
        (Ended("error", "line 3 is empty"), "error"),
    ],
)
def test_what_ends_because_the_worker_leaves_is_released(tmp_path: Path, ended: Ended, reason: str) -> None:
    def leave(_: JobLine) -> Ended:
        parts.board.leave()
        return ended

    parts = Parts(tmp_path, leave)
    parts.ring()
    assert parts.told.reasons == [reason] and parts.told.results == []
    assert not list(parts.box.work.iterdir())


@pytest.mark.parametrize("reason", ["cancelled", "crashed"])
def test_what_ends_for_another_reason_is_told_as_it_is(tmp_path: Path, reason: EndReason) -> None:
    parts = Parts(tmp_path, lambda _: Ended(reason, "why"))
    parts.ring()
    assert parts.told.reasons == [reason]


def test_a_result_that_is_whole_when_the_worker_leaves_stays(tmp_path: Path) -> None:
    def leave(job: JobLine) -> Ended:
        finish(job)
        parts.board.leave()
        return Ended("cancelled", "no longer wanted")

    parts = Parts(tmp_path, leave)
    parts.ring()
    assert parts.told.ends == [] and parts.box.attempts() == [ATTEMPT]


def test_a_result_that_cannot_move_yet_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "another program uses it")

    parts = Parts(tmp_path, finish)
    monkeypatch.setattr(Path, "rename", refuse)
    parts.ring()
    assert parts.told.results == [ATTEMPT] and parts.told.ends == []
    assert (parts.box.work / ATTEMPT / "out" / RESULT).exists()


def test_what_is_claimed_while_the_worker_leaves_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(tmp_path, finish)
    occupy = parts.board.occupy

    def last_moment(slot: int, run: str) -> bool:
        parts.board.leave()
        return occupy(slot, run)

    monkeypatch.setattr(parts.board, "occupy", last_moment)
    parts.ring()
    assert parts.told.reasons == ["released"] and parts.slot.jobs == []


@pytest.mark.parametrize("error", [ModelError("it arrived with another content"), NotFoundError("No artifact")])
def test_a_file_that_cannot_be_had_fails_the_job_for_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: JsmError
) -> None:
    def build(*_: object) -> None:
        raise error

    parts = Parts(tmp_path, finish)
    monkeypatch.setattr(Cache, "build", build)
    parts.ring()
    assert parts.told.reasons == ["crashed"] and parts.slot.jobs == []


@pytest.mark.parametrize(("kind", "params", "threads"), [("judge", PARAMS, 1), ("latency", LATENCY, 8)])
def test_latency_has_all_cores(tmp_path: Path, kind: str, params: dict[str, Any], threads: int) -> None:
    parts = Parts(tmp_path, finish, GRANT | {"kind": kind, "params": params})
    parts.ring()
    assert parts.slot.jobs[0].threads == threads


def test_checkpoints_and_what_the_job_needs_less_of_reach_the_runner(tmp_path: Path) -> None:
    def first(job: JobLine) -> Ended:
        assert job.checkpoints and (job.resume, job.position, job.charges, job.ooms) == (None, 0, 1, 2)
        job.checkpoints.mkdir(parents=True)
        path = job.checkpoints / "7.1.checkpoint"
        path.write_bytes(b"state")
        parts.slot.tell(EventLine(event="checkpoint", attempt=ATTEMPT, position=7, path=path, size=5))
        return Ended("oom", "no room")

    parts = Parts(tmp_path, first, GRANT | {"charges": 1, "ooms": 2})
    parts.ring()
    assert parts.told.reasons == ["oom"]

    again = Parts(tmp_path, finish, GRANT | {"charges": 1, "ooms": 3})
    again.ring()
    [line] = again.slot.jobs
    assert line.resume and (line.resume.name, line.position, line.ooms) == ("7.1.checkpoint", 7, 3)
    assert again.told.results == [ATTEMPT]
    assert not list((tmp_path / "checkpoints").iterdir()), "nobody goes on from them any more"


def test_each_attempt_of_a_run_has_its_own_folders_and_end_and_a_release_reaches_all(tmp_path: Path) -> None:
    def release(job: JobLine) -> Ended | None:
        if job.attempt == ATTEMPT:
            return finish(job)
        parts.board.owner_wishes(0, "release", "a game runs")
        return Ended("released", "a game runs")

    others = [GRANT | {"attempt": f"{i}1f1f1f1", "job": f"{i}3c3c3c3"} for i in (1, 2, 3)]
    parts = Parts(tmp_path, release, GRANT, *others)
    parts.ring()
    assert parts.told.results == [ATTEMPT]
    assert [attempt for attempt, _ in parts.told.ends] == [other["attempt"] for other in others]
    assert {(end.reason, end.message) for _, end in parts.told.ends} == {("released", "a game runs")}
    lines = parts.slot.jobs
    assert [line.attempt for line in lines] == [ATTEMPT, others[0]["attempt"]], "the others never began"
    assert len({line.folder for line in lines}) == len({line.checkpoints for line in lines}) == 2


def test_what_is_claimed_for_a_kept_slot_is_given_back(tmp_path: Path) -> None:
    parts = Parts(tmp_path, finish)
    parts.board.owner_wishes(0, "pause", "a game runs")
    parts.ring()
    assert parts.told.reasons == ["released"] and parts.slot.jobs == []


def test_progress_and_pauses_are_noted(tmp_path: Path) -> None:
    def stand(job: JobLine) -> None:
        parts.slot.tell(EventLine(event="progress", attempt=ATTEMPT, position=3, total=9, metrics={"loss": 1.0}))
        parts.board.owner_wishes(0, "pause", "a game runs")
        parts.slot.tell(EventLine(event="paused", attempt=ATTEMPT))
        seen.extend(parts.board.attempt_reports())
        finish(job)

    seen: list[AttemptReport] = []
    parts = Parts(tmp_path, stand)
    parts.ring()
    [report] = seen
    assert (report.position, report.total, report.paused) == (3, 9, "a game runs")
