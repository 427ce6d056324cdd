"""What the scheduler decides about, and its decisions."""

from dataclasses import dataclass, field
from operator import attrgetter
from weakref import WeakValueDictionary

from jsm_queue.costs import SlotClass, Task


@dataclass(frozen=True)
class Files:
    """Input files that lie with some workers; others fetch their `size` bytes first."""

    workers: frozenset[str]
    size: int


class Alike:
    """What jobs have in common that take equally long in each slot; equal only to itself."""

    __slots__ = ("__weakref__",)

    def __deepcopy__(self, _: object) -> "Alike":
        return self


ALIKE = attrgetter(
    "priority", "study", "kind", "base", "hardware", "gpu", "excluded", "task", "memory_needed", "fuses", "awaits"
)
_known: WeakValueDictionary[tuple[object, ...], Alike] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class ReadyJob:
    """A ready, wanted job. `priority`: of its study, higher first; `order`: its place among the jobs of that priority
    that are else alike; `since`: when it was listed, in seconds of one clock for all.

    `base`: BaseRef.key of the model that a runner would keep. `hardware`: the class of machine it must run on, None for
    any; `exclusive`: it needs a whole worker to itself. `gpu`: it goes to GPU slots where its worker has any, though
    its kind does not say so. `excluded`: workers that may not have it now. `memory_needed`: bytes that proved to be too
    few, and a little. `fuses`: trainings that name the same here may go through the engine together; None: it runs
    alone. `awaits`: the worker that has more of it done than the api has, and may come back. `alike`: the same of all
    that take equally long in each slot.
    """

    id: str
    kind: str
    priority: int
    order: tuple[float, ...]
    base: str | None = None
    hardware: str | None = None
    exclusive: bool = False
    gpu: bool = False
    excluded: frozenset[str] = frozenset()
    study: str = ""
    task: Task | None = None
    memory_needed: int = 0
    fuses: str | None = None
    files: tuple[Files, ...] = ()
    since: float = 0.0
    awaits: str | None = None
    alike: Alike = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Once a job, as each look sorts thousands that the one before has sorted."""
        object.__setattr__(self, "alike", _known.setdefault(ALIKE(self), Alike()))


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """A slot of a live worker. `free`: its worker reports it so and no run is open on it.

    `hardware`: its worker's class; `speed`: what jobs take there. `memory_free`, `memory_total` in bytes, 0: unknown.
    `busy_s`: how long it will be busy, in seconds, None where nobody knows; `study`: whose job it runs. `hold`: why its
    owner keeps it. `lacks`: (kind, why) that its worker cannot do; `fuses`: how many trainings of one base go through
    its engine at once. `name`: of its worker, for people.
    """

    worker: str
    idx: int
    kind: str
    free: bool
    hardware: str
    warm_base: str | None = None
    exclusive_run: bool = False
    speed: SlotClass | None = None
    memory_free: int = 0
    memory_total: int = 0
    busy_s: float | None = None
    study: str | None = None
    hold: str | None = None
    lacks: tuple[tuple[str, str], ...] = ()
    fuses: int = 1
    name: str = field(default="", compare=False)


@dataclass(frozen=True)
class Offer:
    """Run `jobs` on that slot: one, or several trainings that share a base and go through the engine together."""

    jobs: tuple[str, ...]
    kind: str
    worker: str
    slot: int
