"""A pool in virtual time: the real planner's jobs, the real `assign`, slots of mixed GPUs that come and go.

What is made up is `benchmarks/scenes.py`, and stated in `benchmarks/scheduler.py`.
"""

import heapq
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.scenes import FREE, Job, Trace, actual, biases
from jsm_queue import costs
from jsm_queue.assigning import STAGES, remaining
from jsm_queue.costs import Costs, Sample, SlotClass
from jsm_queue.scheduler import Offer, OpenSlot, ReadyJob
from jsm_queue.scheduler.pool import on_gpu
from jsm_queue.store.costs import KEPT

LEASE_S = 60.0
OOM_S = 60.0  # until a job that does not fit has failed
CRASHES = 0.004  # of the attempts, somewhere on their way
RESUMED = ("train", "score", "answer", "judge")  # kinds that go on from a checkpoint
CHECKPOINT_S = 300.0
LEARNED_AT = 25  # results between two looks at the samples


@dataclass
class Slot:
    """`run`: the jobs' places; `whole`: how long it really takes. `epoch` tells a run's events from a later one's."""

    slot: OpenSlot
    speed: SlotClass
    here: bool = True
    run: tuple[int, ...] = ()
    began: float = 0.0
    whole: float = 0.0
    epoch: int = 0


Choose = Callable[[list[ReadyJob], list[OpenSlot], Costs], list[Offer]]


