"""When a machine may work, as its owner writes it: "22:00-08:00", "mon-fri 22:00-08:00; sat,sun 00:00-24:00". Pure.

A span that ends before it begins goes on after midnight and belongs to the day on which it begins.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
SPAN = re.compile(r"(?:(?P<days>[a-z, -]+?)\s+)?(?P<begin>\d{1,2}:\d\d)\s*[-–]\s*(?P<end>\d{1,2}:\d\d)")
EXAMPLE = "write it like 22:00-08:00, or mon-fri 22:00-08:00; sat,sun 00:00-24:00"


@dataclass(frozen=True)
class Span:
    """From minute `begin` of each of the `days` (0 is Monday), for `length` minutes of local time."""

    days: frozenset[int]
    begin: int
    length: int


def parse(text: str) -> tuple[Span, ...]:
    """The spans of a text; none for an empty one. Raises ValueError, which says what is wrong and how it is written."""
    return tuple(_span(part) for part in re.split(r"[;\n]", text.lower()) if part.strip())


def check(text: str) -> str:
    """The text itself, where `parse` understands it. Raises ValueError."""
    parse(text)
    return text


def is_open(spans: tuple[Span, ...], at: datetime) -> bool:
    """Whether one of the spans covers that local time. No spans: always."""
    minute = at.hour * 60 + at.minute
    today, yesterday = at.weekday(), (at.weekday() - 1) % 7
    return not spans or any(
        (today in span.days and 0 <= minute - span.begin < span.length)
        or (yesterday in span.days and minute + DAY_MINUTES - span.begin < span.length)
        for span in spans
    )


def _span(part: str) -> Span:
    found = SPAN.fullmatch(part.strip())
    if not found:
        raise ValueError(f"{part.strip()!r} is no span of hours; {EXAMPLE}")
    begin, end = _minute(found["begin"]), _minute(found["end"])
    return Span(frozenset(_days(found["days"])), begin, (end - begin - 1) % DAY_MINUTES + 1)


def _minute(text: str) -> int:
    hour, minute = map(int, text.split(":"))
    if minute > 59 or hour * 60 + minute > DAY_MINUTES:
        raise ValueError(f"{text} is no time of a day; {EXAMPLE}")
    return hour * 60 + minute


def _days(text: str | None) -> Iterator[int]:
    if text is None:
        yield from range(7)
        return
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{part!r} is no day; {EXAMPLE}")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        yield from ((begin + i) % 7 for i in range((end - begin) % 7 + 1))
