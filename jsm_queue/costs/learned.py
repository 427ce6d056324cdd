"""What accepted attempts teach: how much longer or shorter jobs take than was thought, and how much memory they need.

A sample's ratio is its seconds over what the model said for that slot. Of a kind on GPUs or on CPUs the median counts,
on one hardware its own, and of a base there its own; each is drawn towards what is less particular, the more the fewer
samples there are. So the first answer on any GPU tells something of answers on all others.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jsm_queue.costs.memory import memory
from jsm_queue.costs.rates import SlotClass, is_cpu, machine_of, prior_seconds
from jsm_queue.costs.tasks import Task

BELIEF = 1.0  # how many samples the less particular figure is worth
PEAK_MARGIN = 1.05  # what was enough once, and a little


@dataclass(frozen=True)
class Sample:
    """One accepted attempt. `work`: the seconds that the model said for that slot; `peak_bytes`: 0 where nobody
    measured them. `seconds` 0.0: it ran out of memory with the smallest plan, and needs `peak_bytes` at least.
    """

    kind: str
    base: str | None
    gpu: str
    work: float
    seconds: float
    peak_bytes: int = 0


class Times(NamedTuple):
    """Seconds on each class of slots: as they are thought, and with the doubt of what was never tried."""

    seconds: NDArray[np.float64]
    doubtful: NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes of jobs, by model and samples. `factors`: (kind, base, hardware), (kind, hardware) or (kind,
    whether it is a CPU) → actual over modelled seconds; `enough`, `too_little`: (kind, base) → bytes that were.
    """

    factors: Mapping[Hashable, float] = field(default_factory=dict)
    enough: Mapping[tuple[str, str | None], float] = field(default_factory=dict)
    too_little: Mapping[tuple[str, str | None], float] = field(default_factory=dict)
    _paths: dict[tuple[Task, SlotClass], float] = field(default_factory=dict, compare=False, repr=False)
    _tables: dict[tuple[SlotClass, ...], dict[Task, Times]] = field(default_factory=dict, compare=False, repr=False)

    def times(self, classes: tuple[SlotClass, ...]) -> Callable[[Task], Times]:
        """What `seconds` and `doubt` say of a job on slots of those classes: worked out once, as thousands ask."""
        table, modelled = self._tables.setdefault(classes, {}), _modelled(classes)
        taught: dict[tuple[str, str | None], Times] = {}

        def look_up(work: Task) -> Times:
            found = table.get(work)
            if found is None:
                of_kind = taught.get((work.kind, work.base))
                if of_kind is None:
                    of_kind = taught[work.kind, work.base] = self._taught(work, classes)
                seconds = modelled(work) * of_kind.seconds
                found = table[work] = Times(seconds, seconds * of_kind.doubtful)
            return found

        return look_up

    def _taught(self, work: Task, classes: tuple[SlotClass, ...]) -> Times:
        """By what the model's time is to be multiplied on each class, and that by for the doubt."""
        factors = [self.factor(work, each.name) for each in classes]
        doubts = [self.doubt(work, each) for each in classes]
        return Times(np.array(factors, dtype=float), np.array(doubts, dtype=float))

    def seconds(self, work: Task, slot: SlotClass) -> float:
        """Time of one job on a slot of that class."""
        return prior_seconds(work, slot) * self.factor(work, slot.name)

    def factor(self, work: Task, hardware: str) -> float:
        """Actual over modelled seconds."""
        found = self.factors.get((work.kind, work.base, hardware)) or self.factors.get((work.kind, hardware))
        return found or self.factors.get((work.kind, is_cpu(hardware)), 1.0)

    def doubt(self, work: Task, slot: SlotClass) -> float:
        """How far off its time on a CPU may well be to the long side, and on a GPU to the short one, as a factor; 1.0
        once anything of its kind ran on such a slot.
        """
        if (work.kind, slot.kind != "gpu") in self.factors or not work.base:
            return 1.0
        spread = machine_of(slot).spread
        return 1 - spread if slot.kind == "gpu" else 1 + spread

    def path(self, work: Task, slot: SlotClass) -> float:
        """Time of a job and of what waits for it, to the end of its study."""
        known = self._paths.get((work, slot))
        if known is None:
            known = self.seconds(work, slot) + (self.path(work.then, slot) if work.then else 0.0)
            self._paths[work, slot] = known
        return known

    def memory(self, work: Task, kind: str) -> float:
        """Bytes that a job needs of a slot of that kind."""
        key = (work.kind, work.base)
        modelled = memory(work, kind)
        if kind != "gpu":
            return modelled
        return max(min(modelled, self.enough.get(key, math.inf)), self.too_little.get(key, 0.0))


@lru_cache(maxsize=64)
def _modelled(classes: tuple[SlotClass, ...]) -> Callable[[Task], NDArray[np.float64]]:
    """What the model says of a job on each class: kept from look to look, as no sample changes it."""
    return lru_cache(maxsize=1 << 16)(
        lambda work: np.array([prior_seconds(work, each) for each in classes], dtype=float)
    )


PRIOR = Costs()
"""Before anything ran."""


def learn(samples: Iterable[Sample]) -> Costs:
    """What the samples teach, whatever their order."""
    ratios: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    enough: dict[tuple[str, str | None], float] = {}
    too_little: dict[tuple[str, str | None], float] = {}
    for sample in samples:
        key = (sample.kind, sample.base)
        if sample.seconds > 0 and sample.work > 0:
            for level in _levels(sample):
                ratios[level].append(math.log(sample.seconds / sample.work))
        elif sample.peak_bytes:
            too_little[key] = max(too_little.get(key, 0.0), float(sample.peak_bytes))
        if sample.seconds > 0 and sample.peak_bytes:
            enough[key] = min(enough.get(key, math.inf), PEAK_MARGIN * sample.peak_bytes)
    return Costs(_factors(ratios), enough, too_little)


def _levels(sample: Sample) -> list[tuple[Any, ...]]:
    """What a sample speaks of, the least particular first."""
    kind, gpu = sample.kind, sample.gpu
    return [(kind, is_cpu(gpu)), (kind, gpu), (kind, sample.base, gpu)]


def _factors(ratios: Mapping[tuple[Any, ...], list[float]]) -> dict[Hashable, float]:
    logs: dict[tuple[Any, ...], float] = {}
    for (kind, cpu), own in ((key, own) for key, own in ratios.items() if isinstance(key[-1], bool)):
        logs[kind, cpu] = _towards(0.0, own)
    for (kind, gpu), own in ((key, own) for key, own in ratios.items() if len(key) == 2 and key not in logs):
        logs[kind, gpu] = _towards(logs[kind, is_cpu(gpu)], own)
    for (kind, base, gpu), own in ((key, own) for key, own in ratios.items() if len(key) == 3):
        logs[kind, base, gpu] = _towards(logs[kind, gpu], own)
    return {key: math.exp(value) for key, value in logs.items()}


def _towards(guess: float, found: list[float]) -> float:
    return (BELIEF * guess + len(found) * median(found)) / (BELIEF + len(found))
