"""How long a plan will take, roughly."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jsm_queue import planner
from jsm_queue.costs.learned import PRIOR, Costs
from jsm_queue.costs.rates import CPU_OTHER, CPU_SPREAD, CPU_TINY, GPU, Machine, SlotClass, machine_of, machine_seconds
from jsm_queue.costs.tasks import UNKNOWN_PARAMETERS, StudyFacts, Task, parameters, study_facts, task
from jsm_queue.kinds import BaseFacts
from jsm_queue.planner import Wanted
from jsm_queue.spec import StudySpec

LARGE_PARAMETERS = 500e6  # from here on a CPU trains for days
CPU_SLOT_BYTES = 3 * 2**30  # torch, a small model and its gradients
MAX_CPU_SLOTS = 4


@dataclass(frozen=True)
class Estimate:
    """Seconds: the middle, and the ends of the range that would not surprise."""

    low: float
    middle: float
    high: float


def cpu(slots: int) -> Machine:
    """A machine without a GPU."""
    name = "1 CPU slot" if slots == 1 else f"{slots} CPU slots"
    return Machine(name, slots, CPU_TINY, CPU_OTHER, CPU_SPREAD)


def cpu_slots(cores: int, memory: int) -> int:
    """How many CPU slots a machine without a GPU has: one a core and 3 GiB, so that jobs run without swapping."""
    return max(1, min(cores, memory // CPU_SLOT_BYTES, MAX_CPU_SLOTS))


def slowest_of(names: Sequence[str]) -> Machine:
    """Slots with those GPUs, all counted as the slowest of them."""
    machines = [machine_of(SlotClass("gpu", name)) for name in names]
    slowest = min(machines, key=lambda machine: (machine.other.flops, machine.name))
    name = slowest.name if len(names) == 1 else f"{len(names)} GPU slots ({slowest.name})"
    return Machine(name, len(names), slowest.tiny, slowest.other, slowest.spread, slowest.name)


def machine_for(spec: StudySpec, facts: Mapping[str, BaseFacts], slots: int, gpus: Sequence[str] = ()) -> Machine:
    """What a study's jobs are thought to run on: the `gpus` that are named; without any one GPU when a base is large or
    unknown, else `slots` CPU slots.
    """
    if gpus:
        return slowest_of(gpus)
    largest = max(parameters(facts.get(base.name)) or UNKNOWN_PARAMETERS for base in planner.used_bases(spec))
    return GPU if largest >= LARGE_PARAMETERS else cpu(slots)


def estimate(
    jobs: Iterable[Wanted], spec: StudySpec, facts: Mapping[str, BaseFacts], machine: Machine, costs: Costs = PRIOR
) -> Estimate:
    """Time of a plan's jobs. Stages follow one another; within one the slots share the work, but a latency job's."""
    unique = {wanted.job.id: wanted for wanted in jobs}
    known = study_facts(spec, facts)
    total = 0.0
    for wanted in unique.values():
        held = machine.slots if wanted.job.kind == "latency" else 1
        total += held * _seconds(wanted_task(wanted, known), machine, costs) / machine.slots
    return Estimate(total * (1 - machine.spread), total, total * (1 + machine.spread))


def seconds(wanted: Wanted, spec: StudySpec, facts: Mapping[str, BaseFacts], machine: Machine) -> float:
    """Time of one job on one slot."""
    return machine_seconds(wanted_task(wanted, study_facts(spec, facts)), machine)


def _seconds(work: Task, machine: Machine, costs: Costs) -> float:
    return machine_seconds(work, machine) * costs.factor(work, machine.hardware)


def wanted_task(wanted: Wanted, study: StudyFacts) -> Task:
    """A planned job's work."""
    cell = wanted.cell
    where = (wanted.stage, cell.base if cell else None, cell.n if cell else None, cell.format if cell else None)
    return task(wanted.job.kind, wanted.job.params, study, *where)
