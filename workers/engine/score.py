"""How likely a model finds the reference answers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from workers.engine.bases import Base
from workers.engine.batches import estimate_memory, passes
from workers.engine.nll import answer_nll
from workers.engine.prompts import Encoded
from workers.finished import Finished
from workers.work import Work


class Likelihood(NamedTuple):
    """Of one answer with its end token: summed NLL in nats, and tokens; the same of its key facts' tokens alone."""

    nll: float
    tokens: int
    key_nll: float
    key_tokens: int


def likelihoods(
    base: Base, model: PreTrainedModel, examples: Sequence[Encoded], work: Work
) -> tuple[list[Likelihood], float]:
    """One of each example, in their order, and the seconds that they took.

    Passes are laid out over all examples, whatever is finished: a resumed job computes what an unbroken one does.
    """
    memory = estimate_memory(base.model, base.device, training=False, recompute=False, ooms=work.ooms)
    finished = Finished(work, Likelihood)
    with torch.inference_mode():
        for group in passes(examples, memory):
            left = [i for i in group if finished.get(str(i)) is None]
            if not left:
                continue
            with finished.timed():
                for i, found in zip(left, _pass(base, model, [examples[i] for i in left]), strict=True):
                    finished.add(str(i), found)
            finished.tell(len(examples), {})
    found = [finished.get(str(i)) for i in range(len(examples))]
    return [each for each in found if each is not None], finished.seconds


def _pass(base: Base, model: PreTrainedModel, batch: Sequence[Encoded]) -> Iterator[Likelihood]:
    nlls = answer_nll(model, batch, base.device).double().cpu().split([each.answers for each in batch])
    for example, nll in zip(batch, nlls, strict=True):
        key = nll[[position - example.first for position in example.key]]
        yield Likelihood(nll.sum().item(), example.answers, key.sum().item(), len(example.key))
