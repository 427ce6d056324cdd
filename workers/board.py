"""What every slot and every attempt of this worker is doing now: the one state that its threads share."""

import threading
from dataclasses import dataclass, field
from typing import Literal

from jsm_queue.protocol import AttemptReport, Desired, SlotReport
from workers.hardware import SlotPlan


@dataclass
class SlotState:
    """A slot as the api sees it. `run`: the run that occupies it, or the last one that did."""

    plan: SlotPlan
    free: bool = True
    run: str | None = None
    warm_base: str | None = None


@dataclass
class Held:
    """An attempt that this worker holds. `stop` is set when it shall end here, `released`: for another to go on."""

    report: AttemptReport
    stop: threading.Event = field(default_factory=threading.Event)
    released: bool = False

    def obey(self, wish: Desired | None) -> None:
        """Stop or release it; what is whole on the disk is delivered all the same."""
        if wish in ("release", "stop") and self.report.phase == "running" and not self.stop.is_set():
            self.released = wish == "release"
            self.stop.set()


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

    # ---- slots ----

    def occupy(self, slot: int, run: str) -> bool:
        """The run begins on the slot.

        False when the slot is busy or this run was there already: a message came twice.
        """
        with self._lock:
            state = self._slots.get(slot)
            if state is None or not state.free or state.run == run:
                return False
            state.free, state.run = False, run
        self.news.set()
        return True

    def release(self, slot: int, warm_base: str | None) -> None:
        """The slot is free again."""
        with self._lock:
            self._slots[slot].free, self._slots[slot].warm_base = True, warm_base
        self.news.set()

    def slot_reports(self, room: dict[int, int]) -> list[SlotReport]:
        """All slots for a heartbeat; `room` is the free memory of each in bytes. None is free while leaving."""
        with self._lock:
            return [
                SlotReport(
                    idx=idx,
                    kind=_kind(state.plan),
                    device=state.plan.device,
                    vram_free=room.get(idx, 0),
                    free=state.free and not self.leaving.is_set(),
                    run=state.run,
                    warm_base=state.warm_base,
                )
                for idx, state in self._slots.items()
            ]

    # ---- attempts ----

    def begin(self, attempt: str) -> Held | None:
        """The attempt starts. None when this worker holds it already, or leaves."""
        with self._lock:
            if attempt in self._held or self.leaving.is_set():
                return None
            held = self._held[attempt] = Held(AttemptReport(attempt=attempt, phase="running"))
            held.obey(self._desired.get(attempt))  # it may have been unwanted before its message came
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

    def delivering(self, attempt: str) -> None:
        """The attempt's result is whole on the disk."""
        with self._lock:
            held = self._held.setdefault(attempt, Held(AttemptReport(attempt=attempt, phase="delivering")))
            held.report = held.report.model_copy(update={"phase": "delivering"})
        self.news.set()

    def forget(self, attempt: str) -> None:
        """The attempt was accepted, refused or ended."""
        with self._lock:
            self._held.pop(attempt, None)

    def waiting(self) -> list[str]:
        """The attempts whose results wait on the disk."""
        with self._lock:
            return [attempt for attempt, held in self._held.items() if held.report.phase == "delivering"]

    def attempt_reports(self) -> list[AttemptReport]:
        """All attempts for a heartbeat."""
        with self._lock:
            return [held.report for held in self._held.values()]

    def obey(self, desired: dict[str, Desired]) -> None:
        """Stop the running attempts that nobody wants, release those that shall run elsewhere or later."""
        with self._lock:
            self._desired = desired
            for attempt, held in self._held.items():
                held.obey(desired.get(attempt))

    def leave(self) -> None:
        """The agent ends: nothing new begins, what runs is stopped."""
        with self._lock:
            self.leaving.set()
            for held in self._held.values():
                held.stop.set()
        self.news.set()


def _kind(plan: SlotPlan) -> Literal["gpu", "cpu"]:
    return "gpu" if plan.kind == "gpu" else "cpu"
