"""`make bench-scheduler`: pools in virtual time, with the real planner's jobs and the real `assign`.

Scenarios: pools of 2–1 000 slots (`benchmarks/scenes.py`: six cards of 8–24 GB and 0.55–2.2 times an RTX 4060 Ti's
speed, a CPU slot beside each, a tenth of the workers without a GPU) with a study of 80–20 000 jobs in the
planner's own shape: prepare → train → score | convert → answer → judge, latency and a verdict at each stage's end. Half
of them have workers that leave once in eight hours for ten minutes to an hour and a half; every attempt crashes with
probability 0.004. How long a kind really takes on a card is 0.7–1.4 times what the cost model says, and an answer on a
GPU much less; each job's own time varies by 10 %. A third of the pools are new and know nothing of that, the others did
a study before: they begin with four samples of each kind and card. All learn from what is accepted.

- makespan over bound: over `benchmarks/bounds.py`'s lower bound, the median over the scenarios; and the largest. Where
  a stage has hardly more long jobs than slots the bound is out of reach, as it splits jobs; and a latency job of hours
  begins again when its worker leaves. Several studies: three pools that several share; they get equal shares, not the
  shortest time for all.
- makespan of plain FIFO: two shared queues in the order in which jobs became ready, one of GPU and one of CPU slots,
  nobody knows what fits: what does not fails after a minute and goes to the end. Its times are those of the reference.
- assign p99: one call at 1 000 slots and 20 000 ready jobs, in calls with all slots free, with fifty and with a few.
- assign with reading and binding: a whole look of the coordinator at such a store (`benchmarks/looks.py`).
"""

import copy
import gc
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks import bounds, looks, scenes
from benchmarks.form import Row, report
from benchmarks.scenes import Job, Size
from benchmarks.simulation import Fifo, Simulation
from jsm_queue import costs, scheduler
from jsm_queue.scheduler import OpenSlot, ReadyJob

BOUND = 1.10
ASSIGN_MS = 100.0
HOURS_BETWEEN = 8.0
CALLS = 300
LOOK_S = 1.0  # between two looks of the coordinator, which is woken by every report; what a look takes is in it
PROCESSES = 2

STUDIES = {
    80: Size(3, 2, 3, 1, 3),
    240: Size(5, 3, 6, 2, 4),
    750: Size(8, 5, 10, 4, 5),
    2000: Size(20, 10, 14, 4, 5, "gguf"),
    5000: Size(30, 10, 30, 10, 7),
    20000: Size(50, 20, 50, 17, 7),
}
"""About so many jobs → the size of the study."""


@dataclass(frozen=True)
class Scenario:
    """`slots` in the pool, about so many `jobs` in each of the `studies`; `churn`: workers come and go; `new`: the pool
    never did anything.
    """

    slots: int
    jobs: int
    churn: bool = False
    studies: int = 1
    new: bool = False

    @property
    def name(self) -> str:
        """For people."""
        several = f"{self.studies} × " if self.studies > 1 else ""
        additions = [*["workers leave"] * self.churn, *["new"] * self.new]
        return ", ".join([f"{self.slots} slots", f"{several}{self.jobs} jobs", *additions])


POOLS = (2, 8, 30, 100, 300, 1000)
MOST = 125  # jobs a slot: with more the ratio only falls, and the benchmark takes long
ALONE = [(slots, jobs) for slots in POOLS for jobs in STUDIES if jobs <= MOST * slots]
SCENARIOS = [Scenario(*each, churn=place % 2 == 1, new=place % 3 == 2) for place, each in enumerate(ALONE)]
"""Every pool with every study that is not too large for it: nothing is left out because of how it goes."""
SHARED = [Scenario(8, 80, studies=3), Scenario(100, 750, churn=True, studies=5), Scenario(300, 750, studies=8)]
"""Studies of one priority that share a pool. They take turns, so their stages end at about the same time."""
EVERY = [*SCENARIOS, *SHARED]


@dataclass(frozen=True)
class Outcome:
    """Seconds of a scenario: no scheduler can be faster than `bound`."""

    bound: float
    makespan: float
    fifo: float


