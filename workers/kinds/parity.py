"""Is this GGUF the model that was trained? Against the torch model, or against the F16 GGUF.

Two hops can fail, and each is judged alone: the tokenizer (the same rendered text must give the same ids) and the
weights (the reference's ids go through both models).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from jsm_queue.data.examples import Example, read_examples
from jsm_queue.errors import ModelError
from jsm_queue.kinds import ROLE_FILES, ParityParams
from jsm_queue.protocol import RecordIn
from jsm_queue.spec import Format
from workers.engine import bases, lora
from workers.engine import prompts as training_prompts
from workers.gguf import prompts
from workers.gguf.llama import Gguf, open_gguf
from workers.work import Device, Outcome, Work

logger = logging.getLogger(__name__)

CONTEXT = 2048
"""Tokens of a prompt with its answer that are compared; what is longer is cut."""

SAME_KL = 0.01
"""Nats a token: below it two models are one, whatever their top tokens are where two are nearly equal."""

AGREEMENT: dict[Format | None, float] = {"F16": 0.9, "Q8_0": 0.9}
"""Least share of equal top tokens of formats that are as good as lossless: less means other weights, not rounding."""

OTHER_AGREEMENT = 0.5
"""The same for smaller formats, whose own error is what the study measures."""


class Reference(NamedTuple):
    """What the GGUF is held against.

    `encode(example)`: token ids up to the answer's end token, and the index of the answer's first one.
    `logits(ids, first)`: as `Gguf.logits`.
    """

    encode: Callable[[Example], tuple[list[int], int]]
    logits: Callable[[Sequence[int], int], np.ndarray]


@dataclass(frozen=True)
class Compared:
    """One prompt with its answer. `kl` nats and `agree` a share, means over `positions` answer tokens."""

    item: str
    kl: float
    agree: float
    positions: int
    same_tokens: bool


def run(work: Work) -> Outcome:
    """Two records a prompt; the metric `ok` is 1 when both hops hold. What fails is named in the log."""
    params: ParityParams = work.params
    examples = spread(read_examples(work.inputs / "dataset" / ROLE_FILES["test"]), params.prompts)
    results: list[Compared] = []
    with _open(work, "gguf") as gguf, _reference(work) as reference:
        for example in examples:
            results.append(_compare(gguf, reference, example, params.system_prompt))
            work.progress(len(results), len(examples), {})
        least = AGREEMENT.get(gguf.format, OTHER_AGREEMENT)
    return Outcome([record for result in results for record in _records(result)], judged(results, least))


def judged(results: list[Compared], least_agreement: float) -> dict[str, float]:
    """The job's metrics; logs the hop that failed."""
    positions = sum(result.positions for result in results)
    kl = sum(result.kl * result.positions for result in results) / max(positions, 1)
    agree = sum(result.agree * result.positions for result in results) / max(positions, 1)
    mismatches = [result.item for result in results if not result.same_tokens]
    if mismatches:
        logger.warning("parity: the tokens differ on %d of %d prompts: %s", len(mismatches), len(results), mismatches)
    same_weights = agree >= least_agreement or kl <= SAME_KL
    if not same_weights:
        logger.warning("parity: the weights differ: %.3f equal top tokens, KL %.4f nats a token", agree, kl)
    ok = bool(positions) and not mismatches and same_weights
    return {"kl": kl, "agree": agree, "tokenizer_mismatches": float(len(mismatches)), "ok": float(ok)}


def spread(examples: list[Example], count: int) -> list[Example]:
    """`count` examples, evenly spaced, so that every stratum is among them."""
    count = min(count, len(examples))
    return [examples[index * len(examples) // count] for index in range(count)]


def divergence(reference: np.ndarray, found: np.ndarray) -> np.ndarray:
    """KL(reference ‖ found) in nats at each position, from logits (positions, vocab)."""
    p, q = _log_softmax(reference), _log_softmax(found)
    return (np.exp(p) * (p - q)).sum(axis=1)


def _compare(gguf: Gguf, reference: Reference, example: Example, system_prompt: str | None) -> Compared:
    ids, first = reference.encode(example)
    own, _ = prompts.encode(gguf, example, system_prompt)
    # A template that writes no end token leaves it to the tokenizer's EOS, which no rendered text shows.
    same = own[: len(ids) - 1] == ids[:-1] and gguf.is_end(ids[-1])
    ids = ids[:CONTEXT]
    if first >= len(ids):
        return Compared(example.id, 0.0, 0.0, 0, same)
    expected, found = reference.logits(ids[:-1], first - 1), gguf.logits(ids[:-1], first - 1)
    if expected.shape != found.shape:
        raise ModelError(f"the GGUF has {found.shape[1]} tokens, its reference {expected.shape[1]}", "Convert it again")
    agree = (expected.argmax(axis=1) == found.argmax(axis=1)).mean()
    return Compared(example.id, float(divergence(expected, found).mean()), float(agree), len(found), same)


def _records(result: Compared) -> list[RecordIn]:
    values = {"kl": result.kl, "agree": result.agree}
    return [RecordIn(item=result.item, name=name, value=value) for name, value in values.items()]


def _open(work: Work, need: str) -> AbstractContextManager[Gguf]:
    return open_gguf(work.inputs / need / ROLE_FILES["gguf"], work.device, CONTEXT)


@contextmanager
def _reference(work: Work) -> Iterator[Reference]:
    params: ParityParams = work.params
    if params.reference == "F16":
        with _open(work, "f16") as f16:
            yield Reference(lambda e: prompts.encode(f16, e, params.system_prompt), f16.logits)
        return
    base = bases.load(replace(work, device=Device("cpu", work.device.threads)), quantized=False)
    adapter = work.inputs / "adapter"
    # The adapter lies beside the weights, not merged: another path than the export's.
    with lora.trained(base, adapter if adapter.is_dir() else None) as model:
        yield Reference(lambda e: _encode(base, e, params.system_prompt), lambda ids, first: _logits(model, ids, first))


def _encode(base: bases.Base, example: Example, system_prompt: str | None) -> tuple[list[int], int]:
    encoded = training_prompts.encode(base.tokenizer, base.template, example, system_prompt)
    return encoded.ids, encoded.first


@torch.inference_mode()
def _logits(model: torch.nn.Module, ids: Sequence[int], first: int) -> np.ndarray:
    rows = model(torch.tensor([ids]), logits_to_keep=len(ids) - first).logits  # (1, len(ids) - first, vocab)
    return rows[0].float().numpy()


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
