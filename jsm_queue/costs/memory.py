"""How much of a slot's memory a job takes, in bytes.

Weights: NF4 with its scales and the embeddings in two bytes is 0.7 bytes a weight of an 8B base (Unsloth's peak of
6.1–6.6 GiB with small rows, measured 2026-11, is that and one row); else two bytes on a GPU and four on a CPU. A pass
cannot be smaller than its longest example; per token it takes 25 bytes × √N (2.2 MB of an 8B base: logits and the
layer that is recomputed). A GGUF takes its file and a context. All of it is a first guess that attempts correct.
"""

from functools import lru_cache

from jsm_queue.costs.tasks import UNKNOWN_PARAMETERS, Task

GIB = 2**30
LIBRARIES = 0.6 * GIB  # CUDA's context and the libraries' kernels
NF4_BYTES = 0.7  # a weight
TOKEN_BYTES = 25.0  # × √parameters, a token of a training pass; without gradients half of it
CONTEXT = 0.5 * GIB  # of a GGUF that answers
JUDGE_BITS = 5.0  # a weight, of a judge's GGUF
ADAPTER_BYTES = 1.9 * GIB
"""Of each further training of a fused run: 15.7 GiB with five, 8.0 with one (8B, measured 2026-11)."""


@lru_cache(maxsize=1 << 17)
def memory(work: Task, kind: str) -> float:
    """Bytes that a job takes of a slot of that kind; 0.0 where nothing is known of its model."""
    if work.kind == "judge":
        return _gguf(UNKNOWN_PARAMETERS, JUDGE_BITS) if work.judge == "gguf" and kind == "gpu" else 0.0
    if work.kind == "latency" or not work.known:
        return 0.0
    if work.kind == "answer":
        return _gguf(work.parameters, work.bits)
    if work.kind == "convert":
        return 0.0  # tensor by tensor
    weights = work.parameters * (NF4_BYTES if work.quantized else 2.0 if kind == "gpu" else 4.0)
    pass_bytes = work.max_length * TOKEN_BYTES * work.parameters**0.5
    return LIBRARIES + weights + (pass_bytes if work.kind == "train" else pass_bytes / 2)


def further_memory(work: Task) -> float:
    """Bytes that each further training of a fused run takes."""
    return ADAPTER_BYTES * ((work.parameters or UNKNOWN_PARAMETERS) / UNKNOWN_PARAMETERS) ** 0.5


def _gguf(parameters: float, bits: float) -> float:
    return LIBRARIES + CONTEXT + parameters * bits / 8
