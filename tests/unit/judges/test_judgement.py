"""A model's text becomes a judgement, or is counted as what it is; nothing of it breaks a store."""

import json

import pytest

from workers.judges.judgement import OUTPUT_CHARS, clean, read_judgement

GOOD = '{"reason": "要点を述べている", "score": 2}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f'<think>\nmaybe {{"reason": "", "score": 3}}\n</think>\n{GOOD}',
        '{"score": 2, "reason": "要点を述べている", "more": 1}',
    ],
)
def test_a_judgement_is_read(text: str) -> None:
    found = read_judgement(text, cut=False)
    assert (found.score, found.reason, found.problem) == (2, "要点を述べている", None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "申し訳ありませんが、採点できません。",
        '{"reason": "x", "score": 7}',
        '{"reason": "x", "score": -1}',
        '{"reason": "x", "score": true}',
        '{"reason": "x", "score": 2.5}',
        '{"reason": "x", "score": "3"}',
        '{"reason": null, "score": 3}',
        '{"score": 3}',
        '{"reason": "x"}',
        '[{"reason": "x", "score": 3}]',
        f"The answer says {GOOD}",
        f"{GOOD}{GOOD}",
        "<think>" + GOOD,
        '{"reason": "x", "score": ' + "9" * 5000 + "}",
        "[" * 100_000,
        "null",
    ],
)
def test_anything_else_has_no_score_and_is_shown(text: str) -> None:
    found = read_judgement(text, cut=False)
    assert (found.score, found.problem) == (None, "unparsable")
    assert found.output == text[:OUTPUT_CHARS]


def test_what_was_cut_off_is_told_from_what_cannot_be_read() -> None:
    assert read_judgement('{"reason": "it goes on and', cut=True).problem == "truncated"
    assert read_judgement(GOOD, cut=True).score == 2, "whole before the limit"


def test_raw_line_breaks_in_a_reason_are_read() -> None:
    assert read_judgement('{"reason": "a\nb", "score": 1}', cut=False).reason == "a\nb"


def test_what_is_kept_is_text_that_every_store_takes() -> None:
    found = read_judgement(json.dumps({"reason": "a\0b\ud800c" + "x" * 5000, "score": 1}), cut=False)
    assert found.reason.startswith("ab?c") and len(found.reason) <= 1000
    assert clean("\ud83d\0" * 10, 4) == "??"
