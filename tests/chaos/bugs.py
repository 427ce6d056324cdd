"""Bugs to plant in the agent or its runner. Each is a mistake that somebody could make, and replaces one function.

What a bug needs is imported when it is planted: hundreds of processes start in a run, and none loads what it does not
use. Those of the api are in `apibugs.py`.

CHAOS_BUG   the name of the one that is planted; without it there is none
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from jsm_queue import protocol
from jsm_queue.errors import ConflictError, JsmError
from jsm_queue.files import publish
from tests.planting import Plant, into, nothing
from workers.work import Take

BUGS: dict[str, Plant] = {}
_bug = into(BUGS)


def planted() -> AbstractContextManager[Any]:
    """The bug that CHAOS_BUG names, if it is one of these: in force inside."""
    return chosen(BUGS)


def chosen(bugs: Mapping[str, Plant]) -> AbstractContextManager[Any]:
    """The one of `bugs` that CHAOS_BUG names; nothing where it names another, or none."""
    plant = bugs.get(os.environ.get("CHAOS_BUG", ""))
    return plant() if plant else nullcontext()


# The runner


@_bug
def a_checkpoint_is_taken_while_the_job_goes_on() -> Iterator[None]:
    from workers import safepoints

    def write(self: safepoints.Keeper, position: int, take: Take) -> None:
        def late() -> None:
            time.sleep(0.05)  # the thread begins when the system lets it
            self._write(position, take(), began)

        self.wait()
        if self._job.checkpoints is None or position == self.position:
            return
        began = time.monotonic()
        self._writing = threading.Thread(target=late, daemon=True)
        self._writing.start()

    with patch.object(safepoints.Keeper, "write", write):
        yield


@_bug
def a_full_disk_counts_against_the_job() -> Iterator[None]:
    from workers import runner

    def classify(error: BaseException) -> tuple[Any, str]:
        reason, message = real(error)
        return ("error" if reason == "disk" else reason), message

    real = runner.classify
    with patch.object(runner, "classify", classify):
        yield


# The agent: slots and sessions


@_bug
def a_dead_runner_is_not_noticed() -> Iterator[None]:
    from workers import slots

    def listen(stream: Any, events: Any) -> None:
        with stream, suppress(ValueError):
            for line in stream:
                events.put(slots.EventLine.model_validate_json(line))

    with patch.object(slots, "_listen", listen):
        yield


@_bug
def a_slot_is_not_freed_after_a_crash() -> Iterator[None]:
    from jsm_queue.broker import AttemptEnded
    from workers import attempts

    def handle(self: attempts.Attempts, bell: protocol.Bell, delivery: str) -> str:
        try:
            claim = self._claim(bell, delivery)
        except JsmError:
            return "dropped"
        if not self.board.occupy(claim.slot, bell.run):
            return "dropped"
        slot = self.slots[claim.slot]
        for grant in claim.attempts:
            if ended := self._attempt(grant, slot, bell):
                raise AttemptEnded(ended.message)
        self.board.release(slot.plan.idx, slot.warm_base)
        return "done"

    with patch.object(attempts.Attempts, "_handle", handle):
        yield


@_bug
def a_boot_id_is_used_again() -> Iterator[None]:
    from workers import session

    same = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="b" * 32))
    with patch.object(session, "uuid", same):
        yield


@_bug
def hello_says_nothing_of_the_outbox() -> Iterator[None]:
    from workers.session import Session as Own

    real = Own.hello
    with patch.object(Own, "hello", lambda self, machine, _undelivered, running=(): real(self, machine, [], running)):
        yield


@_bug
def heartbeats_end_with_the_first_that_is_missed() -> Iterator[None]:
    from workers import session

    def beat(self: session.Session) -> None:
        with suppress(session.Unreachable):
            while not self._board.leaving.is_set():
                self._board.news.clear()
                self._heartbeat()
                self._board.leaving.wait(session.PAUSE_S)
                self._board.news.wait(self._heartbeat_s)

    with patch.object(session.Session, "_beat", beat):
        yield


@_bug
def wishes_are_not_obeyed() -> Iterator[None]:
    from workers.board import Board

    with patch.object(Board, "obey", nothing):
        yield


# The agent: files and results


@_bug
def checkpoints_of_all_jobs_lie_in_one_folder() -> Iterator[None]:
    from workers.checkpoints import Checkpoints

    with patch.object(Checkpoints, "folder", lambda self, _job: self.root / "all"):
        yield


@_bug
def what_is_released_does_not_send_its_checkpoint() -> Iterator[None]:
    from workers.checkpoints import Checkpoints

    def release(self: Checkpoints, attempt: str, end: protocol.EndRequest) -> None:
        with self._changed:
            self._attempts.pop(attempt, None)
        self._end(attempt, end)

    with patch.object(Checkpoints, "release", release):
        yield


@_bug
def an_error_of_the_api_counts_as_its_answer() -> Iterator[None]:
    from workers import client

    def answer(response: Any) -> None:
        if response.status_code >= 500:
            raise ConflictError(f"the api answered {response.status_code}")
        real(response)

    real = client._raise
    with patch.object(client, "_raise", answer):
        yield


@_bug
def what_cannot_be_delivered_at_once_is_given_up() -> Iterator[None]:
    from workers.delivery import Delivery

    with patch.object(Delivery, "_postpone", nothing):
        yield


@_bug
def a_restart_empties_the_outbox() -> Iterator[None]:
    from workers.outbox import Outbox

    def recover(self: Outbox) -> None:
        for folder in (*self.root.iterdir(), *self.work.iterdir()):
            self.drop(folder.name)
            self.clear(folder.name)

    with patch.object(Outbox, "recover", recover):
        yield


@_bug
def an_upload_is_believed_to_have_arrived() -> Iterator[None]:
    from workers import client

    def upload(self: client.Client, file: Path, artifact: protocol.ArtifactIn, stop: threading.Event) -> None:
        offer = protocol.ArtifactOffer(sha=artifact.sha, size=artifact.size)
        state = self.post("/v1/artifacts", offer, protocol.ArtifactState)
        if state.have:
            return
        headers = {"Upload-Offset": str(state.offset), "Upload-Length": str(artifact.size)}
        pieces = client._pieces(file, state.offset, stop)
        with suppress(ConflictError):
            self._ask("PATCH", f"/v1/artifacts/{artifact.sha}", content=pieces, headers=headers)

    with patch.object(client.Client, "upload", upload):
        yield


@_bug
def a_download_is_not_verified() -> Iterator[None]:
    from workers.cache import Cache

    def adopt(self: Cache, file: Path, sha: str) -> bool:
        publish(file, self.path_of(sha))
        return True

    with patch.object(Cache, "adopt", adopt):
        yield
