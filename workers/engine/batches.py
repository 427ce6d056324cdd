"""Which examples go through the model together: as little padding and as few passes as memory allows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from workers.engine.prompts import Encoded

PASS_COST = {"cpu": 64, "cuda": 1024}
"""What one more pass through the model costs, in tokens (measured: a 5M-parameter model on one core; a GPU, which
waits for Python)."""

MEMORY_SHARE = 0.7
"""Of the free memory: allocators fragment, and the estimate is one."""

CPU_MEMORY = 2**30
"""Bytes for activations on a CPU, where the machine's memory is everybody's and more rows gain nothing."""


@dataclass(frozen=True)
class Memory:
    """What a pass may use: `budget` bytes, of which a padded token takes `token`, an answer's token `answer` more."""

    budget: float
    token: float
    answer: float


def estimate_memory(config: PretrainedConfig, free: float, itemsize: int, training: bool, recompute: bool) -> Memory:
    """Memory of a pass through a decoder of that config, computing in `itemsize` bytes, with `free` bytes to use.

    A layer keeps about 16 hidden vectors and 6 of the MLP's width a token for its backward pass (counted over
    transformers' Llama and Qwen2 with LoRA on all linear layers); with recomputation only one layer does so
    at a time, and the others keep their input. The head makes its logits in the model's type and twice in
    float32, with as much again for the gradients.
    """
    text: PretrainedConfig = config.get_text_config()
    hidden, width, layers = (
        text.hidden_size,
        getattr(text, "intermediate_size", 4 * text.hidden_size),
        text.num_hidden_layers,
    )
    layer = (16 * hidden + 6 * width) * itemsize
    if not training:
        token, answer = layer, text.vocab_size * (itemsize + 8)
    else:
        token = layers * hidden * itemsize + 2 * layer if recompute else layers * layer
        answer = text.vocab_size * (itemsize + 8) * 2
    return Memory(free * MEMORY_SHARE, token, answer)


def passes(examples: Sequence[Encoded], memory: Memory, pass_cost: int) -> list[list[int]]:
    """The examples' indices in groups that go through the model at once, the shortest first.

    Of all ways to cut the examples, sorted by length, into groups that fit the memory, the one with the
    least padded tokens, a group counting `pass_cost` tokens more. An example that does not fit alone is a
    group of its own.
    """
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i].ids), i))
    best = [0.0] + [float("inf")] * len(order)  # the cost of the first k examples
    cut = [0] * (len(order) + 1)  # where their last group begins
    for stop in range(1, len(order) + 1):
        length = len(examples[order[stop - 1]].ids)
        answers = 0
        for start in range(stop - 1, -1, -1):
            answers += examples[order[start]].answers
            padded = (stop - start) * length
            if start < stop - 1 and padded * memory.token + answers * memory.answer > memory.budget:
                break
            cost = best[start] + padded + pass_cost
            if cost < best[stop]:
                best[stop], cut[stop] = cost, start
    groups: list[list[int]] = []
    stop = len(order)
    while stop:
        groups.append(order[cut[stop] : stop])
        stop = cut[stop]
    return groups[::-1]


def free_memory(device: torch.device) -> float:
    """Bytes that a pass may use on this device."""
    if device.type != "cuda":
        return CPU_MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
