"""Training examples that give a held-out question away."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jsm_queue.data.examples import Example
from jsm_queue.data.similarity import masked, nearest
from jsm_queue.data.text import normalize

MIN_COMPARED_ANSWER_CHARS = 20
"""Shorter answers coincide without leaking anything ("はい。"), so they are not compared."""


Leak = tuple[str, int, float]
"""why, index of the held-out example, similarity"""

Text = tuple[int, str]
"""index of the example it belongs to, text"""


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

    In a conversation a question is all that was asked so far ("and why?" alone resembles many), its history counts
    on both sides, and a conversation that resembles a held-out one is dropped whole.
    """
    others = [(split, example) for split, examples in held_out.items() for example in examples]
    leaks = _whole(train, _leaks(train, [example for _, example in others], list(names), threshold))
    kept = [example for index, example in enumerate(train) if index not in leaks]
    drops = [
        Drop(train[index].id, reason, others[other][0], others[other][1].id, round(similarity, 4))
        for index, (reason, other, similarity) in sorted(leaks.items())
    ]
    return kept, drops


def _whole(train: list[Example], leaks: dict[int, Leak]) -> dict[int, Leak]:
    """The leaks, and each example that shares its conversation with one."""
    by_unit = {train[index].unit: leak for index, leak in leaks.items()}
    return {i: leaks.get(i, by_unit[each.unit]) for i, each in enumerate(train) if each.unit in by_unit}


def _leaks(train: list[Example], others: list[Example], names: list[str], threshold: float) -> dict[int, Leak]:
    """Of several reasons the strongest."""
    asked, held = _asked(train), _asked(others)
    found = _near("near-duplicate answer", _answers(train), _answers(others), threshold)
    found |= _near("near-duplicate question", _masked(asked, names), _masked(held, names), threshold)
    questions = {normalize(text): other for other, text in held}
    for index, text in asked:
        if normalize(text) in questions:
            found[index] = ("same question", questions[normalize(text)], 1.0)
    return found


def _near(reason: str, own: list[Text], theirs: list[Text], threshold: float) -> dict[int, Leak]:
    """Of an example's texts the one that is most alike."""
    found: dict[int, Leak] = {}
    alike = nearest([text for _, text in own], [text for _, text in theirs], threshold)
    for place, (other, similarity) in alike.items():
        index = own[place][0]
        if index not in found or found[index][2] < similarity:
            found[index] = (reason, theirs[other][0], similarity)
    return found


def _asked(examples: list[Example]) -> list[Text]:
    """What was asked up to each question of an example: of a single question, that question."""
    return [
        (index, "\n".join(example.questions[:upto]))
        for index, example in enumerate(examples)
        for upto in range(1, len(example.questions) + 1)
    ]


def _masked(texts: list[Text], names: list[str]) -> list[Text]:
    return list(zip((index for index, _ in texts), masked([text for _, text in texts], names), strict=True))


def _answers(examples: list[Example]) -> list[Text]:
    """The answers in the form in which they are compared, without those that don't count."""
    answers = [
        (index, normalize(answer))
        for index, example in enumerate(examples)
        if not example.facts
        for answer in (*(turn.answer for turn in example.history), example.answer)
    ]
    return [(index, answer) for index, answer in answers if len(answer) >= MIN_COMPARED_ANSWER_CHARS]


def drop_unusable(examples: list[Example], split: str) -> tuple[list[Example], list[Drop]]:
    """Without empty examples and without repeated pairs of question and answer (the first one stays).

    A pair repeats another only after the same history and system prompt.
    """
    first: dict[tuple[str, ...], str] = {}
    kept, drops = [], []
    for example in examples:
        pair = (normalize(example.question), normalize(example.answer))
        said = [*(text for turn in example.history for text in (turn.question, turn.answer)), example.system or ""]
        talk = (*pair, *map(normalize, said))
        if "" in pair:
            drops.append(Drop(example.id, "empty question or answer", split))
        elif talk in first:
            drops.append(Drop(example.id, "repeated pair", split, first[talk]))
        else:
            first[talk] = example.id
            kept.append(example)
    return kept, drops
