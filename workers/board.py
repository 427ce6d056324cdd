"""What every slot and every attempt of this worker is doing now: the one state that its threads share."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from jsm_queue.protocol import AttemptReport, Desired, EndReason, Phase, SlotReport, WorkerWish
from workers.hardware import SlotPlan

STRENGTH: dict[Desired, int] = {"run": 0, "pause": 1, "release": 2, "stop": 3}
LEFT = "its worker left the pool"
WORKER_PAUSED = "this worker is paused"
WORKER_DRAINED = "this worker is drained"
STUDY_PAUSED = "its study is paused"

OwnerWish = Literal["run", "pause", "release"]


class Wish(NamedTuple):
    """What somebody wants of a slot or an attempt, and why, for people."""

    wish: Desired
    why: str


RUN = Wish("run", "")
WORKER_WISHES: dict[WorkerWish, Wish] = {
    "run": RUN,
    "pause": Wish("pause", WORKER_PAUSED),
    "drain": Wish("release", WORKER_DRAINED),
}


def strongest(*wishes: Wish) -> Wish:
    """The one that counts; of equals the first."""
    return max(wishes, key=lambda each: STRENGTH[each.wish])


class Room(NamedTuple):
    """A slot's memory, in bytes."""

    free: int
    total: int


@dataclass
class SlotState:
    """A slot as the api sees it. `run`: the run that occupies it, or the last one that did or was turned away."""

    plan: SlotPlan
    free: bool = True
    run: str | None = None
    warm_base: str | None = None
    owner: Wish = RUN


@dataclass(frozen=True)
class Ended:
    """An attempt without a result: why, in words, and the end of the runner's log."""

    reason: EndReason
    message: str
    log_tail: str = ""


@dataclass
class Held:
    """An attempt that this worker holds. `wish`: what is to become of it; a release or a stop is not taken back.

    `stop` is set when it shall end here, `news` at every other wish.
    """

    report: AttemptReport
    slot: int = 0
    wish: Desired = "run"
    why: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    news: threading.Event = field(default_factory=threading.Event)

    def obey(self, wish: Wish) -> None:
        """What is whole on the disk is delivered all the same."""
        if self.report.phase != "running" or (self.stop.is_set() and STRENGTH[wish.wish] <= STRENGTH[self.wish]):
            return
        if wish.wish != self.wish:
            self.wish, self.why = wish
        if wish.wish in ("release", "stop"):
            self.stop.set()
        self.news.set()

    def wait_out_pause(self) -> None:
        """Before it begins: until it is to run, or to end."""
        while self.wish == "pause":
            self.news.wait()
            self.news.clear()

    def ended(self) -> Ended:
        """How it ends because of what is wished of it."""
        return Ended("released", self.why) if self.wish == "release" else Ended("cancelled", "no longer wanted")


