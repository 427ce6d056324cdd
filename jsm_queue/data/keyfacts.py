"""The judge that needs no model: which key facts does an answer state?"""

from jsm_queue.data.text import normalize, normalize_with_origins
from jsm_queue.errors import DataError

TOP_SCORE = 3.0
"""The judge's scale is 0–3."""


def found_key_facts(answer: str, key_facts: list[list[str]]) -> list[bool]:
    """For each key fact: does the answer hold one of its spellings, both in the form of `text.normalize`?"""
    text = normalize(answer)
    return [any(_in(normalize(spelling), text) for spelling in spellings) for spellings in key_facts]


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
    text, origins = normalize_with_origins(answer)
    places = [_first_place(text, [normalize(spelling) for spelling in spellings]) for spellings in key_facts]
    return _merged([(origins[start][0], origins[end - 1][1]) for start, end in filter(None, places)])


def _in(spelling: str, text: str) -> bool:
    return spelling != "" and spelling in text


def _first_place(text: str, spellings: list[str]) -> tuple[int, int] | None:
    places = [(text.find(spelling), len(spelling)) for spelling in spellings if _in(spelling, text)]
    if not places:
        return None
    start, length = min(places, key=lambda place: (place[0], -place[1]))
    return start, start + length


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
