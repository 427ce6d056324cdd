"""Generated documents as rows of token ids, made ahead of the training loop by a pool of processes.

One document a row: a row that held several would let a question look at facts it has nothing to do with. Short and
long documents get rows of their own length, so that less is padding.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from examples.river.pretrain import text
from examples.river.pretrain.chat import ChatFormat, render
from examples.river.pretrain.corpus import Corpus, read_corpus

AHEAD_PER_PROCESS = 3
PADDING = -100


@dataclass(frozen=True)
class Plan:
    """How many rows of which length a step has, and how long a world of random facts holds.

    world_size: facts of a world. world_steps: steps until the next world. fresh_share: of the steps, at the end, draw
    every fact afresh, so that the base ends with no opinion about any.
    """

    seed: int
    steps: int
    short_rows: int = 1024
    short_length: int = 40
    long_rows: int = 384
    long_length: int = 112
    world_size: int = 400
    world_steps: int = 100
    fresh_share: float = 0.12


class Rows(NamedTuple):
    """Token ids, padded with PADDING at the end."""

    short: NDArray[np.int16]  # (short_rows, short_length)
    long: NDArray[np.int16]  # (long_rows, long_length)


@dataclass(frozen=True)
class Source:
    """What a process needs to make rows."""

    plan: Plan
    corpus: Corpus
    tokenizer: Tokenizer
    form: ChatFormat


def stream(plan: Plan, tokenizer: Tokenizer, form: ChatFormat, processes: int) -> Iterator[Rows]:
    """The rows of every step, in order."""
    sent = (plan, tokenizer.to_str(), form)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_one_thread) as pool:
        waiting: deque[Future[Rows]] = deque()
        for step in range(plan.steps):
            waiting.append(pool.submit(_make, *sent, step))
            if len(waiting) >= AHEAD_PER_PROCESS * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def make_rows(source: Source, step: int) -> Rows:
    """The rows of one step: the same for the same seed and step, whichever process makes them."""
    plan, corpus = source.plan, source.corpus
    rng = Random(f"{plan.seed}:{step}")
    world = _world(plan, corpus, step)

    def short() -> text.Document:
        fact = rng.choice(world) if world else text.random_fact(corpus, rng)
        return text.short_document(fact, corpus, rng)

    def long() -> text.Document:
        return text.long_document(corpus, rng)

    return Rows(
        _fill(source, short, plan.short_rows, plan.short_length),
        _fill(source, long, plan.long_rows, plan.long_length),
    )


def _one_thread() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes fill the cores already


def _make(plan: Plan, tokenizer: str, form: ChatFormat, step: int) -> Rows:
    return make_rows(_source(plan, tokenizer, form), step)


@cache
def _source(plan: Plan, tokenizer: str, form: ChatFormat) -> Source:
    return Source(plan, read_corpus(), Tokenizer.from_str(tokenizer), form)


def _world(plan: Plan, corpus: Corpus, step: int) -> tuple[text.Fact, ...]:
    if step >= (1 - plan.fresh_share) * plan.steps:
        return ()
    return text.make_world(corpus, plan.world_size, Random(f"{plan.seed}:world:{step // plan.world_steps}"))


def _fill(source: Source, draw: Callable[[], text.Document], count: int, length: int) -> NDArray[np.int16]:
    """`count` documents of at most `length` tokens each; the few longer ones are drawn again."""
    rows = np.full((count, length), PADDING, dtype=np.int16)
    filled = 0
    while filled < count:
        documents = [render(draw(), source.form) for _ in range(count - filled)]
        for encoding in source.tokenizer.encode_batch(documents, add_special_tokens=False):
            if len(encoding.ids) <= length:
                rows[filled, : len(encoding.ids)] = encoding.ids
                filled += 1
    return rows
