"""Rows of the four shapes, in the four forms, become the same examples."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from jsm_queue.data.examples import Example, Turn
from jsm_queue.data.readers import Pairs, read_bench, read_source
from jsm_queue.errors import DataError, SetupError

TURNS = [("堤防とは?", "盛土です。"), ("高さは?", "5mです。"), ("なぜ?", "水位で決まります。")]


def read(folder: Path, rows: list[dict[str, Any]], name: str = "x.jsonl") -> Pairs:
    path = folder / name
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    else:
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    source = read_source(path)
    assert isinstance(source, Pairs)
    return source


def messages(*roles: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"{i}{role}"} for i, role in enumerate(roles)]} | more


def chat(key: str, role: str, content: str, names: tuple[str, str]) -> dict[str, Any]:
    said = [(names[i % 2], text) for i, text in enumerate(text for turn in TURNS for text in turn)]
    return {
        "id": "c",
        "category": "河川",
        key: [{role: who, content: text} for who, text in [("system", "短く"), *said]],
    }


CONVERSATION = [
    Example(
        id=f"c.{i + 1}",
        question=question,
        answer=answer,
        history=[Turn(question=q, answer=a) for q, a in TURNS[:i]],
        system="短く",
        category="河川",
        conversation="c",
    )
    for i, (question, answer) in enumerate(TURNS)
]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (chat("conversations", "from", "value", ("human", "gpt")), "sharegpt"),
        (chat("conversations", "role", "content", ("user", "assistant")), "sharegpt"),
        (chat("messages", "role", "content", ("user", "assistant")), "messages"),
        (
            {
                "instruction": "なぜ?",
                "input": "",
                "output": "水位で決まります。",
                "history": [list(t) for t in TURNS[:2]],
            }
            | {"id": "c", "category": "河川", "system": "短く"},
            "alpaca",
        ),
    ],
)
def test_an_answer_is_an_example_with_the_turns_before_it(
    tmp_path: Path, row: dict[str, Any], shape: str, suffix: str
) -> None:
    source = read(tmp_path, [row], f"x{suffix}")
    assert source == Pairs(CONVERSATION, [], shape, 1)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.parquet"])
def test_pairs_read_alike_in_every_form(tmp_path: Path, name: str) -> None:
    rows = [
        {
            "question": "堤防は?",
            "answer": "氾濫\nを防ぐ",
            "key_facts": [["氾濫", "洪水"], ["堤防"]],
            "id": "a",
            "x": 1.5,
        },
        {"question": "護岸は?", "answer": "侵食", "key_facts": None, "id": None, "x": None},
    ]
    source = read(tmp_path, rows, name)
    assert [(e.id, e.answer, e.key_facts) for e in source.examples] == [
        ("a", "氾濫\nを防ぐ", [["氾濫", "洪水"], ["堤防"]]),
        (source.examples[1].id, "侵食", []),
    ]
    assert (source.shape, source.conversations, source.ignored) == ("pairs", 2, ["x"])


def test_a_json_file_may_hold_an_object_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"question": "q", "answer": "a"}\n' * 2, encoding="utf-8")
    source = read_source(tmp_path / "x.json")
    assert isinstance(source, Pairs) and len(source.examples) == 2


def test_alpaca_joins_instruction_and_input(tmp_path: Path) -> None:
    rows = [{"instruction": "訳せ", "input": "levee", "output": "堤防"}, {"instruction": "何?", "output": "答"}]
    assert [e.question for e in read(tmp_path, rows).examples] == ["訳せ\n\nlevee", "何?"]


def test_alpaca_reads_from_csv(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("instruction,input,output\n訳せ,levee,堤防\n何?,,答\n", encoding="utf-8")
    source = read_source(tmp_path / "x.csv")
    assert isinstance(source, Pairs)
    assert [(e.question, e.answer) for e in source.examples] == [("訳せ\n\nlevee", "堤防"), ("何?", "答")]


def test_key_facts_are_of_the_last_answer_or_of_their_message(tmp_path: Path) -> None:
    row = messages("user", "assistant", "user", "assistant", key_facts=["終"])
    row["messages"][1]["key_facts"] = [["初", "始"]]
    assert [e.key_facts for e in read(tmp_path, [row]).examples] == [[["初", "始"]], [["終"]]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (messages("user", "tool"), "conversation with the role tool"),
        (messages("user", "assistant", "function"), "conversation with the role function"),
        (messages("assistant", "user"), "conversation whose turns are out of order"),
        (messages("user", "user", "assistant"), "conversation whose turns are out of order"),
        (messages("user", "system", "assistant"), "conversation whose turns are out of order"),
        (messages("user"), "conversation without an answer"),
        (messages(), "conversation without an answer"),
        ({"messages": [{"role": "user", "content": " "}]}, "conversation with an empty message"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}]},
            "conversation with tool calls",
        ),
    ],
)
def test_what_cannot_be_taught_is_left_out_and_counted(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    source = read(tmp_path, [messages("user", "assistant"), row])
    assert [(each.where, each.reason) for each in source.unusable] == [("line 2", reason)]
    assert (len(source.examples), source.conversations) == (1, 1)
    with pytest.raises(DataError, match=r"x\.jsonl, line 2: conversation"):
        read_bench(tmp_path / "x.jsonl")


def test_a_last_question_without_answer_is_counted(tmp_path: Path) -> None:
    source = read(tmp_path, [messages("user", "assistant", "user"), messages("user", "assistant")])
    assert (source.unanswered, len(source.examples)) == (1, 2)


def test_what_means_nothing_in_a_message_is_listed(tmp_path: Path) -> None:
    row = messages("user", "assistant", source="web")
    row["messages"][1]["weight"] = 0
    assert read(tmp_path, [row]).ignored == ["messages[].weight", "source"]


def test_a_bench_asks_a_conversations_last_question(tmp_path: Path) -> None:
    read(tmp_path, [chat("messages", "role", "content", ("user", "assistant")), messages("user", "assistant")])
    bench = read_bench(tmp_path / "x.jsonl")
    assert [(e.question, len(e.history)) for e in bench] == [("なぜ?", 2), ("0user", 0)]


def test_ids_follow_the_content_of_a_conversation(tmp_path: Path) -> None:
    rows = [messages("user", "assistant", "user", "assistant"), messages("system", "user", "assistant")]
    one = {e.id for e in read(tmp_path, rows).examples}
    assert one == {e.id for e in read(tmp_path, rows[::-1]).examples} and len(one) == 3
    alone = read(tmp_path, [{"question": "1user", "answer": "2assistant"}]).examples[0].id
    assert alone not in one, "the system prompt counts"


def test_an_answers_id_may_not_be_another_rows(tmp_path: Path) -> None:
    rows = [messages("user", "assistant", "user", "assistant", id="c"), messages("user", "assistant", id="c.2")]
    with pytest.raises(DataError, match=r"line 2: the id 'c\.2' is already that of x\.jsonl, line 1"):
        read(tmp_path, rows)


@pytest.mark.parametrize("history", ["text", ["q"], [["q"]], [["q", 3]]])
def test_an_earlier_turn_of_alpaca_is_a_question_and_its_answer(tmp_path: Path, history: Any) -> None:
    with pytest.raises(DataError, match="line 1: history"):
        read(tmp_path, [{"instruction": "i", "output": "o", "history": history}])


def test_parquet_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SetupError, match=r"x\.parquet: .*pyarrow.*jsm-queue\[parquet\]"):
        read_source(tmp_path / "x.parquet")


def test_a_missing_parquet_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet"):
        read_source(tmp_path / "none.parquet")
