"""Training examples that give a held-out question away."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jsm_queue.data.examples import Example
from jsm_queue.data.similarity import masked, nearest
from jsm_queue.data.text import normalize

MIN_COMPARED_ANSWER_CHARS = 20
"""Shorter answers coincide without leaking anything ("はい。"), so they are not compared."""


@dataclass(frozen=True)
class Drop:
    """An example that was left out: why, because of which example of which split, how alike the two are."""

    id: str
    reason: str
    split: str = ""
    against: str = ""
    similarity: float = 1.0


def drop_leaks(
    train: list[Example], held_out: Mapping[str, list[Example]], names: Iterable[str], threshold: float
) -> tuple[list[Example], list[Drop]]:
    """The training examples that resemble no held-out one, and the dropped ones.

    `held_out`: split → examples; `names`: the entity names to mask.

    The training side is dropped, because the held-out sides are what cells are compared on: their size and
    questions must not depend on the training data. A training example is dropped when its question equals a
    held-out one, or comes within `threshold` of one in bigram Jaccard once entity names are masked: its
    *wording* was then seen. The answers of taught facts coincide by intention, so only questions count
    there. Where facts are not known (a user's pairs), an answer of 20 or more characters within `threshold`
    of a held-out one counts too.
    """
    others = [(split, example) for split, examples in held_out.items() for example in examples]
    leaks = _leaks(train, [example for _, example in others], names, threshold)
    kept = [example for index, example in enumerate(train) if index not in leaks]
    drops = [
        Drop(train[index].id, reason, others[other][0], others[other][1].id, round(similarity, 4))
        for index, (reason, other, similarity) in sorted(leaks.items())
    ]
    return kept, drops


def _leaks(
    train: list[Example], others: list[Example], names: Iterable[str], threshold: float
) -> dict[int, tuple[str, int, float]]:
    """Index in train → (reason, index in others, similarity); of several reasons the strongest."""
    found: dict[int, tuple[str, int, float]] = {}
    for reason, own, theirs in (
        ("near-duplicate answer", _answers(train), _answers(others)),
        ("near-duplicate question", _masked(train, names), _masked(others, names)),
    ):
        for index, (other, similarity) in nearest(own, theirs, threshold).items():
            found[index] = (reason, other, similarity)
    questions = {normalize(example.question): other for other, example in enumerate(others)}
    for index, example in enumerate(train):
        if normalize(example.question) in questions:
            found[index] = ("same question", questions[normalize(example.question)], 1.0)
    return found


def drop_unusable(examples: list[Example], split: str) -> tuple[list[Example], list[Drop]]:
    """Without empty examples and without repeated pairs of question and answer (the first one stays)."""
    first: dict[tuple[str, str], str] = {}
    kept, drops = [], []
    for example in examples:
        pair = (normalize(example.question), normalize(example.answer))
        if "" in pair:
            drops.append(Drop(example.id, "empty question or answer", split))
        elif pair in first:
            drops.append(Drop(example.id, "repeated pair", split, first[pair]))
        else:
            first[pair] = example.id
            kept.append(example)
    return kept, drops


def _masked(examples: list[Example], names: Iterable[str]) -> list[str]:
    return masked([example.question for example in examples], names)


def _answers(examples: list[Example]) -> list[str]:
    """The answers in the form in which they are compared; empty where one doesn't count."""
    answers = ["" if example.facts else normalize(example.answer) for example in examples]
    return [answer if len(answer) >= MIN_COMPARED_ANSWER_CHARS else "" for answer in answers]
