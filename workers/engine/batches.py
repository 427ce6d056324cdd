"""Which examples go through the model together: as many as memory allows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from workers.engine.packing import packs
from workers.engine.prompts import Encoded

MEMORY_SHARE = 0.7
"""Of the free memory: allocators fragment, and the estimate is one."""

CPU_MEMORY = 2**30
"""Bytes for activations on a CPU, where the machine's memory is everybody's and more rows gain nothing."""


@dataclass(frozen=True)
class Memory:
    """What a pass may use: `budget` bytes. Each token takes `token`, each answer's token `answer` more, and each place
    of attention, which pads examples to the longest, `place` more. `examples`: no more than so many in a pass.
    """

    budget: float
    token: float
    answer: float
    place: float
    examples: int


def estimate_memory(
    model: PreTrainedModel, device: torch.device, training: bool, recompute: bool, ooms: int = 0
) -> Memory:
    """Memory of a pass through a decoder, with what the device has free: half as much each time that it ran out.

    A layer keeps about 12 hidden vectors and 6 of the MLP's width a token for its backward pass, and 4 hidden
    vectors a place of attention (counted over transformers' Llama and Qwen2 with LoRA on all linear layers); with
    recomputation only one layer does so at a time, twice, and the others keep their input. The head makes logits in
    the model's type and in float32, and the same of their gradients.
    """
    config = model.config.get_text_config()
    size, layers = model.dtype.itemsize, config.num_hidden_layers
    width = getattr(config, "intermediate_size", 4 * config.hidden_size)
    kept = layers if training and not recompute else 2 if training else 1
    inputs = layers * config.hidden_size * size if training and recompute else 0
    return Memory(
        budget=_free_memory(device) * MEMORY_SHARE * 0.5**ooms,
        token=kept * (12 * config.hidden_size + 6 * width) * size + inputs,
        answer=config.vocab_size * (size + 8) * (2 if training else 1),
        place=kept * 4 * config.hidden_size * max(size, 4 if device.type == "cpu" else 2),
        examples=2**31 if packs(model) else 1,
    )


def passes(examples: Sequence[Encoded], memory: Memory) -> list[list[int]]:
    """The examples' indices in groups that fit the memory, sorted by length so that attention pads little.

    An example that does not fit is a group of its own.
    """
    groups: list[list[int]] = []
    tokens = answers = 0
    for i in sorted(range(len(examples)), key=lambda i: (len(examples[i].ids), i)):
        each = examples[i]
        tokens, answers = tokens + len(each.ids), answers + each.answers
        count = len(groups[-1]) + 1 if groups else 1
        needed = tokens * memory.token + answers * memory.answer + count * len(each.ids) * memory.place
        if groups and count <= memory.examples and needed <= memory.budget:
            groups[-1].append(i)
        else:
            groups.append([i])
            tokens, answers = len(each.ids), each.answers
    return groups


def _free_memory(device: torch.device) -> float:
    """Bytes that a pass may use on this device."""
    if device.type != "cuda":
        return CPU_MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
