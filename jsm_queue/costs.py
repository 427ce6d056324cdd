"""How long a plan will take, roughly, before anything ran. Pure.

FLOPs of a transformer pass: 2 N a token forward, 4 N for a LoRA step with a frozen base (no weight gradients) plus 2 N
where activations are recomputed (Kaplan et al. 2020, arXiv 2001.08361, without the attention term). Generation is bound
by reading the weights once a token.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from jsm_queue.kinds import BaseFacts
from jsm_queue.planner import Wanted
from jsm_queue.spec import StudySpec

TOKENS_AN_EXAMPLE = {"cpu": 40, "gpu": 220}  # question, answer and template; a guess until the data is read
UNKNOWN_PARAMETERS = 8e9  # a base whose config is not here yet
SPREAD = 0.4  # how far off the estimate may well be, as a share


@dataclass(frozen=True)
class Machine:
    """A slot's rates: FLOP/s of training, bytes/s of reading weights, seconds a job takes besides its work."""

    name: str
    flops: float
    bandwidth: float
    overhead_s: float


CPU = Machine("cpu", 40e9, 4e9, 1.0)  # one core of a desktop processor
GPU = Machine("gpu", 25e12, 250e9, 15.0)  # a 16 GB consumer card, and loading an 8B base


@dataclass(frozen=True)
class Estimate:
    """Seconds: the middle, and the ends of the range that would not surprise."""

    low: float
    middle: float
    high: float


def estimate(
    jobs: Iterable[Wanted], spec: StudySpec, facts: Mapping[str, BaseFacts], machine: Machine, slots: int
) -> Estimate:
    """Time of a plan's jobs on `slots` equal slots. Stages follow one another; within one, slots share the work."""
    unique = {wanted.job.id: wanted for wanted in jobs}
    total = sum(seconds(wanted, spec, facts, machine) for wanted in unique.values()) / slots
    return Estimate(total * (1 - SPREAD), total, total * (1 + SPREAD))


def seconds(wanted: Wanted, spec: StudySpec, facts: Mapping[str, BaseFacts], machine: Machine) -> float:
    """Time of one job on one slot."""
    cell = wanted.cell
    bases = [cell.base] if cell else [base.name for base in spec.bases]
    parameters = fmean(_parameters(facts.get(base)) for base in bases)
    tokens = TOKENS_AN_EXAMPLE[machine.name]
    forward = 2 * parameters * tokens / machine.flops  # one example
    questions = {"bench": 30, "test": spec.data.test_taught + spec.data.test_unseen}
    questions["validation"] = spec.data.validation
    examples = questions.get(str(wanted.job.params.get("split")), 0)
    answer = min(spec.decoding.max_new_tokens, tokens) * 2 * parameters / machine.bandwidth
    step = forward * (3 if spec.training.quantized else 2)
    work = {
        "train": step * spec.training.epochs * ((cell.n or 0) if cell else 0),
        "score": forward * examples,
        "convert": 4 * 2 * parameters / 500e6,  # read, merge, write, quantize
        "answer": answer * examples,
        "parity": forward * 20,
        "latency": answer * 24 * len(wanted.job.params.get("cells", [])),
    }
    return machine.overhead_s + work.get(wanted.job.kind, 0.0)


def _parameters(facts: BaseFacts | None) -> float:
    return (facts.parameters if facts else None) or UNKNOWN_PARAMETERS
