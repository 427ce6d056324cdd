"""What a slot does in a second, before anything ran there.

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
      40 GB/s, and loading an 8B base takes 15 s. Other cards: by SPEEDS, which are what their makers print.
Judges assumed, not measured: a language model reads 700 tokens of rubric, question and answer, and writes 120.
"""

from dataclasses import dataclass
from functools import lru_cache

from jsm_queue.costs.tasks import UNKNOWN_PARAMETERS, Task

TINY_PARAMETERS = 20e6  # below, a base is tiny
CONVERT_BYTES_S = 500e6  # reading, merging, writing, quantizing
JUDGE_READS, JUDGE_WRITES = 700, 120  # tokens a question
REMOTE_JUDGE_S = 3.0  # a question, of a judge behind a URL
KEY_FACTS_S = 0.002  # a question
PREPARE_S = 5.0
TRANSFER_BYTES_S = 80e6  # of a file from the api to a worker, in a home's network


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
    share. `hardware`: what samples know such a slot by.
    """

    name: str
    slots: int
    tiny: Rates
    other: Rates
    spread: float
    hardware: str = ""

    def rates(self, parameters: float) -> Rates:
        """Those with a base of so many parameters."""
        return self.tiny if parameters < TINY_PARAMETERS else self.other


@dataclass(frozen=True)
class SlotClass:
    """Slots that take the same time for a job. `kind`: "gpu" or "cpu"; `name`: of the GPU, or "CPU" and its own."""

    kind: str
    name: str = ""


_GPU = Rates(flops=35e12, step=2, reading=40e9, overhead_s=15.0, tokens=220)
GPU = Machine("one 16 GB GPU", 1, _GPU, _GPU, 0.4)
CPU_TINY = Rates(flops=40e9, step=2, reading=4e9, overhead_s=1.0, tokens=27)
CPU_OTHER = Rates(flops=65e9, step=4, reading=13e9, overhead_s=8.0, tokens=90)
CPU_SPREAD = 0.25

SPEEDS = {
    "3060": 0.55, "3070": 0.8, "3080": 1.2, "3090": 1.4, "4060 Ti": 1.0, "4060": 0.7, "4070 Ti": 1.8, "4070": 1.3,
    "4080": 2.2, "4090": 3.7, "5060 Ti": 1.1, "5070 Ti": 2.0, "5070": 1.4, "5080": 2.5, "5090": 4.7, "A100": 7.0,
    "H100": 15.0, "H200": 15.0,
}  # fmt: skip
"""Part of a GPU's name → bf16 matrix products a second over an RTX 4060 Ti's. A first guess that samples correct."""


def is_cpu(name: str) -> bool:
    """Is it the name of a class of CPU slots?"""
    return name.startswith("CPU")


@lru_cache(maxsize=4096)
def machine_of(slot: SlotClass) -> Machine:
    """One slot of that class. A GPU of an unknown name counts as an RTX 4060 Ti."""
    if slot.kind != "gpu":
        return Machine(slot.name or "1 CPU slot", 1, CPU_TINY, CPU_OTHER, CPU_SPREAD, slot.name)
    speed = next((speed for part, speed in SPEEDS.items() if part in slot.name), 1.0)
    rates = Rates(_GPU.flops * speed, _GPU.step, _GPU.reading, _GPU.overhead_s, _GPU.tokens)
    return Machine(slot.name or GPU.name, 1, rates, rates, GPU.spread, slot.name)


@lru_cache(maxsize=1 << 17)
def prior_seconds(work: Task, slot: SlotClass) -> float:
    """Time of one job on a slot of that class, nothing being known but what stands above."""
    return machine_seconds(work, machine_of(slot))


def machine_seconds(work: Task, machine: Machine) -> float:
    """The same on a slot of a machine."""
    return machine.rates(work.parameters).overhead_s + _work(work, machine)


def _work(work: Task, machine: Machine) -> float:
    if work.kind == "latency":
        return work.examples * sum(_answer(each, work, machine.rates(each)) for each in work.models)
    if work.kind == "prepare":
        return PREPARE_S
    if work.kind == "judge":
        return work.examples * _judgement(work, machine)
    if not work.base:
        return 0.0
    rates = machine.rates(work.parameters)
    forward = 2 * work.parameters * rates.tokens / rates.flops  # one example
    if work.kind == "train":
        return forward * (rates.step + work.quantized) * work.examples  # quantized: which recomputes
    if work.kind == "answer":
        return _answer(work.parameters, work, rates) * work.examples
    if work.kind == "convert":
        return 2 * 2 * work.parameters / CONVERT_BYTES_S  # in and out, two bytes a weight
    return forward * work.examples


def _answer(parameters: float, work: Task, rates: Rates) -> float:
    """One answer. The longest allowed is rarely used up where it is longer than a whole example."""
    return min(work.new_tokens, rates.tokens) * parameters / rates.reading


def _judgement(work: Task, machine: Machine) -> float:
    if work.judge == "key_facts":
        return KEY_FACTS_S
    if work.judge == "openai":
        return REMOTE_JUDGE_S / work.at_once
    rates = machine.other
    return UNKNOWN_PARAMETERS * (2 * JUDGE_READS / rates.flops + JUDGE_WRITES / rates.reading)
