"""A user's question–answer pairs → training, validation and test examples."""

from jsm_queue.data.examples import Example
from jsm_queue.data.options import PrepareOptions
from jsm_queue.data.subsets import stratified
from jsm_queue.data.templates import Split
from jsm_queue.errors import DataError


def split_pairs(pairs: list[Example], options: PrepareOptions) -> Split:
    """A seeded split, stratified by category: `options.validation`, then `options.test_unseen`, the rest
    for training.

    All held-out examples are of the stratum "unseen": nothing tells which facts two pairs share, a pair is
    in one split only, and whatever resembles a held-out pair is dropped from training later. So what the
    test measures is at most the answering of questions that were not taught; "taught" would claim a fact
    that we have not checked. Raises DataError unless at least half of the pairs remain for training.
    """
    held_out = options.validation + options.test_unseen
    if held_out * 2 > len(pairs):
        raise DataError(
            f"{len(pairs)} pairs are too few to hold out {held_out} of them",
            f"Bring at least {2 * held_out} pairs, or lower data.validation and data.test_unseen",
        )
    order = stratified(pairs, options.seed, lambda pair: pair.id, lambda pair: pair.group)
    unseen = [pair.model_copy(update={"stratum": "unseen"}) for pair in order[:held_out]]
    return Split(
        train=sorted(order[held_out:], key=lambda pair: pair.id),
        validation=unseen[: options.validation],
        test=unseen[options.validation :],
    )
