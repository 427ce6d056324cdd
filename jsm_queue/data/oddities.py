"""Examples that a person should look at. They are listed in the data report and stay in the dataset."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from jsm_queue.data.examples import Example
from jsm_queue.data.keyfacts import found_key_facts
from jsm_queue.data.text import normalize, numbers_with_units, repeats_itself


def oddities(examples: list[Example], max_answer_chars: int) -> dict[str, list[str]]:
    """Ids of odd examples by what is odd about them."""
    answers: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        answers[normalize(example.question)].add(normalize(example.answer))
    return {
        "self_repeating_answer": [e.id for e in examples if repeats_itself(e.answer)],
        "over_long_answer": [e.id for e in examples if len(e.answer) > max_answer_chars],
        "question_with_several_answers": [e.id for e in examples if len(answers[normalize(e.question)]) > 1],
        "without_key_facts": [e.id for e in examples if not e.key_facts],
        "key_fact_not_in_answer": [e.id for e in examples if not all(found_key_facts(e.answer, e.key_facts))],
    }


def witnesses(source: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Number with unit → names of the passages of the source, given as (name, text), that state it."""
    stated: dict[str, set[str]] = defaultdict(set)
    for name, text in source:
        for number in numbers_with_units(text):
            stated[number].add(name)
    return dict(stated)


def unsupported_numbers(examples: list[Example], stated: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Example id → numbers with units that its answer states and that neither its question nor the source
    does.

    An answer is no witness for itself: where the source is a user's pairs, another pair must state the
    number.
    """
    found = {
        example.id: sorted(
            number
            for number in numbers_with_units(example.answer) - numbers_with_units(example.question)
            if not stated.get(number, set()) - {example.id}
        )
        for example in examples
    }
    return {name: numbers for name, numbers in found.items() if numbers}
