"""The judge that needs no model: which key facts does an answer state?

It compares characters and understands nothing: a key fact that an answer denies counts as stated.
"""

import re
from collections.abc import Sequence

from jsm_queue.data.examples import Example
from jsm_queue.data.text import normalize_with_origins
from jsm_queue.errors import DataError

TOP_SCORE = 3.0
"""The judge's scale is 0–3."""

NAMED = 5  # ids that an error lists

_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_NO_DIGIT_BEFORE = r"(?<![0-9])(?<![0-9][.,])"
_NO_DIGIT_AFTER = r"(?![.,]?[0-9])"


def require_key_facts(examples: Sequence[Example], what: str, fix: str) -> None:
    """Raises DataError that names the examples without key facts; `what` are they."""
    without = [example.id for example in examples if not example.key_facts]
    if without:
        names = ", ".join(without[:NAMED]) + (", …" if len(without) > NAMED else "")
        raise DataError(f"{len(without)} of the {len(examples)} {what} have no key facts to be judged by: {names}", fix)


def found_key_facts(answer: str, key_facts: list[list[str]]) -> list[bool]:
    """For each key fact: does the answer hold one of its spellings?

    Both are compared in the form of `text.normalize`, without thousands separators. A number is found only
    whole: "3回" is not in "13回", nor "5m" in "0.5m".
    """
    text, _ = _searchable(answer)
    return [any(_place(spelling, text) for spelling in spellings) for spellings in key_facts]


def key_fact_score(answer: str, key_facts: list[list[str]]) -> float:
    """3 × the share of key facts found, from 0 to 3. Raises DataError when there are none to look for."""
    if not key_facts:
        raise DataError("an example without key facts cannot be judged by them", "Add a key_facts column to the data")
    found = found_key_facts(answer, key_facts)
    return TOP_SCORE * sum(found) / len(found)


def key_fact_spans(answer: str, key_facts: list[list[str]]) -> list[tuple[int, int]]:
    """Where a reference answer states its key facts: (start, end) in characters, in order, overlaps merged.

    Of each key fact the first place counts (the longest spelling there), because what follows it only
    repeats it.
    """
    text, origins = _searchable(answer)
    places = [_first_place(text, spellings) for spellings in key_facts]
    return _merged([(origins[start][0], origins[end - 1][1]) for start, end in filter(None, places)])


def _searchable(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text in the form in which it is searched, and of each character the span of `text` it comes from."""
    folded, origins = normalize_with_origins(text)
    separators = {match.start() for match in _THOUSANDS.finditer(folded)}
    kept = [index for index in range(len(folded)) if index not in separators]
    return "".join(folded[index] for index in kept), [origins[index] for index in kept]


def _place(spelling: str, text: str) -> tuple[int, int] | None:
    """The first place (start, end) of a spelling in a searchable text."""
    wanted, _ = _searchable(spelling)
    if not wanted:
        return None
    before = _NO_DIGIT_BEFORE if wanted[0].isdigit() else ""
    after = _NO_DIGIT_AFTER if wanted[-1].isdigit() else ""
    found = re.search(before + re.escape(wanted) + after, text)
    return found.span() if found else None


def _first_place(text: str, spellings: list[str]) -> tuple[int, int] | None:
    places = [place for spelling in spellings if (place := _place(spelling, text))]
    return min(places, key=lambda place: (place[0], -place[1]), default=None)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
