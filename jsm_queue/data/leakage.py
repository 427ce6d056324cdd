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
    """An example that was left out: why, because of which example of which split, and how alike the two are."""

    id: str
    reason: str
    split: str = ""
    against: str = ""
    similarity: float = 1.0


def drop_leaks(
    train: list[Example], held_out: Mapping[str, list[Example]], names: Iterable[str], threshold: float
) -> tuple[list[Example], list[Drop]]:
    """The training examples that resemble no held-out one, and the dropped ones. `held_out`: split name → examples.

    The training side is dropped, because the held-out sides are what cells are compared on: their size and questions
    must not depend on the training data. A training example is dropped when its question equals a held-out one, or
    comes within `threshold` of one in bigram Jaccard once entity names are masked: its *wording* was then seen.
    The answers of taught facts coincide by intention, so only questions count there. Where facts are not known
    (a user's pairs), an answer of 20 or more characters within `threshold` of a held-out one counts too.
    """
    others = [(split, example) for split, examples in held_out.items() for example in examples]
    equal = {normalize(example.question): index for index, (_, example) in reversed(list(enumerate(others)))}
    compared = [example for _, example in others]
    near = nearest(_masked_questions(train, names), _masked_questions(compared, names), threshold)
    alike = nearest([_answer(e) for e in train], [_answer(e) for e in compared], threshold)

    def leak(index: int, example: Example) -> Drop | None:
        for reason, found in (
            ("same question", (equal.get(normalize(example.question)), 1.0)),
            ("near-duplicate question", near.get(index, (None, 0.0))),
            ("near-duplicate answer", alike.get(index, (None, 0.0))),
        ):
            other, similarity = found
            if other is not None:
                split, against = others[other]
                return Drop(example.id, reason, split, against.id, round(similarity, 4))
        return None

    leaks = [leak(index, example) for index, example in enumerate(train)]
    kept = [example for example, drop in zip(train, leaks, strict=True) if drop is None]
    return kept, [drop for drop in leaks if drop]


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


def _masked_questions(examples: list[Example], names: Iterable[str]) -> list[str]:
    return masked([example.question for example in examples], names)


def _answer(example: Example) -> str:
    """The answer in the form in which it is compared; empty where it doesn't count."""
    answer = "" if example.facts else normalize(example.answer)
    return answer if len(answer) >= MIN_COMPARED_ANSWER_CHARS else ""
