"""Seeded choices, the same whatever the order of the input; and nested, stratified subsets."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from fractions import Fraction
from heapq import heapify, heappop, heappush
from typing import TypeVar

from jsm_queue.data.examples import Example
from jsm_queue.errors import DataError

T = TypeVar("T")


def seeded_rank(seed: int, name: str) -> bytes:
    """A random rank of a name, the same on every machine and Python version."""
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


def subset(examples: list[Example], n: int, seed: int) -> list[Example]:
    """The first n of the examples in a seeded order: subsets of one seed are nested.

    In every prefix each group (relation, or category) has within one example of its share.
    Raises DataError when n is not within 1 … len(examples), or ids repeat.
    """
    if not 1 <= n <= len(examples):
        raise DataError(
            f"cannot take {n} of {len(examples)} training examples",
            "Choose sizes no larger than the training data",
        )
    if len({example.id for example in examples}) < len(examples):
        raise DataError("training examples repeat an id", "Give each example an id of its own")
    return stratified(examples, seed, lambda example: example.id, lambda example: example.group)[:n]


def stratified(items: Iterable[T], seed: int, name: Callable[[T], str], group: Callable[[T], str]) -> list[T]:
    """All items in a seeded order whose every prefix has within one item of each group's share.

    Random within a group. Which group comes next: of those that may have one more without getting ahead by
    a whole item, the one that would fall behind first (Tijdeman, "The chairman assignment problem", 1980:
    then no group is ever off its share by more than 1 - 1/(2k - 2), k groups).
    """
    queues: dict[str, list[T]] = defaultdict(list)
    for item in sorted(items, key=lambda item: seeded_rank(seed, name(item)), reverse=True):
        queues[group(item)].append(item)
    sizes = {key: len(queue) for key, queue in queues.items()}
    ties = sorted(sizes, key=lambda key: seeded_rank(seed, key))
    return [queues[key].pop() for key in _turns(sizes, ties)]


def _turns(sizes: dict[str, int], ties: list[str]) -> list[str]:
    """Whose turn it is at each step; `ties` decides between equals.

    A group's next item has a step from which it may go, and a deadline: the earliest deadline of those that may goes
    first, or where none may, the earliest of all. Heaps keep that fast where every item is a group of its own.
    """
    total, slack = sum(sizes.values()), max(2 * len(sizes) - 2, 1)
    waiting = [(_first_step(total, slack, sizes[key], 0), rank) for rank, key in enumerate(ties)]
    heapify(waiting)
    ready: list[tuple[Fraction, int]] = []
    taken = [0] * len(ties)
    turns: list[str] = []
    for step in range(1, total + 1):
        while waiting and waiting[0][0] <= step:
            rank = heappop(waiting)[1]
            heappush(ready, (_deadline(total, slack, sizes[ties[rank]], taken[rank]), rank))
        if not ready:
            _, rank = min((_deadline(total, slack, sizes[ties[rank]], taken[rank]), rank) for _, rank in waiting)
            waiting = [each for each in waiting if each[1] != rank]
            heapify(waiting)
        else:
            rank = heappop(ready)[1]
        taken[rank] += 1
        turns.append(ties[rank])
        if taken[rank] < sizes[ties[rank]]:
            heappush(waiting, (_first_step(total, slack, sizes[ties[rank]], taken[rank]), rank))
    return turns


def _first_step(total: int, slack: int, size: int, taken: int) -> int:
    """The first step at which a group's next item is not ahead of its share by a whole item."""
    return -(-total * (1 + slack * taken) // (slack * size))


def _deadline(total: int, slack: int, size: int, taken: int) -> Fraction:
    """Orders groups by when they would fall behind."""
    return Fraction(total * (slack - 1 + slack * taken), size)
