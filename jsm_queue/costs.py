"""How long a plan will take, roughly, before anything ran. Pure.

FLOPs of a transformer pass: 2 N a token forward, 4 N for a LoRA step with a frozen base (no weight gradients) plus 2 N
where activations are recomputed (Kaplan et al. 2020, arXiv 2001.08361, without the attention term). Generation is bound
by reading the weights, at one byte each (Q8_0), once a token.

A base is *tiny* where it fits into a CPU's caches and has a tokenizer of its own for the data, as the demo's have: an
example then has 27 tokens. Others read Japanese with a tokenizer for everything; SmolLM2's makes 1.85 tokens a
character, 90 an example of the demo's with its chat template.

Where the rates come from:

CPU   measured 2026-11 with the demo study on 2 CPU cores (AMD EPYC), two slots of one thread. Tiny: a base of 3 million
      parameters trains at 3 500 tokens/s a slot. Else: SmolLM2-135M scores an example in 0.43 s and answers in 0.6 s on
      a slot; LoRA in float32 trains it at 60–135 tokens/s on both together. What of the study's minutes is not work is
      a job's overhead: loading, waiting for its turn, idling at a stage's end.
GPU   measured 2026-11 on 8 SMs of an H200, about an RTX 4060 Ti: an 8B base, packed and all recomputed, trains at
      727 tokens/s; examples have 220 tokens. Assumed, not measured: answers come from the CPU, whose memory reads
      40 GB/s, and loading an 8B base takes 15 s.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jsm_queue import planner
from jsm_queue.kinds import BaseFacts
from jsm_queue.planner import Wanted
from jsm_queue.spec import StudySpec

UNKNOWN_PARAMETERS = 8e9  # a base of which nothing is known yet
GGUF_BITS = 5  # a weight, in a GGUF file that does not say how many it has
TINY_PARAMETERS = 20e6  # below, a base is tiny
LARGE_PARAMETERS = 500e6  # from here on a CPU trains for days
BENCH_QUESTIONS = 72  # what the demo's bench has; a guess for others
PARITY_EXAMPLES = 20  # passes over so many tell whether two files are one model
CONVERT_BYTES_S = 500e6  # reading, merging, writing, quantizing
CPU_SLOT_BYTES = 3 * 2**30  # torch, a small model and its gradients
MAX_CPU_SLOTS = 4


@dataclass(frozen=True)
class Rates:
    """What a slot does with a base: FLOP/s of passes, how many forward passes a training example takes besides
    recomputing, bytes/s of reading weights while answering, seconds a job takes besides its work, tokens an example.
    """

    flops: float
    step: int
    reading: float
    overhead_s: float
    tokens: int


@dataclass(frozen=True)
class Machine:
    """Equal slots, and their rates with a tiny base and with another. `spread`: how far off all that may well be, a
    share.
    """

    name: str
    slots: int
    tiny: Rates
    other: Rates
    spread: float

    def rates(self, parameters: float) -> Rates:
        """Those with a base of so many parameters."""
        return self.tiny if parameters < TINY_PARAMETERS else self.other


_GPU = Rates(flops=35e12, step=2, reading=40e9, overhead_s=15.0, tokens=220)
GPU = Machine("one 16 GB GPU", 1, _GPU, _GPU, 0.4)


@dataclass(frozen=True)
class Estimate:
    """Seconds: the middle, and the ends of the range that would not surprise."""

    low: float
    middle: float
    high: float


def cpu(slots: int) -> Machine:
    """A machine without a GPU."""
    name = "1 CPU slot" if slots == 1 else f"{slots} CPU slots"
    tiny = Rates(flops=40e9, step=2, reading=4e9, overhead_s=1.0, tokens=27)
    other = Rates(flops=65e9, step=4, reading=13e9, overhead_s=8.0, tokens=90)
    return Machine(name, slots, tiny, other, 0.25)


def cpu_slots(cores: int, memory: int) -> int:
    """How many CPU slots a machine without a GPU has: one a core and 3 GiB, so that jobs run without swapping."""
    return max(1, min(cores, memory // CPU_SLOT_BYTES, MAX_CPU_SLOTS))


def machine_for(spec: StudySpec, facts: Mapping[str, BaseFacts], slots: int) -> Machine:
    """What a study's jobs are thought to run on: a GPU when a base is large or unknown, else `slots` CPU slots."""
    largest = max(_parameters(facts.get(base.name)) for base in planner.used_bases(spec))
    return GPU if largest >= LARGE_PARAMETERS else cpu(slots)


def estimate(jobs: Iterable[Wanted], spec: StudySpec, facts: Mapping[str, BaseFacts], machine: Machine) -> Estimate:
    """Time of a plan's jobs. Stages follow one another; within one the slots share the work, but a latency job's."""
    unique = {wanted.job.id: wanted for wanted in jobs}
    total = 0.0
    for wanted in unique.values():
        held = machine.slots if wanted.job.kind == "latency" else 1
        total += held * seconds(wanted, spec, facts, machine) / machine.slots
    return Estimate(total * (1 - machine.spread), total, total * (1 + machine.spread))


def seconds(wanted: Wanted, spec: StudySpec, facts: Mapping[str, BaseFacts], machine: Machine) -> float:
    """Time of one job on one slot."""
    parameters = _parameters(facts.get(wanted.cell.base)) if wanted.cell else 0.0
    return machine.rates(parameters).overhead_s + _work(wanted, spec, facts, machine)


def _work(wanted: Wanted, spec: StudySpec, facts: Mapping[str, BaseFacts], machine: Machine) -> float:
    kind, params, cell = wanted.job.kind, wanted.job.params, wanted.cell
    if kind == "latency":
        bases = [_parameters(facts.get(label.partition(" ")[0])) for label in params["cells"]]
        each = sum(_answer(parameters, spec, machine.rates(parameters)) for parameters in bases)
        return each * params["questions"] * params["repeats"]
    if cell is None:
        return 0.0
    parameters = _parameters(facts.get(cell.base))
    rates = machine.rates(parameters)
    forward = 2 * parameters * rates.tokens / rates.flops  # one example
    if kind == "train":
        passes = rates.step + spec.training.quantized  # which recomputes
        return forward * passes * spec.training.epochs * (cell.n or 0)
    if kind == "score":
        return forward * _examples(params["split"], spec)
    if kind == "answer":
        return _answer(parameters, spec, rates) * _examples(params["split"], spec)
    if kind == "convert":
        return 2 * 2 * parameters / CONVERT_BYTES_S  # in and out, two bytes a weight
    return forward * PARITY_EXAMPLES if kind == "parity" else 0.0


def _answer(parameters: float, spec: StudySpec, rates: Rates) -> float:
    """One answer. The longest allowed is rarely used up where it is longer than a whole example."""
    return min(spec.decoding.max_new_tokens, rates.tokens) * parameters / rates.reading


def _examples(split: str, spec: StudySpec) -> int:
    if split == "validation":
        return spec.data.validation
    if split == "bench" and spec.data.bench:
        return BENCH_QUESTIONS
    return spec.data.test_taught + spec.data.test_unseen


def _parameters(facts: BaseFacts | None) -> float:
    if facts is None:
        return UNKNOWN_PARAMETERS
    return facts.parameters or (facts.bytes or 0) * 8 / GGUF_BITS or UNKNOWN_PARAMETERS
