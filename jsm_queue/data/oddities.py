"""Examples that a person should look at. They are listed in the data report and stay in the dataset."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from jsm_queue.data.examples import Example
from jsm_queue.data.keyfacts import found_key_facts
from jsm_queue.data.quantities import quantities
from jsm_queue.data.text import normalize, repeats_itself


def oddities(examples: list[Example], max_answer_chars: int) -> dict[str, list[str]]:
    """Ids of odd examples by what is odd about them."""
    answers: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        answers[_asked(example)].add(normalize(example.answer))
    return {
        "self_repeating_answer": [e.id for e in examples if repeats_itself(e.answer)],
        "over_long_answer": [e.id for e in examples if len(e.answer) > max_answer_chars],
        "question_with_several_answers": [e.id for e in examples if len(answers[_asked(e)]) > 1],
        "without_key_facts": [e.id for e in examples if not e.key_facts],
        "key_fact_not_in_answer": [e.id for e in examples if not all(found_key_facts(e.answer, e.key_facts))],
    }


def _asked(example: Example) -> str:
    """The question with all that was said before it, in the form in which texts are compared."""
    said = [text for turn in example.history for text in (turn.question, turn.answer)]
    return normalize("\n".join([*said, example.question]))


def witnesses(source: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Number with unit → names of the passages of the source, given as (name, text), that state it."""
    stated: dict[str, set[str]] = defaultdict(set)
    for name, text in source:
        for quantity in quantities(text):
            stated[quantity.key].add(name)
    return dict(stated)


def unsupported_numbers(examples: list[Example], stated: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Example id → numbers with units, as written, that its answer states and that neither the conversation up to
    its question nor the source does.

    An answer is no witness for itself: where the source is a user's pairs, another pair or conversation must state
    the number.
    """
    found = {example.id: sorted(_unsupported(example, stated)) for example in examples}
    return {name: numbers for name, numbers in found.items() if numbers}


def _unsupported(example: Example, stated: Mapping[str, set[str]]) -> set[str]:
    answered = {quantity.key: quantity.written for quantity in quantities(example.answer)}
    if not answered:
        return set()
    said = [*example.questions, *(turn.answer for turn in example.history), example.system or ""]
    known = {quantity.key for text in said for quantity in quantities(text)}
    return {
        written for key, written in answered.items() if key not in known and not stated.get(key, set()) - {example.unit}
    }