class Board:
    """Slots and attempts.

    Safe to use from several threads; `news` is set when the api should hear at once.
    """

    def __init__(self, plans: list[SlotPlan]) -> None:
        self.news = threading.Event()
        self.leaving = threading.Event()
        self._lock = threading.RLock()  # a signal's handler may interrupt a holder
        self._slots = {plan.idx: SlotState(plan) for plan in plans}
        self._held: dict[str, Held] = {}
        self._desired: dict[str, Desired] = {}
        self._worker: WorkerWish = "run"

    # ---- slots ----

    def occupy(self, slot: int, run: str) -> bool:
        """The run begins on the slot.

        False when the slot is busy or kept, or this run was there already: a message came twice.
        """
        with self._lock:
            state = self._slots.get(slot)
            if state is None or not state.free or state.run == run:
                return False
            kept = self._is_kept(state)
            state.free, state.run = kept, run  # a run that is turned away is closed once the slot is said to be free
        self.news.set()
        return not kept

    def release(self, slot: int, warm_base: str | None) -> None:
        """The slot is free again."""
        with self._lock:
            self._slots[slot].free, self._slots[slot].warm_base = True, warm_base
        self.news.set()

    def is_idle(self, slot: int) -> bool:
        """Whether nothing runs there; a runner may be warm."""
        with self._lock:
            return self._slots[slot].free

    def slot_reports(self, room: Mapping[int, Room]) -> list[SlotReport]:
        """All slots for a heartbeat. None is free while leaving, nor one that is kept."""
        with self._lock:
            return [self._slot_report(state, room.get(idx, Room(0, 0))) for idx, state in self._slots.items()]

    def _slot_report(self, state: SlotState, room: Room) -> SlotReport:
        return SlotReport(
            idx=state.plan.idx,
            kind=_kind(state.plan),
            device=state.plan.device,
            vram_free=room.free,
            vram_total=room.total,
            free=state.free and not self._is_kept(state) and not self.leaving.is_set(),
            hold=None if state.owner == RUN else state.owner.why[:200],
            run=state.run,
            warm_base=state.warm_base,
        )

    def _is_kept(self, state: SlotState) -> bool:
        """Whether nothing begins on the slot, by its owner's wish or the pool's."""
        return strongest(state.owner, WORKER_WISHES[self._worker]) != RUN

    # ---- wishes ----

    def owner_wishes(self, slot: int, wish: OwnerWish, why: str) -> None:
        """What the owner of this machine wants of a slot, until the next call: with anything but "run" nothing begins
        there; what runs stands still, or gives its memory back. From any thread, as often as one likes.
        """
        with self._lock:
            state = self._slots.get(slot)
            if state is None or state.owner == Wish(wish, why):
                return
            state.owner = Wish(wish, why)
            self._tell_held()
        self.news.set()

    def obey(self, desired: dict[str, Desired], worker: WorkerWish = "run") -> None:
        """What the api wants: of each attempt, and of this worker as a whole."""
        with self._lock:
            changed = worker != self._worker
            self._desired, self._worker = desired, worker
            self._tell_held()
        if changed:
            self.news.set()

    def leave(self) -> None:
        """The agent ends: nothing new begins, what runs is given back."""
        with self._lock:
            self.leaving.set()
            self._tell_held()
        self.news.set()

    def give_back(self, attempts: Iterable[str], why: str) -> None:
        """Of these, what runs here makes room: nobody waits for its result."""
        with self._lock:
            for attempt in attempts:
                if held := self._held.get(attempt):
                    held.obey(Wish("release", why))

    def _tell_held(self) -> None:
        for attempt, held in self._held.items():
            held.obey(self._wish(attempt, held))

    def _wish(self, attempt: str, held: Held) -> Wish:
        desired = self._desired.get(attempt, "run")
        leave = Wish("release", LEFT) if self.leaving.is_set() else RUN
        owner = self._slots[held.slot].owner if held.slot in self._slots else RUN
        return strongest(leave, owner, WORKER_WISHES[self._worker], Wish(desired, STUDY_PAUSED))

    # ---- attempts ----

    def begin(self, attempt: str, slot: int) -> Held | None:
        """The attempt starts on a slot. None when this worker holds it already, or leaves."""
        with self._lock:
            if attempt in self._held or self.leaving.is_set():
                return None
            held = self._held[attempt] = Held(AttemptReport(attempt=attempt, phase="running"), slot)
            held.obey(self._wish(attempt, held))  # it may have been unwanted before its message came
            return held

    def holds(self, attempt: str) -> bool:
        """Whether this worker runs or delivers the attempt."""
        with self._lock:
            return attempt in self._held

    def progress(self, attempt: str, position: int, total: int, metrics: dict[str, float]) -> None:
        """Where the attempt is; told with the next heartbeat."""
        with self._lock:
            if held := self._held.get(attempt):
                held.report = AttemptReport(
                    attempt=attempt, phase="running", position=position, total=total, metrics=metrics
                )

    def stands(self, attempt: str) -> None:
        """The attempt stands still, until the next progress."""
        with self._lock:
            if held := self._held.get(attempt):
                held.report = held.report.model_copy(update={"paused": held.why[:200]})
        self.news.set()

    def delivering(self, attempt: str) -> None:
        """The attempt's result is whole on the disk."""
        with self._lock:
            held = self._held.setdefault(attempt, Held(AttemptReport(attempt=attempt, phase="delivering")))
            held.report = held.report.model_copy(update={"phase": "delivering", "paused": None})
        self.news.set()

    def forget(self, attempt: str) -> None:
        """The attempt was accepted, refused or ended."""
        with self._lock:
            self._held.pop(attempt, None)

    def waiting(self) -> list[str]:
        """The attempts whose results wait on the disk."""
        return self._held_in("delivering")

    def running(self) -> list[str]:
        """The attempts without a result."""
        return self._held_in("running")

    def _held_in(self, phase: Phase) -> list[str]:
        with self._lock:
            return [attempt for attempt, held in self._held.items() if held.report.phase == phase]

    def attempt_reports(self) -> list[AttemptReport]:
        """All attempts for a heartbeat."""
        with self._lock:
            return [held.report for held in self._held.values()]


def _kind(plan: SlotPlan) -> Literal["gpu", "cpu"]:
    return "gpu" if plan.kind == "gpu" else "cpu"
