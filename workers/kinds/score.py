"""Split × base, with or without an adapter → NLL of each reference answer."""

import math
from collections.abc import Iterator

from jsm_queue.data.examples import Example, read_examples
from jsm_queue.errors import ModelError
from jsm_queue.kinds import ROLE_FILES, ScoreParams
from jsm_queue.protocol import RecordIn
from workers.engine import bases, lora
from workers.engine.encoding import encode_all
from workers.engine.score import Likelihood, likelihoods
from workers.work import Outcome, Work


def run(work: Work) -> Outcome:
    """Five records an example that fits `max_length`; the metric `dropped` counts the others.

    Raises ModelError where the model gives an answer no likelihood, as one with damaged weights does.
    """
    params: ScoreParams = work.params
    examples = read_examples(work.inputs / "dataset" / ROLE_FILES[params.split])
    base = bases.load(work, params.quantized)
    pairs, dropped = encode_all(base, examples, params.system_prompt, params.max_length)
    adapter = work.inputs / "adapter"
    with lora.trained(base, adapter if adapter.is_dir() else None) as model:
        found, seconds = likelihoods(base, model, [encoded for _, encoded in pairs], work)
    odd = [example.id for (example, _), each in zip(pairs, found, strict=True) if not math.isfinite(each.nll)]
    if odd:
        raise ModelError(f"the NLL of {len(odd)} of {len(pairs)} answers is no number, first of {odd[0]}")
    tokens = sum(len(encoded.ids) for _, encoded in pairs)
    records = [r for (example, _), each in zip(pairs, found, strict=True) for r in _records(example, each)]
    metrics = {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds, "dropped": dropped}
    return Outcome(records, {name: float(value) for name, value in metrics.items()})


def _records(example: Example, found: Likelihood) -> Iterator[RecordIn]:
    yield RecordIn(item=example.id, name="nll", value=found.nll, meta={"stratum": example.stratum})
    yield RecordIn(item=example.id, name="tokens", value=found.tokens)
    yield RecordIn(item=example.id, name="bytes", value=len(example.answer.encode()))
    yield RecordIn(item=example.id, name="key_nll", value=found.key_nll)
    yield RecordIn(item=example.id, name="key_tokens", value=found.key_tokens)
