"""A reference model of the lifecycle, written from DESIGN §5 and §8: plain values, one thread, no store.

Each method is one request. It returns what the lifecycle must return, or raises Refused and has changed nothing; what
changed is in the fields, and its events are in `events`. Jobs and studies go by short names ("A", "s0").
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tests.lifecycle.rows import (
    DEAD,
    DISK_PAUSE_S,
    GAP_S,
    HELD,
    LEASE_S,
    LIVE,
    OFFER_S,
    TERMINAL,
    Artifact,
    Attempt,
    Job,
    Refused,
    Run,
    Slot,
    Study,
    Worker,
)


class Model:
    """The whole state. `ticks`: when the api ticked last, and since when without a gap."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.studies: dict[str, Study] = {}
        self.workers: dict[str, Worker] = {}
        self.runs: dict[str, Run] = {}
        self.attempts: dict[str, Attempt] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.refs: dict[tuple[str, str], str] = {}
        self.records: dict[tuple[str, str, str], tuple[str, float]] = {}
        self.ticks = (0.0, 0.0)
        self.events: list[tuple[str, str | None]] = []

    # ---- studies ----

    def submit(self, name: str, inputs: Iterable[str]) -> bool:
        """Whether it is new."""
        study = self.studies.get(name)
        if study is None:
            self.studies[name] = Study("running", frozenset(inputs))
            self.events.append(("study running", name))
            return True
        if study.state in ("cancelled", "paused"):
            self._set_study(name, "running")
            for job in study.jobs:
                self._revive(job)
        return False

    def list_jobs(self, name: str, drafts: dict[str, tuple[tuple[str, ...], frozenset[str]]]) -> int:
        """`drafts`: job → (needs, outputs), needs first. How many listings are new."""
        study, new = self.studies[name], 0
        for job, (needs, outputs) in drafts.items():
            if job not in self.jobs:
                self.jobs[job] = Job(needs, outputs, "")
                self._set_job(job, self._first_state(needs))
            elif job not in study.jobs:
                self._revive(job)
            if job not in study.jobs:
                study.jobs.append(job)
                new += 1
        return new

    def _first_state(self, needs: tuple[str, ...]) -> str:
        states = [self.jobs[need].state for need in needs]
        if any(state in DEAD for state in states):
            return "skipped"
        return "ready" if all(state == "done" for state in states) else "waiting"

    def cancel(self, name: str) -> None:
        """running | paused → cancelled."""
        if self.studies[name].state in ("running", "paused"):
            self._set_study(name, "cancelled")

    def pause(self, name: str) -> None:
        """running → paused."""
        if self.studies[name].state == "running":
            self._set_study(name, "paused")

    def resume(self, name: str) -> None:
        """paused → running."""
        if self.studies[name].state == "paused":
            self._set_study(name, "running")

    def retry(self, name: str) -> int:
        """How many jobs are tried again."""
        study = self.studies[name]
        dead = [job for job in study.jobs if self.jobs[job].state in ("failed", "quarantined")]
        for job in dead:
            self._revive(job)
        if dead and study.state == "ended":
            self._set_study(name, "running")
        return len(dead)

    def end_study(self, name: str) -> None:
        """running → ended, once nothing of it is left to do."""
        study = self.studies[name]
        if study.state == "running" and all(self.jobs[job].state in TERMINAL for job in study.jobs):
            self._set_study(name, "ended")

    def _set_study(self, name: str, state: str) -> None:
        self.studies[name].state = state
        self.events.append((f"study {state}", name))

    # ---- jobs ----

    def _set_job(self, name: str, state: str) -> None:
        self.jobs[name].state = state
        self.events.append((f"job {state}", name))
        self._settle()

    def _settle(self) -> None:
        """What follows for the jobs that wait or were skipped."""
        for name, job in self.jobs.items():
            due = self._first_state(job.needs)
            if job.state == "waiting" and due != "waiting":
                return self._set_job(name, due)
            if job.state == "skipped" and due != "skipped":
                return self._set_job(name, "waiting")

    def _revive(self, name: str) -> None:
        job = self.jobs[name]
        if job.state in ("failed", "quarantined"):
            job.charged, job.losses, job.ooms = [], 0, 0
            job.checkpoints = [(sha, at) for sha, at in job.checkpoints if self._whole(sha)]
            self._set_job(name, "ready")

    # ---- runs and attempts ----

    def offer(self, job: str, worker: str, slot: int, run: str, attempt: str, now: float) -> bool:
        """Whether the slot and the job were still free."""
        if self.open_run(worker, slot):
            return False
        for suspect in self._live(job, ("suspect",)):
            self._finish(suspect, "lost", now)
        if self.jobs[job].state != "ready":
            return False
        self.jobs[job].state = "active"
        self.runs[run] = Run(worker, slot)
        self.attempts[attempt] = Attempt(job, run, worker, now, self.jobs[job].position, self.workers[worker].disk)
        self.events.append(("attempt offered", attempt))
        return True

    def open_run(self, worker: str, slot: int) -> str | None:
        """The run that occupies a slot."""
        found = (n for n, r in self.runs.items() if (r.worker, r.slot) == (worker, slot) and r.state != "closed")
        return next(found, None)

    def claim(self, run: str, worker: str, boot: str, delivery: str) -> list[str]:
        """The attempts to start."""
        self._check_boot(worker, boot)
        row = self.runs.get(run)
        if row is None or row.worker != worker:
            raise Refused("conflict")
        own = [name for name, attempt in self.attempts.items() if attempt.run == run]
        if row.state == "claimed" and row.delivery == delivery:
            return [name for name in own if self.attempts[name].state in LIVE]
        if row.state != "offered":
            raise Refused("conflict")
        row.state, row.delivery = "claimed", delivery
        for name in own:
            self._set_attempt(name, "running")
        return own

    def accept(self, name: str, worker: str, files: dict[str, str], records: dict[str, float], now: float) -> bool:
        """`files`: role → sha; `records`: item → score. False for a replay."""
        attempt = self._own(name, worker)
        if attempt.state == "accepted":
            return False
        job = self.jobs[attempt.job]
        whole = all(self._whole(sha) for sha in files.values())
        if not self.deliverable(name) or files.keys() != job.outputs or not whole:
            raise Refused("conflict")
        for role, sha in files.items():
            self.artifacts[sha].touched_at = now
            self.refs[attempt.job, role] = sha
        self.records |= {(attempt.job, item, "score"): (name, value) for item, value in records.items()}
        job.accepted, attempt.reason = name, None
        self._set_attempt(name, "accepted")
        for other in self._live(attempt.job, LIVE):
            self._end_attempt(other, "superseded", now)
        self._set_job(attempt.job, "done")
        return True

    def deliverable(self, name: str) -> bool:
        """Whether a complete result of it would be accepted: the first one wins, unless its attempt ended otherwise."""
        attempt = self.attempts.get(name)
        if attempt is None or self.jobs[attempt.job].state == "done":
            return False
        return attempt.state in HELD or attempt.reason in ("lost", "cancelled")

    def checkpoint(self, name: str, worker: str, sha: str, position: int, now: float) -> None:
        """The newest two are kept."""
        attempt = self._own(name, worker)
        job = self.jobs[attempt.job]
        if attempt.state not in HELD:
            raise Refused("conflict")
        if job.checkpoints and job.checkpoints[-1] == (sha, position):
            return
        if position <= job.position or not self._whole(sha):
            raise Refused("conflict")
        self._unsuspect(name, "running")
        self.artifacts[sha].touched_at = now
        job.checkpoints = [*job.checkpoints, (sha, position)][-2:]
        job.losses = 0
        self.events.append(("checkpoint", name))

    def end(self, name: str, worker: str, reason: str, now: float) -> None:
        """The worker says so. A replay changes nothing."""
        attempt = self._own(name, worker)
        if attempt.state in LIVE:
            self._finish(name, reason, now)
        elif attempt.state != "ended" or attempt.reason != reason:
            raise Refused("conflict")

    def _finish(self, name: str, reason: str, now: float) -> None:
        """live → ended, and what that means for its job."""
        self._end_attempt(name, reason, now)
        attempt = self.attempts[name]
        job = self.jobs[attempt.job]
        if reason != "unclaimed":
            job.losses = job.losses + 1 if reason == "lost" else 0
        job.ooms += reason == "oom"
        if reason in ("crashed", "stalled"):
            job.charged.append(attempt.worker)
            if job.position <= attempt.began_at:
                job.checkpoints = job.checkpoints[:-1]
        if reason == "error" or (reason == "oom" and job.ooms >= 4):
            self._set_job(attempt.job, "failed")
        elif job.losses >= 5 or (reason in ("crashed", "stalled") and self._kills_workers(attempt.job, now)):
            self._set_job(attempt.job, "quarantined")
        elif job.state == "active":
            self._set_job(attempt.job, "ready")

    def _kills_workers(self, name: str, now: float) -> bool:
        """Three charges, on two workers or on every live one."""
        charged = set(self.jobs[name].charged)
        live = {worker for worker, row in self.workers.items() if row.lease_until > now}
        return len(self.jobs[name].charged) >= 3 and (len(charged) >= 2 or live <= charged)

    def _end_attempt(self, name: str, reason: str, now: float) -> None:
        attempt = self.attempts[name]
        attempt.state, attempt.reason, attempt.ended_at = "ended", reason, now
        self.events.append(("attempt ended", name))
        if self.runs[attempt.run].state == "offered":
            self.runs[attempt.run].state = "closed"

    def _set_attempt(self, name: str, state: str) -> None:
        self.attempts[name].state = state
        self.events.append((f"attempt {state}", name))

    def _unsuspect(self, name: str, phase: str) -> None:
        if self.attempts[name].state == "suspect":
            self.jobs[self.attempts[name].job].state = "active"
            self._set_attempt(name, phase)

    def _live(self, job: str, states: Collection[str]) -> list[str]:
        return [name for name, a in self.attempts.items() if a.job == job and a.state in states]

    def _own(self, name: str, worker: str) -> Attempt:
        attempt = self.attempts.get(name)
        if attempt is None or attempt.worker != worker:
            raise Refused("conflict")
        return attempt

    # ---- workers ----

    def hello(
        self, worker: str, boot: str, undelivered: list[str], running: list[str], slots: dict[int, bool], now: float
    ) -> list[str]:
        """The attempts of these that would not be accepted. `slots`: idx → whether it is free."""
        row = self.workers.get(worker)
        if row is not None and row.boot == boot:
            raise Refused("gone")
        self.workers[worker] = Worker(boot, now + LEASE_S, dict(slots), row and row.disk)
        self.events.append(("worker hello", worker))
        for name, attempt in self.attempts.items():
            if attempt.worker != worker or attempt.state not in LIVE:
                continue
            if attempt.state == "offered":
                self._finish(name, "unclaimed", now)
            elif name in undelivered:
                self._note(name, "delivering")
            elif name not in running:
                self._finish(name, "lost", now)
        going_on = {attempt.run for name, attempt in self.attempts.items() if name in running and attempt.state in LIVE}
        for key, run in self.runs.items():
            if run.worker == worker and key not in going_on:
                run.state = "closed"
        return [name for name in undelivered + running if not self.deliverable(name)]

    def heartbeat(
        self,
        worker: str,
        boot: str,
        slots: list[Slot],
        seen: Mapping[str, str],
        disk: int | None,
        now: float,
    ) -> bool:
        """`seen`: attempt → phase. Whether a slot became free."""
        self._check_boot(worker, boot)
        row, freed = self.workers[worker], False
        row.lease_until, row.disk = now + LEASE_S, disk
        for idx, free, name in slots:
            row.slots[idx] = free
            run = self.runs.get(name or "")
            if free and run is not None and run.worker == worker and run.state == "claimed":
                run.state, freed = "closed", True
        for name, phase in seen.items():
            if name in self.attempts and self.attempts[name].worker == worker:
                self._note(name, phase)
        for name, attempt in self.attempts.items():
            gone = attempt.state in HELD and self.runs[attempt.run].state == "closed"
            if attempt.worker == worker and gone and name not in seen:
                self._finish(name, "lost", now)
        return freed

    def leave(self, worker: str, boot: str, now: float) -> None:
        """Nobody waits for what it still holds."""
        self._check_boot(worker, boot)
        self.workers[worker].lease_until = now
        self.events.append(("worker left", worker))

    def _note(self, name: str, phase: str) -> None:
        self._unsuspect(name, phase)
        if self.attempts[name].state == "running" and phase == "delivering":
            self._set_attempt(name, "delivering")

    def _check_boot(self, worker: str, boot: str) -> None:
        if self.workers[worker].boot != boot:
            raise Refused("gone")

    def tick(self, now: float) -> None:
        """Offers end after a while; leases count once the api has ticked for one without a gap."""
        last, since = self.ticks
        since = since if 0 <= now - last < GAP_S else now
        self.ticks, steady = (now, since), now - since >= LEASE_S
        for name, attempt in self.attempts.items():
            if attempt.state == "offered" and attempt.offered_at + OFFER_S < now:
                self._finish(name, "unclaimed", now)
            elif attempt.state in ("running", "delivering") and steady and self.workers[attempt.worker].away(now):
                self._set_attempt(name, "suspect")
                self._set_job(attempt.job, "ready")

    # ---- artifacts ----

    def know(self, sha: str, now: float) -> None:
        """A file is whole."""
        if not self._whole(sha) and sha in self.artifacts:
            self.events.append(("artifact whole", None))
        self.artifacts[sha] = Artifact("whole", now)

    def doom(self, before: float) -> list[str]:
        """All doomed files."""
        kept = set(self.refs.values()) | {sha for study in self.studies.values() for sha in study.inputs}
        kept |= {sha for job in self.jobs.values() if job.state not in TERMINAL for sha, _ in job.checkpoints}
        for sha, artifact in self.artifacts.items():
            if artifact.state == "whole" and artifact.touched_at < before and sha not in kept:
                artifact.state = "doomed"
                self.events.append(("artifact doomed", None))
        return sorted(sha for sha, artifact in self.artifacts.items() if artifact.state == "doomed")

    def forget(self, sha: str) -> None:
        """A doomed file was removed."""
        if sha in self.artifacts and not self._whole(sha):
            del self.artifacts[sha]

    def _whole(self, sha: str) -> bool:
        return sha in self.artifacts and self.artifacts[sha].state == "whole"

    # ---- what others see ----

    def assignable(self) -> set[str]:
        """The jobs that may be offered: ready, and wanted by a running study."""
        return {job for job in self._wanted("running") if self.jobs[job].state == "ready"}

    def desired(self, worker: str) -> dict[str, str]:
        """Attempt → run | release | stop, of the attempts in the worker's open runs."""
        wish = dict.fromkeys(self._wanted("paused"), "release") | dict.fromkeys(self._wanted("running"), "run")
        own = {n: a for n, a in self.attempts.items() if a.worker == worker and self.runs[a.run].state != "closed"}
        return {name: wish.get(a.job, "stop") if a.state in LIVE else "stop" for name, a in own.items()}

    def excluded(self, now: float) -> set[tuple[str, str]]:
        """(job, worker) that a full disk keeps apart."""
        return {(a.job, a.worker) for a in self.attempts.values() if a.reason == "disk" and self._is_full(a, now)}

    def _is_full(self, attempt: Attempt, now: float) -> bool:
        disk = self.workers[attempt.worker].disk
        if disk is None or attempt.disk is None:
            return (attempt.ended_at or 0.0) > now - DISK_PAUSE_S
        return disk <= attempt.disk

    def _wanted(self, state: str) -> set[str]:
        return {job for study in self.studies.values() if study.state == state for job in study.jobs}

    def view(self) -> dict[str, Any]:
        """Everything that the store must hold too, in the form of `scene.view`."""
        return {
            "job": {name: _job_row(job) for name, job in self.jobs.items()},
            "listing": {(name, job) for name, study in self.studies.items() for job in study.jobs},
            "study": {name: study.state for name, study in self.studies.items()},
            "worker": {name: (w.boot, w.lease_until, w.disk) for name, w in self.workers.items()},
            "slot": {(name, idx): free for name, w in self.workers.items() for idx, free in w.slots.items()},
            "run": {name: (r.worker, r.slot, r.state, r.delivery) for name, r in self.runs.items()},
            "attempt": {n: (a.job, a.run, a.worker, a.state, a.reason) for n, a in self.attempts.items()},
            "artifact": {sha: (artifact.state, artifact.touched_at) for sha, artifact in self.artifacts.items()},
            "ref": self.refs,
            "record": self.records,
        }

    def seen_by_others(self) -> dict[str, Any]:
        """What the coordinator and the workers must read."""
        return {"ready": self.assignable(), "desired": {worker: self.desired(worker) for worker in self.workers}}


def _job_row(job: Job) -> tuple[Any, ...]:
    newest, older = ([("", 0), ("", 0), *job.checkpoints][-1 - i] for i in range(2))
    return (job.state, job.accepted, len(job.charged), job.losses, job.ooms, *newest, *older)
