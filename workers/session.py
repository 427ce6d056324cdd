"""A worker's session with the api:

hello, heartbeats, and the long poll for what is desired of each attempt.
"""

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

from jsm_queue.errors import AuthError, EpochError, GoneError, JsmError
from jsm_queue.protocol import (
    ControlReply,
    Hardware,
    HeartbeatReply,
    HeartbeatRequest,
    HelloReply,
    HelloRequest,
    LeaveRequest,
    SlotReport,
)
from workers import hardware, threads
from workers.board import Board, Room
from workers.client import Client, Unreachable, patiently
from workers.hardware import SlotPlan
from workers.threads import OnGone

logger = logging.getLogger(__name__)

PAUSE_S = 0.05  # between two heartbeats, however much news there is
LEAVE_S = 2.0  # for the last heartbeat, and for the goodbye; longer they do not hold up this process's end
UNKNOWN = "the restored store does not know it"
REFUSED_WAIT_S = 15.0  # before the next request when the api refuses one that it should not

T = TypeVar("T")


class Session:
    """From one hello to the end of this process, or to a newer hello of the same worker."""

    def __init__(
        self,
        client: Client,
        board: Board,
        plans: list[SlotPlan],
        home: Path,
        on_gone: OnGone,
        holds: Callable[[], list[str]] = list,
        on_unclaimed: Callable[[int], object] = lambda _: None,
    ) -> None:
        """`holds`: what says which artifacts lie in this worker's cache. `on_unclaimed` hears with each heartbeat how
        many offers in a row this session did not claim.
        """
        self.boot_id = ""
        self._holds = holds
        self._on_unclaimed = on_unclaimed
        self._home = home
        self._client = client
        self._board = board
        self._plans = plans
        self._on_gone = on_gone
        self._heartbeat_s = 15.0
        self._machine: Hardware | None = None
        self._renewing = threading.Lock()
        self._beating: threading.Thread | None = None

    def hello(self, machine: Hardware, undelivered: list[str], running: Sequence[str] = ()) -> list[str]:
        """Begin. Returns the attempts of these whose results nobody wants. Raises Unreachable, AuthError.

        Each try has a boot id of its own, as the api may have taken one whose answer was lost.
        """
        self._machine = machine
        request = HelloRequest(
            boot_id=uuid.uuid4().hex,
            hardware=machine,
            slots=self._slots(),
            undelivered=undelivered,
            running=list(running),
            holds=self._holds(),
        )
        reply = self._client.post("/v1/worker/hello", request, HelloReply)
        self._heartbeat_s = reply.heartbeat_s
        self.boot_id = request.boot_id  # not before: the api refuses what another thread says by an id not yet taken
        return reply.drop

    def start(self) -> None:
        """Heartbeats and control, each in a thread of its own, until the agent leaves."""
        self._beating = threads.start("heartbeat", self._beat, self._on_gone)
        threads.start("control", self._control, self._on_gone)

    def _beat(self) -> None:
        board = self._board
        while not board.leaving.is_set():
            board.news.clear()
            patiently(self._heartbeat, board.leaving, _away("heartbeat"))
            board.leaving.wait(PAUSE_S)
            board.news.wait(self._heartbeat_s)
        with contextlib.suppress(Unreachable):
            self._heartbeat()  # no slot is free now: what is released goes to a worker that stays

    def leave(self) -> None:
        """Say goodbye, once nothing else is left to be said. Where that does not arrive, the lease ends by itself."""
        if self._beating:
            self._beating.join(LEAVE_S)  # the last heartbeat renews the lease
        with contextlib.suppress(Unreachable, JsmError):
            self._client.tell("/v1/worker/leave", LeaveRequest(boot_id=self.boot_id), httpx.Timeout(LEAVE_S))

    def _heartbeat(self) -> None:
        def beat(boot_id: str) -> HeartbeatReply:
            request = HeartbeatRequest(
                boot_id=boot_id,
                slots=self._slots(),
                attempts=self._board.attempt_reports(),
                disk_free=psutil.disk_usage(str(self._home)).free,
            )
            return self._client.post("/v1/worker/heartbeat", request, HeartbeatReply)

        self._on_unclaimed(self._asked(beat).unclaimed)

    def _control(self) -> None:
        revision = -1
        while not self._board.leaving.is_set():

            def ask(boot_id: str, revision: int = revision) -> ControlReply:
                return self._client.get("/v1/worker/control", ControlReply, {"boot_id": boot_id, "rev": revision})

            reply = patiently(lambda: self._asked(ask), self._board.leaving, _away("control"))
            revision = reply.control_rev
            self._board.obey(reply.desired, reply.worker)

    def _asked(self, call: Callable[[str], T]) -> T:
        """What `call` returns for this session's boot id. Only a superseded session ends, none by an api's bug."""
        boot_id = self.boot_id
        try:
            return self._tried(lambda: call(boot_id))
        except EpochError as error:
            self._renew(boot_id, error)
            return self._asked(call)
        except GoneError:
            if self.is_current(boot_id):
                raise
            return self._asked(call)

    def _tried(self, call: Callable[[], T]) -> T:
        """Whatever the api refuses for no reason of the session's is to be tried again."""
        try:
            return call()
        except (EpochError, GoneError, AuthError):
            raise
        except JsmError as error:
            self._board.leaving.wait(REFUSED_WAIT_S)
            raise Unreachable(str(error)) from error

    def is_current(self, boot_id: str) -> bool:
        """Whether the session still goes by this id. Waits while another thread says hello to a restored store."""
        with self._renewing:
            return boot_id == self.boot_id

    def _renew(self, boot_id: str, why: EpochError) -> None:
        """Say hello to a restored store, once. What runs goes on where the store knows of it. Else it makes room, and
        its checkpoint waits here for the job's next attempt.

        Until it is answered: the api may have taken a hello whose answer was lost, and knows the old id no more.
        """
        with self._renewing:
            machine = self._machine
            if boot_id != self.boot_id or machine is None:
                return
            logger.warning("%s", why.message)

            def hello() -> list[str]:
                return self._tried(lambda: self.hello(machine, self._board.waiting(), self._board.running()))

            unknown = patiently(hello, self._board.leaving, _away("hello"))
            self._board.give_back(unknown, UNKNOWN)

    def _slots(self) -> list[SlotReport]:
        return self._board.slot_reports(free_memory(self._plans))


def free_memory(plans: list[SlotPlan]) -> dict[int, Room]:
    """What each slot has: the GPU's own memory, or the system's."""
    gpus = {gpu.uuid: gpu for gpu in hardware.list_gpus()} if any(p.uuid for p in plans) else {}
    system = psutil.virtual_memory()
    rooms = {uuid: Room(gpu.free, gpu.memory) for uuid, gpu in gpus.items()}
    here = Room(system.available, system.total)
    return {plan.idx: rooms.get(plan.uuid, Room(0, 0)) if plan.uuid else here for plan in plans}


def _away(what: str) -> Callable[[str], None]:
    return lambda reason: logger.warning("%s waits for the api (%s); trying on", what, reason)
