"""A user's question–answer pairs → training, validation and test examples."""

from collections import defaultdict

from jsm_queue.data.examples import Example
from jsm_queue.data.options import PrepareOptions
from jsm_queue.data.subsets import stratified
from jsm_queue.data.templates import Split
from jsm_queue.errors import DataError


def split_pairs(pairs: list[Example], options: PrepareOptions) -> Split:
    """A seeded split, stratified by category: `options.validation`, then `options.test_unseen`, the rest
    for training. A conversation is in one split whole, so with conversations of several answers a split may be
    larger than asked for.

    They are of no stratum: nothing tells which facts two pairs share. A pair is in one split only, and
    whatever resembles a held-out pair is dropped from training later, but another pair may teach its fact in
    other words ("taught") or not ("unseen"), and either word would claim what nobody has checked. Raises
    DataError unless at least half of the pairs remain for training.
    """
    asked_for = options.validation + options.test_unseen
    units: dict[str, list[Example]] = defaultdict(list)
    for pair in pairs:
        units[pair.unit].append(pair)
    order = stratified(units.values(), options.seed, lambda unit: unit[0].unit, lambda unit: unit[0].group)
    validation, rest = _take(order, options.validation)
    test, rest = _take(rest, options.test_unseen)
    held_out = max(asked_for, len(validation) + len(test))
    if held_out * 2 > len(pairs):
        raise DataError(
            f"{len(pairs)} pairs are too few to hold out {held_out} of them",
            f"Bring at least {2 * held_out} pairs, or lower data.validation and data.test_unseen",
        )
    train = sorted((pair for unit in rest for pair in unit), key=lambda pair: pair.id)
    return Split(train, validation, test)


def _take(units: list[list[Example]], n: int) -> tuple[list[Example], list[list[Example]]]:
    """The examples of the first units that hold n of them together, and the other units."""
    taken: list[Example] = []
    for index, unit in enumerate(units):
        if len(taken) >= n:
            return taken, units[index:]
        taken += unit
    return taken, []
