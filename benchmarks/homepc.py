"""A PC of the home trace: what it is, what it runs and what lies on its disk."""

from dataclasses import dataclass, field

from benchmarks.homestudy import STEPS
from jsm_queue import protocol
from workers import courtesy
from workers.board import Board, Held
from workers.hardware import SlotPlan

VRAM = 16 * 2**30
PLANS = [SlotPlan(0, "gpu", "cuda:0", 8, "GPU-0"), SlotPlan(1, "cpu", "cpu", 8)]
HARDWARE = protocol.Hardware(
    hardware_class="RTX 4060 Ti 16 GB", os="Windows 11", cpu="x", cores=8, memory_bytes=2**35, gpus=["RTX 4060 Ti"]
)


@dataclass
class Work:
    """An attempt under way: its steps began at `since`, from `start` seconds of work on; `sent`: what the api has."""

    attempt: str
    job: str
    held: Held
    since: float
    start: float
    length: float
    sent: float

    def position(self, now: float) -> float:
        """Seconds of work that are done."""
        return min(self.length, self.start + max(0.0, now - self.since))


@dataclass
class Pc:
    """One machine. `disk`: job → (position, charges) of its own newest checkpoint; `whole`: attempt → job, results."""

    id: str
    board: Board
    on: bool = True
    linked: bool = True
    playing: bool = False
    boots: int = 0
    warm: bool = False
    standing: dict[int, courtesy.Standing] = field(default_factory=dict)
    work: Work | None = None
    disk: dict[str, tuple[float, int]] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    ends: list[tuple[str, protocol.EndRequest]] = field(default_factory=list)

    @property
    def boot(self) -> str:
        """Its session."""
        return f"{int(self.id, 16) * 10_000 + self.boots:032x}"

    def doing(self, now: float, api: bool) -> str:
        """What its time is spent on, in words. `api`: is it there?"""
        if self.work:
            return STEPS if self.work.since <= now else "loading"
        if self.standing.get(0, courtesy.Standing("run")).wish != "run":
            return "idle: after its owner played"
        if not api:
            return "idle: the api is away"
        return "idle: waiting" if self.linked else "idle: its Wi-Fi is away"


def board() -> Board:
    """Of one that starts."""
    return Board(PLANS)


def close_cpu(pc: Pc) -> None:
    """Nothing is left for CPU slots after the study's first job; the api need not look for it every time."""
    pc.board.occupy(1, pc.id)
