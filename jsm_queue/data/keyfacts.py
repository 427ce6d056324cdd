"""The judge that needs no model: which key facts does an answer state?

It compares characters and understands nothing: a key fact that an answer denies counts as stated.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from jsm_queue.data.examples import Example
from jsm_queue.data.numerals import KANJI
from jsm_queue.data.quantities import leading, trailing
from jsm_queue.data.text import normalize, normalize_with_origins
from jsm_queue.errors import DataError

TOP_SCORE = 3.0
"""The judge's scale is 0–3."""

NAMED = 5  # ids that an error lists

_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_NO_DIGIT_BEFORE = r"(?<![0-9])(?<![0-9][.,])"
_NO_DIGIT_AFTER = r"(?![.,]?[0-9])"
_NO_NUMERAL_BEFORE = rf"(?<![0-9{KANJI}])"


def require_key_facts(examples: Sequence[Example], what: str, fix: str) -> None:
    """Raises DataError that names the examples without key facts; `what` are they."""
    without = [example.id for example in examples if not example.key_facts]
    if without:
        names = ", ".join(without[:NAMED]) + (", …" if len(without) > NAMED else "")
        raise DataError(f"{len(without)} of the {len(examples)} {what} have no key facts to be judged by: {names}", fix)


def found_key_facts(answer: str, key_facts: list[list[str]]) -> list[bool]:
    """For each key fact: does the answer hold one of its spellings?

    Both are compared in the form of `text.normalize`, without thousands separators. A number is found only
    whole: "3回" is not in "13回", nor "5m" in "0.5m"; and so is its unit: "5m" is neither in "5mm" nor in "5m/s".
    """
    text = _Searchable(answer)
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
    text = _Searchable(answer)
    places = [_first_place(text, spellings) for spellings in key_facts]
    return _merged([(text.origins[start][0], text.origins[end - 1][1]) for start, end in filter(None, places)])


class _Searchable:
    """An answer in the form in which it is searched, and of each of its characters the span it comes from."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.text = _without_separators(normalize(answer))

    @cached_property
    def origins(self) -> list[tuple[int, int]]:
        """Made only where a place is asked for: it takes far longer than to search."""
        folded, origins = normalize_with_origins(self.answer)
        separators = {match.start() for match in _THOUSANDS.finditer(folded)}
        return [origin for index, origin in enumerate(origins) if index not in separators]


def _without_separators(folded: str) -> str:
    return _THOUSANDS.sub("", folded)


@dataclass(frozen=True)
class _Wanted:
    """A spelling to look for. `quantity`: the number with unit that it ends with, whose numeral begins `tail`
    characters before its end; "" when it ends with none."""

    text: str
    pattern: re.Pattern[str]
    quantity: str = ""
    tail: int = 0


@lru_cache(maxsize=4096)
def _wanted(spelling: str) -> _Wanted:
    text = _without_separators(normalize(spelling))
    ends = trailing(spelling)
    before = _NO_DIGIT_BEFORE if text[:1].isdigit() else ""
    if ends and text[:1] in KANJI:
        before = _NO_NUMERAL_BEFORE
    after = _NO_DIGIT_AFTER if text[-1:].isdigit() and not ends else ""
    pattern = re.compile(before + re.escape(text) + after)
    tail = len(_without_separators(ends.written)) if ends else 0
    return _Wanted(text, pattern, ends.key if ends else "", tail)


def _place(spelling: str, text: _Searchable) -> tuple[int, int] | None:
    """The first place (start, end) of a spelling in a searchable text."""
    wanted = _wanted(spelling)
    if not wanted.text or wanted.text not in text.text:
        return None
    places = (match.span() for match in wanted.pattern.finditer(text.text))
    return next((place for place in places if _ends_there(wanted, place[1], text)), None)


def _ends_there(wanted: _Wanted, end: int, text: _Searchable) -> bool:
    """Whether the unit that the spelling ends with ends there too, and goes on neither as "mm" nor as "m/s"."""
    if not wanted.quantity:
        return True
    found = leading(text.answer[text.origins[end - wanted.tail][0] :])
    return found is not None and found.key == wanted.quantity


def _first_place(text: _Searchable, spellings: list[str]) -> tuple[int, int] | None:
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