def main() -> int:
    """Returns the exit status."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as workers:
        longest_first = sorted(EVERY, key=_work, reverse=True)
        outcomes = dict(zip(longest_first, workers.map(run, longest_first, chunksize=1), strict=True))
    large = looks.rows(STUDIES[20000])
    return report("scheduler", [assign_row(), *large, *_rows({each: outcomes[each] for each in EVERY})])


def _work(scenario: Scenario) -> int:
    return scenario.slots * scenario.jobs * scenario.studies


def _rows(found: dict[Scenario, Outcome]) -> list[Row]:
    alone = [each for scenario, each in found.items() if scenario.studies == 1]
    shared = [each for scenario, each in found.items() if scenario.studies > 1]
    rows = [
        Row("makespan over bound", statistics.median(map(_ratio, alone)), "ratio, median", BOUND),
        Row("makespan over bound, the worst", max(map(_ratio, alone)), "ratio"),
        Row("makespan over bound, several studies", statistics.median(map(_ratio, shared)), "ratio, median"),
        Row(
            "makespan of plain FIFO",
            statistics.median(each.fifo / each.makespan for each in alone),
            "times ours, median",
        ),
    ]
    for scenario, each in found.items():
        hours, bound = each.makespan / 3600, each.bound / 3600
        rows.append(Row(f"makespan, {scenario.name}", hours, "h", None, "lower bound", bound))
        rows.append(Row(f"makespan, {scenario.name}, against FIFO", hours, "h", None, "plain FIFO", each.fifo / 3600))
    return rows


def _ratio(outcome: Outcome) -> float:
    return outcome.makespan / outcome.bound


def run(scenario: Scenario) -> Outcome:
    """One scenario, its lower bound, and the same under FIFO."""
    seed = EVERY.index(scenario) + 1
    slots = scenes.pool(scenario.slots, seed)
    away = scenes.trace(slots, seed, HOURS_BETWEEN if scenario.churn else 0.0)
    studies = _studies(scenario, slots, seed)
    least = bounds.bound(slots, studies, away, scenes.biases(seed))
    before = [] if scenario.new else scenes.history(seed)
    found = [
        Simulation(slots, copy.deepcopy(studies), away, seed, choose, before).run(LOOK_S)
        for choose in (scheduler.assign, Fifo())
    ]
    print(
        f"{scenario.name}: {found[0] / least:.3f} of the bound, FIFO {found[1] / found[0]:.2f} times", file=sys.stderr
    )
    return Outcome(least, *found)


def _studies(scenario: Scenario, slots: Sequence[OpenSlot], seed: int) -> list[list[Job]]:
    hardware = scenes.latency_class(slots)
    names = [f"study-{i}" for i in range(scenario.studies)]
    return [scenes.jobs_of(STUDIES[scenario.jobs], name, hardware, seed) for name in names]


def assign_row() -> Row:
    """Milliseconds of a call at 1 000 slots and 20 000 ready jobs, all jobs of a large study as if they were ready.

    Each call has learnt something new. As in the api, the collector looks through what came after the start alone.
    """
    gc.collect()
    gc.freeze()
    slots = scenes.pool(1000, 1)
    ready, samples = _all_ready(slots), scenes.history(1)
    rng = random.Random(1)
    taken = []
    for call in range(CALLS):
        here, learned = _partly_free(slots, (len(slots), 50, 3)[call % 3], rng), costs.learn(samples)
        begun = time.perf_counter()
        scheduler.assign(ready, here, learned)
        taken.append(1000 * (time.perf_counter() - begun))
    return Row(
        "assign p99 at 1 000 slots and 20 000 ready jobs", statistics.quantiles(taken, n=100)[98], "ms", ASSIGN_MS
    )


def _all_ready(slots: Sequence[OpenSlot]) -> list[ReadyJob]:
    jobs = scenes.jobs_of(STUDIES[20000], "large", scenes.latency_class(slots), 1)
    ready = [job.ready for job in jobs if not job.ready.exclusive]
    return ready + [replace(job, id=f"more {job.id}") for job in ready[: 20_000 - len(ready)]]


def _partly_free(slots: Sequence[OpenSlot], free: int, rng: random.Random) -> list[OpenSlot]:
    chosen = set(rng.sample(range(len(slots)), free))
    return [
        slot if i in chosen else replace(slot, free=False, busy_s=rng.uniform(1, 3600), study="large")
        for i, slot in enumerate(slots)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
