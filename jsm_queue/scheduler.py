"""The scheduler: which ready job goes to which free slot. Pure: values in, offers out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jsm_queue.kinds import KINDS


@dataclass(frozen=True)
class ReadyJob:
    """A ready, wanted job. `priority`: of its study, higher first; `order`: its place among the jobs of that priority.

    `hardware`: the class of machine it must run on, None for any; `exclusive`: it needs a whole worker to itself.
    `gpu`: it goes to GPU slots where its worker has any, though its kind does not say so.
    `excluded`: workers that may not have it now.
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


@dataclass(frozen=True)
class OpenSlot:
    """A slot of a live worker. `free`: its worker reports it so and no run is open on it."""

    worker: str
    idx: int
    kind: str
    free: bool
    hardware: str
    warm_base: str | None = None
    exclusive_run: bool = False


@dataclass(frozen=True)
class Offer:
    """Run `jobs` on that slot: one, or several trainings that share a base and go through the engine together."""

    jobs: tuple[str, ...]
    kind: str
    worker: str
    slot: int


def assign(ready: Sequence[ReadyJob], slots: Sequence[OpenSlot]) -> list[Offer]:
    """At most one offer a job and a slot. Equal input gives equal output, whatever its order."""
    waiting = sorted(ready, key=lambda job: (-job.priority, job.order, job.id))
    usable = [slot for slot in slots if not _held(slot.worker, slots)]
    reserved, offers = _exclusive(waiting, usable)
    free = sorted((s for s in usable if s.free and s.worker not in reserved), key=lambda s: (s.worker, s.idx))
    gpus = {slot.worker for slot in slots if slot.kind == "gpu"}
    for job in (job for job in waiting if not job.exclusive):
        fits = [slot for slot in free if slot.worker not in job.excluded and _suits(job, slot, gpus)]
        if fits:
            slot = min(fits, key=lambda slot: _preference(job, slot))
            free.remove(slot)
            offers.append(Offer((job.id,), job.kind, slot.worker, slot.idx))
    return offers


def _exclusive(waiting: Sequence[ReadyJob], slots: Sequence[OpenSlot]) -> tuple[set[str], list[Offer]]:
    """Each exclusive job reserves a worker of its class: offered when all its slots are free, else kept empty."""
    reserved: set[str] = set()
    offers: list[Offer] = []
    for job in (job for job in waiting if job.exclusive):
        workers = sorted({s.worker for s in slots if s.hardware == job.hardware} - reserved - job.excluded)
        if not workers:
            continue
        worker = max(workers, key=lambda w: sum(s.free for s in slots if s.worker == w))
        reserved.add(worker)
        own = sorted((s for s in slots if s.worker == worker), key=lambda s: (s.kind != "gpu", s.idx))
        if all(slot.free for slot in own):
            offers.append(Offer((job.id,), job.kind, worker, own[0].idx))
    return reserved, offers


def _preference(job: ReadyJob, slot: OpenSlot) -> tuple[bool, bool, str, int]:
    """Least first: a GPU for what it speeds up, then a runner that holds the base."""
    cold = job.base is None or slot.warm_base != job.base
    return _on_gpu(job) != (slot.kind == "gpu"), cold, slot.worker, slot.idx


def _held(worker: str, slots: Sequence[OpenSlot]) -> bool:
    return any(slot.exclusive_run for slot in slots if slot.worker == worker)


def _on_gpu(job: ReadyJob) -> bool:
    return job.gpu or KINDS[job.kind].gpu


def _suits(job: ReadyJob, slot: OpenSlot, gpu_workers: Collection[str]) -> bool:
    """GPU jobs go to GPU slots where their worker has any; the others to CPU slots."""
    if slot.worker not in gpu_workers:
        return True
    return _on_gpu(job) == (slot.kind == "gpu")
