"""A split's examples in a base's tokens."""

from collections.abc import Iterable

from jsm_queue.data.examples import Example
from jsm_queue.errors import DataError
from workers.engine.bases import Base
from workers.engine.prompts import Encoded, encode


def encode_all(
    base: Base, examples: Iterable[Example], system_prompt: str | None, max_length: int
) -> tuple[list[tuple[Example, Encoded]], int]:
    """The examples of at most `max_length` tokens, and how many were longer.

    Raises DataError when none is left or the template does not write an answer as it is, ModelError when the base's
    template or tokenizer is unfit.
    """
    pairs = [(each, encode(base.tokenizer, base.template, each, system_prompt)) for each in examples]
    kept = [pair for pair in pairs if len(pair[1].ids) <= max_length]
    if not kept:
        shortest = min((len(encoded.ids) for _, encoded in pairs), default=0)
        raise DataError(
            f"none of {len(pairs)} examples fits max_length = {max_length} tokens (the shortest has {shortest})",
            "Raise training.max_length",
        )
    return kept, len(pairs) - len(kept)
