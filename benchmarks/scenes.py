"""What the scheduler's benchmark plays: mixed cards, studies, who leaves when, how long jobs really take."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from jsm_queue import costs, planner
from jsm_queue.assigning import KIND_ORDER, STAGES
from jsm_queue.canonical import content_hash
from jsm_queue.costs import Sample, SlotClass, Task
from jsm_queue.kinds import BaseFacts, BaseRef, FileRef, Inputs, JudgeInputs, on_gpu
from jsm_queue.scheduler import OpenSlot, ReadyJob
from jsm_queue.spec import StudySpec, parse_spec

GPUS = {
    "RTX 4060 8 GB": (8, 272e9),
    "RTX 3060": (12, 360e9),
    "RTX 4060 Ti": (16, 288e9),
    "RTX 4070": (12, 504e9),
    "RTX 3090": (24, 936e9),
    "RTX 4080": (16, 717e9),
}
"""Name → GB, and bytes/s of its memory. Matrix products: 0.55 to 2.2 of an RTX 4060 Ti's, as the cost model has it."""
READING = 0.6  # of a memory's bytes/s come true when a GGUF answers on its GPU, of which the cost model knows nothing
FREE = 0.93  # of a GPU's memory: the rest is its owner's desktop
CPU_ONLY = 0.12  # of the workers
CPU_MEMORY = 32e9
PARAMETERS = (1.5e9, 3e9, 8e9, 8e9, 10e9)  # the largest in F16 fits a card of 24 GB, which every pool has
FORMATS = ["F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q6_K", "Q2_K"]
NOISE = 0.10  # of a job's time, the standard deviation of its logarithm
BIAS = (0.7, 1.4)  # of all times of a kind on a GPU: what the samples teach
GENERATING = ("answer", "latency", "judge")
AWAY_S = (600.0, 5400.0)


@dataclass(frozen=True)
class Size:
    """How large a study is, as `benchmarks/filling.py` has it; `judge`: its kind."""

    sizes: int
    seeds: int
    bases: int
    keep: int
    formats: int
    judge: str = "key_facts"


@dataclass
class Job:
    """`barrier`: the stages that must be over first; `needs`, `next`: jobs by their place in the study."""

    ready: ReadyJob
    task: Task
    stage: str
    barrier: int
    needs: int
    next: list[int] = field(default_factory=list)
    left: float = 1.0
    """Share of its work that is still to do."""
    noise: float = 1.0


@dataclass(frozen=True)
class Trace:
    """When each worker is away: (from, to) in seconds."""

    away: Mapping[str, Sequence[tuple[float, float]]]


def pool(count: int, seed: int) -> list[OpenSlot]:
    """About `count` slots: workers with a GPU and a CPU slot, and some with two CPU slots alone."""
    rng = random.Random(f"pool {seed}")
    slots: list[OpenSlot] = []
    names = sorted(GPUS, key=lambda name: (-GPUS[name][0], name))
    number = 0
    while len(slots) < count:
        worker = f"w{number:04}"
        if number and rng.random() < CPU_ONLY and count > 4:
            slots += [_slot(worker, i, "cpu", "CPU") for i in range(2)]
        else:
            name = names[0] if not number else rng.choice(names)
            slots += [_slot(worker, 0, "gpu", name), _slot(worker, 1, "cpu", "CPU")]
        number += 1
    return slots


def _slot(worker: str, idx: int, kind: str, name: str) -> OpenSlot:
    total = int(GPUS[name][0] * 1e9) if kind == "gpu" else int(CPU_MEMORY)
    free = int(total * FREE)
    speed = SlotClass(kind, name)
    return OpenSlot(worker, idx, kind, True, name, speed=speed, memory_free=free, memory_total=total)


def trace(slots: Sequence[OpenSlot], seed: int, hours_between: float) -> Trace:
    """Each worker leaves once in so many hours, at random, for ten minutes to an hour and a half; 0: nobody leaves."""
    away: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for worker in sorted({slot.worker for slot in slots}) if hours_between else ():
        rng, at = random.Random(f"trace {seed} {worker}"), 0.0
        while at < 400 * 3600:
            at += rng.expovariate(1 / (hours_between * 3600))
            back = at + rng.uniform(*AWAY_S)
            away[worker].append((at, back))
            at = back
    return Trace(away)