class Simulation:
    """One run of a scenario. `choose`: who gets what; `before`: what the pool knows from earlier studies."""

    def __init__(
        self,
        slots: Sequence[OpenSlot],
        studies: Sequence[list[Job]],
        trace: Trace,
        seed: int,
        choose: Choose,
        before: Sequence[Sample] = (),
    ):
        self.jobs: list[Job] = []
        for jobs in studies:
            offset = len(self.jobs)
            for job in jobs:
                self.jobs.append(replace(job, next=[offset + place for place in job.next]))
        self.slots = [Slot(slot, slot.speed or SlotClass(slot.kind)) for slot in slots]
        self.places = {(slot.worker, slot.idx): i for i, slot in enumerate(slots)}
        self.by_id = {job.ready.id: i for i, job in enumerate(self.jobs)}
        self.choose = choose
        self.rng = random.Random(f"crashes {seed}")
        self.bias = biases(seed)
        self.now, self.ticks, self.done = 0.0, 0, 0
        self.stages: dict[tuple[str, int], int] = defaultdict(int)
        for job in self.jobs:
            self.stages[job.ready.study, STAGES.index(job.stage)] += 1
        self.ready: dict[int, ReadyJob] = {}
        self.held: dict[str, list[int]] = defaultdict(list)
        self.samples: dict[tuple[str, str | None, str], deque[Sample]] = defaultdict(lambda: deque(maxlen=KEPT))
        for sample in before:
            self.samples[sample.kind, sample.base, sample.gpu].append(sample)
        self.learned, self.heard = costs.learn(before), 0
        self.events: list[tuple[float, int, str, int, int]] = []
        self._count = 0
        for worker, times in trace.away.items():
            own = [i for i, slot in enumerate(slots) if slot.worker == worker]
            for gone, back in times:
                for i in own:
                    self._push(gone, "leave", i)
                    self._push(back, "join", i)
        for place, job in enumerate(self.jobs):
            if not job.needs:
                self._release(place)

    def run(self, window: float) -> float:
        """Seconds until all jobs are done. The coordinator looks at once, and not again within `window` seconds."""
        self._assign()
        while self.done < len(self.jobs):
            self.now = max(self.events[0][0], self.now + window)
            while self.events and self.events[0][0] <= self.now:
                at, _, what, i, epoch = heapq.heappop(self.events)
                getattr(self, f"_{what}")(i, epoch, at)
            self._assign()
        return self.now

    def _push(self, at: float, what: str, slot: int, epoch: int = 0) -> None:
        self._count += 1
        heapq.heappush(self.events, (at, self._count, what, slot, epoch))

    # ---- jobs ----

    def _release(self, place: int) -> None:
        """Its needs are done; it is ready once its stage is."""
        job = self.jobs[place]
        if any(self.stages[job.ready.study, stage] for stage in range(job.barrier)):
            self.held[job.ready.study].append(place)
        else:
            self.ready[place] = replace(job.ready, since=self.now)

    def _complete(self, place: int) -> None:
        job = self.jobs[place]
        self.done += 1
        study, stage = job.ready.study, STAGES.index(job.stage)
        self.stages[study, stage] -= 1
        for following in job.next:
            self.jobs[following].needs -= 1
            if not self.jobs[following].needs:
                self._release(following)
        if not self.stages[study, stage]:
            held, self.held[study] = self.held[study], []
            for place in held:
                self._release(place)

    # ---- slots ----

    def actual(self, job: Job, speed: SlotClass) -> float:
        """How long the whole job takes there."""
        return actual(job, speed, self.bias)

    def _assign(self) -> None:
        self.ticks += 1
        here = [self._open(slot) for slot in self.slots if slot.here]
        if not self.ready or not any(slot.free for slot in here):
            return
        for offer in self.choose(list(self.ready.values()), here, self.learned):
            self._start(self.places[offer.worker, offer.slot], tuple(self.by_id[job] for job in offer.jobs))

    def _open(self, slot: Slot) -> OpenSlot:
        if not slot.run:
            return slot.slot
        job = self.jobs[slot.run[0]]
        elapsed = self.now - slot.began
        known = self.learned.seconds(job.task, slot.speed) * job.left
        far = min(1.0, elapsed / slot.whole) if slot.whole else 0.0
        busy = remaining(known, elapsed, 0, int(100 * far), 100)
        latency = job.ready.exclusive
        return replace(slot.slot, free=False, busy_s=busy, study=job.ready.study, exclusive_run=latency)

    def _start(self, i: int, places: tuple[int, ...]) -> None:
        slot, job = self.slots[i], self.jobs[places[0]]
        for place in places:
            del self.ready[place]
        needed = costs.memory(job.task, slot.slot.kind)
        whole = self.actual(job, slot.speed) * job.left
        slot.run, slot.began, slot.whole = places, self.now, whole
        slot.slot = replace(slot.slot, warm_base=job.ready.base or slot.slot.warm_base)
        if slot.slot.kind == "gpu" and needed > slot.slot.memory_total * FREE + 1:
            self._push(self.now + OOM_S, "fail", i, slot.epoch)
        elif self.rng.random() < CRASHES:
            self._push(self.now + whole * self.rng.random(), "fail", i, slot.epoch)
        else:
            self._push(self.now + whole, "finish", i, slot.epoch)

    def _finish(self, i: int, epoch: int, at: float) -> None:
        slot = self.slots[i]
        if epoch != slot.epoch:
            return
        (place,) = slot.run
        job = self.jobs[place]
        if job.left == 1.0:
            key = (job.task.kind, job.task.base, slot.speed.name)
            prior = costs.prior_seconds(job.task, slot.speed)
            self.samples[key].append(Sample(*key, prior, at - slot.began))
            self.heard += 1
            if self.heard % LEARNED_AT == 0:
                self.learned = costs.learn(sample for kept in self.samples.values() for sample in kept)
        self._free(slot)
        self._complete(place)

    def _fail(self, i: int, epoch: int, at: float) -> None:
        slot = self.slots[i]
        if epoch == slot.epoch:
            self._again(slot, at)
            self._free(slot)

    def _leave(self, i: int, _: int, at: float) -> None:
        slot = self.slots[i]
        slot.here = False
        if slot.run:
            self._again(slot, at, LEASE_S)
        self._free(slot)
        slot.slot = replace(slot.slot, warm_base=None)

    def _join(self, i: int, _: int, at: float) -> None:
        self.slots[i].here = True

    def _free(self, slot: Slot) -> None:
        slot.run, slot.epoch = (), slot.epoch + 1

    def _again(self, slot: Slot, at: float, after: float = 0.0) -> None:
        """Its job goes on from its checkpoint, or begins again."""
        for place in slot.run:
            job = self.jobs[place]
            if job.task.kind in RESUMED and slot.whole:
                kept = max(0.0, (at - slot.began) // CHECKPOINT_S * CHECKPOINT_S / slot.whole)
                job.left *= max(0.0, 1 - min(1.0, kept))
            if after:
                self._push(at + after, "lost", place)
            else:
                self.ready[place] = replace(job.ready, since=at)

    def _lost(self, place: int, _: int, at: float) -> None:
        """Its lease is over."""
        self.ready[place] = replace(self.jobs[place].ready, since=at)


class Fifo:
    """Two shared queues, one for GPU slots and one for CPU slots, each in the order in which jobs became ready. Nobody
    knows what fits: a job that does not goes to the end of its queue. Latency needs no whole worker.
    """

    def __init__(self) -> None:
        self._queues: dict[bool, deque[ReadyJob]] = {True: deque(), False: deque()}
        self._queued: set[str] = set()

    def __call__(self, ready: list[ReadyJob], slots: list[OpenSlot], _: Costs) -> list[Offer]:
        new = [job for job in ready if job.id not in self._queued]
        for job in sorted(new, key=lambda job: (job.since, job.order, job.id)):
            self._queues[on_gpu(job)].append(job)
            self._queued.add(job.id)
        return list(self._offers(slots))

    def _offers(self, slots: list[OpenSlot]) -> Iterator[Offer]:
        for slot in slots:
            queue = self._queues[slot.kind == "gpu"]
            if slot.free and queue:
                job = queue.popleft()
                self._queued.remove(job.id)
                yield Offer((job.id,), job.kind, slot.worker, slot.idx)
