"""How likely a model finds the reference answers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from workers.engine.bases import Base
from workers.engine.batches import estimate_memory, passes
from workers.engine.nll import answer_nll
from workers.engine.prompts import Encoded


class Likelihood(NamedTuple):
    """Of one answer with its end token: summed NLL in nats, and tokens; the same of its key facts' tokens alone."""

    nll: float
    tokens: int
    key_nll: float
    key_tokens: int


def likelihoods(
    base: Base, model: PreTrainedModel, examples: Sequence[Encoded], report: Callable[[int], None]
) -> list[Likelihood]:
    """One of each example, in their order; `report` is told how many are done."""
    memory = estimate_memory(base.model, base.device, training=False, recompute=False)
    found: dict[int, Likelihood] = {}
    with torch.inference_mode():
        for group in passes(examples, memory):
            batch = [examples[i] for i in group]
            nlls = answer_nll(model, batch, base.device).double().cpu().split([each.answers for each in batch])
            for i, example, nll in zip(group, batch, nlls, strict=True):
                key = nll[[position - example.first for position in example.key]]
                found[i] = Likelihood(nll.sum().item(), example.answers, key.sum().item(), len(example.key))
            report(len(found))
    return [found[i] for i in range(len(examples))]