def spec_of(size: Size, name: str) -> tuple[StudySpec, Inputs]:
    """A study of that size."""
    rng = random.Random(f"study {name}")
    names = [f"base-{i:02}" for i in range(size.bases)]
    parameters = [8e9] + [rng.choice(PARAMETERS) for _ in names[1:]]
    judge = {"kind": "gguf", "source": "judge.gguf"} if size.judge == "gguf" else {"kind": "key_facts"}
    spec = parse_spec(
        {
            "name": name,
            "data": {"source": "data.yaml"},
            "judge": judge,
            "bases": [{"name": base, "source": f"bases/{base}"} for base in names],
            "stages": {
                "scale": {
                    "base": names[0],
                    "sizes": [1000 + round(4000 * i / max(1, size.sizes - 1)) for i in range(size.sizes)],
                    "seeds": list(range(size.seeds)),
                },
                "bases": {"seeds": list(range(size.seeds))},
                "quantization": {"keep": size.keep, "formats": FORMATS[: size.formats]},
            },
        }
    )
    file = FileRef(sha=content_hash("judge"), suffix=".gguf")
    return spec, Inputs(
        source=FileRef(sha=content_hash(name), suffix=".yaml"),
        judge=JudgeInputs(rubric="R", file=file) if size.judge == "gguf" else None,
        bases={base: BaseRef(form="folder", files={"model.safetensors": content_hash([name, base])}) for base in names},
        facts={base: BaseFacts(parameters=int(each)) for base, each in zip(names, parameters, strict=True)},
    )


def jobs_of(size: Size, name: str, hardware: str, seed: int) -> list[Job]:
    """All jobs of a study with what they need; verdicts are known beforehand, and stages wait for each other."""
    spec, inputs = spec_of(size, name)
    listed: dict[str, planner.Wanted] = {}
    for wanted in planner.preview(spec, inputs):
        listed.setdefault(wanted.job.id, wanted)
    facts = costs.study_facts(spec, inputs.facts)
    places = {job: place for place, job in enumerate(listed)}
    tasks: dict[Task, Task] = {}
    rng = random.Random(f"noise {seed} {name}")
    jobs = []
    for place, wanted in enumerate(listed.values()):
        work = costs.wanted_task(wanted, facts)
        work = tasks.setdefault(work, work)
        ready = _ready(place, wanted, work, name, hardware, inputs)
        jobs.append(Job(ready, work, wanted.stage, _barrier(wanted), 0, noise=rng.lognormvariate(0.0, NOISE)))
    for place, wanted in enumerate(listed.values()):
        for need in set(wanted.job.needs.values()):
            jobs[places[need]].next.append(place)
            jobs[place].needs += 1
    return jobs


def _barrier(wanted: planner.Wanted) -> int:
    """Untrained bases wait for no verdict, nor does what an earlier stage made."""
    untrained = wanted.stage == "bases" and wanted.cell is not None and wanted.cell.n is None
    return 0 if untrained else STAGES.index(wanted.stage)


def _ready(place: int, wanted: planner.Wanted, work: Task, name: str, hardware: str, inputs: Inputs) -> ReadyJob:
    cell, kind = wanted.cell, wanted.job.kind
    base = inputs.bases[cell.base].key if cell and "base" in wanted.job.params else None
    return ReadyJob(
        id=f"{name} {place:06}",
        kind=kind,
        priority=0,
        order=(
            0.0,
            STAGES.index(wanted.stage),
            KIND_ORDER.index(kind),
            -((cell and cell.n) or 0),
            (cell and cell.seed) or 0,
        ),
        base=base,
        hardware=hardware if kind == "latency" else None,
        exclusive=kind == "latency",
        gpu=on_gpu(kind, wanted.job.params),
        study=name,
        task=work,
    )


def actual(job: Job, speed: SlotClass, bias: Mapping[tuple[str, str], float]) -> float:
    """How long a job really takes on such a slot."""
    seconds = costs.prior_seconds(job.task, speed)
    if speed.kind == "gpu" and job.task.kind in GENERATING:
        slow = costs.machine_of(speed).other
        seconds = slow.overhead_s + (seconds - slow.overhead_s) * slow.reading / (READING * GPUS[speed.name][1])
    return seconds * bias[job.task.kind, speed.name] * job.noise


def biases(seed: int) -> dict[tuple[str, str], float]:
    """How far the model is off, a kind and a GPU."""
    rng = random.Random(f"bias {seed}")
    return {(kind, name): rng.uniform(*BIAS) for kind in KIND_ORDER for name in [*sorted(GPUS), "CPU"]}


def history(seed: int) -> list[Sample]:
    """Four attempts of each kind on each class of slots, of another study's base."""
    rng, factors = random.Random(f"history {seed}"), biases(seed)
    work = Task("answer", "earlier", 8e9, known=True, examples=72, new_tokens=256)
    found = []
    for (kind, name), _ in factors.items():
        speed = SlotClass("cpu" if name == "CPU" else "gpu", name)
        for _ in range(4):
            job = Job(
                ReadyJob("", kind, 0, ()), replace(work, kind=kind), "", 0, 0, noise=rng.lognormvariate(0.0, NOISE)
            )
            prior = costs.prior_seconds(job.task, speed)
            found.append(Sample(kind, "earlier", name, prior, actual(job, speed, factors)))
    return found


def latency_class(slots: Sequence[OpenSlot]) -> str:
    """The class that most workers are of, as the coordinator fixes it."""
    classes: dict[str, int] = defaultdict(int)
    for slot in slots:
        classes[slot.hardware] += slot.kind == "gpu"
    return max(sorted(classes), key=lambda name: classes[name])
