from pathlib import Path

import pytest

from jsm_queue.data.examples import Example, read_examples, write_examples
from jsm_queue.errors import DataError

EXAMPLES = [
    Example(
        id="a",
        question="堤防は何を防ぎますか。\u2028二行目",
        answer="氾濫です。",
        key_facts=[["氾濫", "洪水"]],
    ),
    Example(id="b", question="q", answer="a\nb", stratum="unseen", category="c", relation="r", facts=["x r y"]),
]


def test_written_examples_read_back(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_examples(path, EXAMPLES)
    assert read_examples(path) == EXAMPLES
    assert b"\r" not in path.read_bytes() and "氾濫" in path.read_text(encoding="utf-8")
    assert [each.name for each in tmp_path.iterdir()] == ["x.jsonl"]


@pytest.mark.parametrize("line", ["{", '{"id": "c"}', '{"id": "c", "question": "q", "answer": "a", "typo": 1}', "[]"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.jsonl"
    write_examples(path, EXAMPLES)
    path.write_text(path.read_text(encoding="utf-8") + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 4"):
        read_examples(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl"):
        read_examples(tmp_path / "none.jsonl")
