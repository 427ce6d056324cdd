"""What the reference model holds, its times and states; and what is known of where the code differs."""

from dataclasses import dataclass, field

LEASE_S = 60.0
OFFER_S = 20.0
GAP_S = LEASE_S / 2  # between two ticks: longer, and the api was away
DISK_PAUSE_S = 60.0

Slot = tuple[int, bool, str | None]
"""What a worker says of a slot: its index, whether it is free, and the run that is or was in it."""

LIVE = ("offered", "running", "delivering", "suspect")
HELD = ("running", "delivering", "suspect")  # a worker has it
DEAD = ("failed", "quarantined", "skipped")
TERMINAL = ("done", *DEAD)


class Refused(Exception):
    """`code`: "conflict" (409) or "gone" (410)."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Job:
    """`charged`: the worker of each charge since the last retry; `checkpoints`: (sha, position), the newest last."""

    needs: tuple[str, ...]
    outputs: frozenset[str]
    state: str
    accepted: str | None = None
    charged: list[str] = field(default_factory=list)
    losses: int = 0
    ooms: int = 0
    checkpoints: list[tuple[str, int]] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Where the newest checkpoint stands."""
        return self.checkpoints[-1][1] if self.checkpoints else 0


@dataclass
class Study:
    """`inputs`: hashes of the submitter's files."""

    state: str
    inputs: frozenset[str]
    jobs: list[str] = field(default_factory=list)


@dataclass
class Worker:
    """`slots`: index → reported free."""

    boot: str
    lease_until: float
    slots: dict[int, bool]
    disk: int | None = None

    def away(self, now: float) -> bool:
        """Whether its lease expired."""
        return self.lease_until < now


@dataclass
class Run:
    """state: offered | claimed | closed."""

    worker: str
    slot: int
    state: str = "offered"
    delivery: str | None = None


@dataclass
class Attempt:
    """`began_at`: the job's position at the offer; `disk`: what its worker could write then."""

    job: str
    run: str
    worker: str
    offered_at: float
    began_at: int
    disk: int | None
    state: str = "offered"
    reason: str | None = None
    ended_at: float | None = None


@dataclass
class Artifact:
    """state: whole | doomed."""

    state: str
    touched_at: float
