"""A user's question–answer pairs → training, validation and test examples."""

from jsm_queue.data.examples import Example
from jsm_queue.data.options import PrepareOptions
from jsm_queue.data.subsets import stratified
from jsm_queue.data.templates import Split
from jsm_queue.errors import DataError


def split_pairs(pairs: list[Example], options: PrepareOptions) -> Split:
    """A seeded split, stratified by category: `options.validation`, then `options.test_unseen`, the rest
    for training.

    They are of no stratum: nothing tells which facts two pairs share. A pair is in one split only, and
    whatever resembles a held-out pair is dropped from training later, but another pair may teach its fact in
    other words ("taught") or not ("unseen"), and either word would claim what nobody has checked. Raises
    DataError unless at least half of the pairs remain for training.
    """
    held_out = options.validation + options.test_unseen
    if held_out * 2 > len(pairs):
        raise DataError(
            f"{len(pairs)} pairs are too few to hold out {held_out} of them",
            f"Bring at least {2 * held_out} pairs, or lower data.validation and data.test_unseen",
        )
    order = stratified(pairs, options.seed, lambda pair: pair.id, lambda pair: pair.group)
    return Split(
        train=sorted(order[held_out:], key=lambda pair: pair.id),
        validation=order[: options.validation],
        test=order[options.validation : held_out],
    )
