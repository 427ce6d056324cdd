"""When a machine may work, from its owner's words."""

from datetime import datetime

import pytest

from jsm_queue import hours
from jsm_queue.errors import SetupError
from jsm_queue.settings import settings


def at(text: str) -> datetime:
    """ "mon 21:59" of a week without a change of the clock."""
    day, time = text.split()
    return datetime.fromisoformat(f"2026-06-{1 + hours.DAYS.index(day):02d}T{time}")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("", ["mon 00:00", "sun 23:59"], []),
        ("22:00-08:00", ["mon 22:00", "tue 07:59", "mon 00:00"], ["mon 21:59", "mon 08:00"]),
        ("08:00-18:30", ["wed 08:00", "wed 18:29"], ["wed 18:30", "wed 07:59"]),
        ("fri 22:00-08:00", ["fri 22:00", "sat 07:59"], ["fri 07:00", "sat 22:00", "thu 23:00"]),
        ("sun 23:00-01:00", ["sun 23:30", "mon 00:59"], ["mon 23:30", "sun 00:30"]),
        (
            "mon-fri 22:00-08:00; sat,sun 00:00-24:00",
            ["sat 12:00", "sun 23:59", "sat 07:00"],
            ["fri 12:00", "mon 08:00"],
        ),
        ("Fri-Mon 0:00-24:00", ["fri 10:00", "sun 10:00", "mon 10:00"], ["tue 10:00", "thu 10:00"]),
        ("07:00-07:00", ["mon 06:59", "mon 07:00"], []),
        ("sat, sun 10:00 – 12:00", ["sat 11:00"], ["mon 11:00"]),
    ],
)
def test_spans(text: str, inside: list[str], outside: list[str]) -> None:
    spans = hours.parse(text)
    assert [time for time in inside if not hours.is_open(spans, at(time))] == []
    assert [time for time in outside if hours.is_open(spans, at(time))] == []


@pytest.mark.parametrize(
    "text", ["night", "22-08", "25:00-08:00", "22:60-23:00", "mo 22:00-08:00", "mon-xyz 1:00-2:00"]
)
def test_what_is_no_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="22:00-08:00"):
        hours.parse(text)


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSM_COURTESY_HOURS", "at night")
    settings.cache_clear()
    try:
        with pytest.raises(SetupError, match=r"JSM_COURTESY_HOURS.*'at night' is no span"):
            settings()
    finally:
        settings.cache_clear()
