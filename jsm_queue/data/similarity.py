"""How alike two texts are: Jaccard index of their character bigrams, entity names masked."""

import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from jsm_queue.data.text import normalize

MASK = "\ufffc"
"""Stands for an entity's name in a masked text; nobody types it."""


def masked(texts: list[str], names: Iterable[str]) -> list[str]:
    """The normalized texts, each entity name in them (the longest first) replaced by one mask."""
    known = sorted({normalize(name) for name in names} - {""}, key=lambda name: (-len(name), name))
    if not known:
        return [normalize(text) for text in texts]
    pattern = re.compile("|".join(map(re.escape, known)))
    return [pattern.sub(MASK, normalize(text)) for text in texts]


def bigrams(text: str) -> set[str]:
    """The pairs of neighbouring characters; of a single character, that character."""
    return {text[i : i + 2] for i in range(max(len(text) - 1, 1))} if text else set()


def jaccard(a: set[str], b: set[str]) -> float:
    """Size of the intersection over size of the union; 0 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 0.0


def nearest(texts: list[str], others: list[str], threshold: float) -> dict[int, tuple[int, float]]:
    """The most similar of the others, for each text whose bigram Jaccard to it is at least `threshold` (> 0).

    Returns text index → (index in others, similarity); of equals the first. Equals comparing all pairs, but
    visits only those that share a bigram.
    """
    other_bigrams = [bigrams(other) for other in others]
    sizes = np.array([len(each) for each in other_bigrams])  # (O,)
    holders: dict[str, list[int]] = defaultdict(list)
    for index, each in enumerate(other_bigrams):
        for bigram in each:
            holders[bigram].append(index)
    arrays = {bigram: np.array(indices) for bigram, indices in holders.items()}
    best = {text: _best(bigrams(text), arrays, sizes, threshold) for text in set(texts)}
    return {index: best[text] for index, text in enumerate(texts) if best[text][1] >= threshold}


def _best(own: set[str], holders: dict[str, np.ndarray], sizes: np.ndarray, threshold: float) -> tuple[int, float]:
    shared = [holders[bigram] for bigram in own if bigram in holders]
    if not shared or len(shared) / len(own) < threshold:  # no other can share more than all of these
        return -1, 0.0
    overlap = np.bincount(np.concatenate(shared), minlength=len(sizes))  # (O,)
    similarity = overlap / (len(own) + sizes - overlap)  # (O,)
    index = int(similarity.argmax())
    return index, float(similarity[index])
