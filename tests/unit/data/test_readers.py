import json
from pathlib import Path

import pytest
import yaml

from jsm_queue.data.graph import Graph, parse_graph
from jsm_queue.data.readers import Pairs, read_bench, read_source
from jsm_queue.errors import DataError

WORDINGS = [{"q": f"{{subject}}の{i}番は?", "a": "{object}です。"} for i in range(6)]
GRAPH = {
    "title": "t",
    "licence": "CC0-1.0",
    "provenance": "p",
    "relation_types": {
        "prevents": {
            "label": "防ぐ",
            "statement": "{subject}は{object}を防ぐ。",
            "templates": WORDINGS[:4],
            "held_out": WORDINGS[4:],
        }
    },
    "entities": [{"id": "a", "name": "堤防"}, {"id": "b", "name": "氾濫"}],
    "relations": [["a", "prevents", "b"]],
}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def pairs_of(path: Path) -> Pairs:
    source = read_source(path)
    assert isinstance(source, Pairs)
    return source


def test_jsonl_pairs(tmp_path: Path) -> None:
    rows = [
        {
            "question": "堤防は?",
            "answer": "氾濫を防ぐ。",
            "key_facts": ["氾濫", ["洪水", "出水"]],
            "id": 7,
            "note": "x",
        },
        {"question": "護岸は?", "answer": " 侵食を防ぐ。 ", "category": "設計"},
    ]
    text = "\ufeff" + "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    source = pairs_of(write(tmp_path / "pairs.jsonl", text))
    assert source.ignored == ["note"]
    first, second = source.examples
    assert (first.id, first.key_facts) == ("7", [["氾濫"], ["洪水", "出水"]])
    assert (second.answer, second.category, second.key_facts) == ("侵食を防ぐ。", "設計", [])


def test_csv_pairs_equal_jsonl_pairs(tmp_path: Path) -> None:
    text = '\ufeffquestion,answer,key_facts,category\r\n"堤防, 護岸は?","氾濫を\r\n防ぐ。",氾濫|洪水; 堤防 ,計画\r\n'
    from_csv = pairs_of(write(tmp_path / "pairs.csv", text)).examples
    row = {
        "question": "堤防, 護岸は?",
        "answer": "氾濫を\n防ぐ。",
        "key_facts": [["氾濫", "洪水"], ["堤防"]],
        "category": "計画",
    }
    assert from_csv == pairs_of(write(tmp_path / "pairs.jsonl", json.dumps(row))).examples


def test_ids_follow_the_content_not_the_line(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"q{i}", "answer": "a"}) for i in range(3)]
    one = pairs_of(write(tmp_path / "a.jsonl", "\n".join(lines))).examples
    two = pairs_of(write(tmp_path / "b.jsonl", "\n".join(reversed(lines)))).examples
    assert {e.id: e for e in one} == {e.id: e for e in two} and len({e.id for e in one}) == 3


def test_the_suffix_may_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "content", '{"question": "q", "answer": "a"}')
    assert isinstance(read_source(path, ".jsonl"), Pairs)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("x.jsonl", '{"question": "q", "answer": "a"}\n{"question": "q"}', "line 2: answer"),
        ("x.jsonl", '{"question": "q", "answer": "a"}\n\n{oops', "line 3: not JSON"),
        ("x.jsonl", "[1]", "line 1: not a JSON object"),
        ("x.jsonl", "\n", "no question"),
        ("x.jsonl", '{"question": "q", "answer": "a", "key_facts": 3}', "line 1: key_facts"),
        (
            "x.jsonl",
            '{"id": "i", "question": "q", "answer": "a"}\n' * 2,
            "line 2: the id 'i' is already that of",
        ),
        ("x.jsonl", json.dumps({"id": "i" * 121, "question": "q", "answer": "a"}), "line 1: id: .*longer than 120"),
        ("x.jsonl", '{"id": "a\\u0007b", "question": "q", "answer": "a"}', "line 1: id: .*control character"),
        ("x.csv", 'id,question,answer\n"a\nb",q,a\n', "line 3: id: .*control character"),
        ("x.csv", "frage,answer\nq,a\n", "line 2: question is missing"),
        ("x.csv", "question,answer\nq\n", "line 2: answer"),
        ("x.csv", "question,answer\nq,a,b\n", "line 2: more cells"),
        ("x.csv", 'question,answer\nq,"a', "after line 1"),
        ("x.txt", "q a", "form .txt"),
        ("x.yaml", "a: [", "x.yaml, line 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_source(write(tmp_path / name, text))
    assert caught.value.fix


def test_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("question,answer\n堤防,氾濫\n".encode("shift_jis"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_source(path)


def test_a_graph_reads(tmp_path: Path) -> None:
    source = read_source(write(tmp_path / "g.yaml", yaml.safe_dump(GRAPH, allow_unicode=True)))
    assert isinstance(source, Graph) and source.relations == [("a", "prevents", "b")]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"relations": [["a", "prevents", "c"]]}, "no entity has the id 'c'"),
        ({"relations": [["a", "stops", "b"]]}, "'stops' is not one of the relation types"),
        ({"relations": [["a", "prevents", "b"]] * 2}, "is there twice"),
        ({"relations": []}, "relations"),
        (
            {"entities": [*GRAPH["entities"], {"id": "c", "name": "氾濫"}]},
            "two entities have the name '氾濫'",
        ),
        ({"entities": [*GRAPH["entities"], {"id": "b", "name": "高潮"}]}, "two entities have the id 'b'"),
        ({"entities": [{"id": 1, "name": "堤防"}]}, "entities.0.id"),
        ({"entities": [{"id": "a" * 51, "name": "堤防"}]}, "entities.0.id"),
        ({"entities": [{"id": "a\u0007", "name": "堤防"}]}, "entities.0.id"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_graph_is_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(DataError, match=match):
        parse_graph(GRAPH | change, "g.yaml")


@pytest.mark.parametrize(
    ("wordings", "match"),
    [
        ({"templates": [{"q": "何?", "a": "{object}"}]}, "must hold {subject}"),
        ({"templates": [{"q": "{subject}は?", "a": "はい"}]}, "must hold {object}"),
        ({"held_out": [WORDINGS[0], WORDINGS[5]]}, "is there twice"),
        ({"held_out": WORDINGS[5:]}, "held_out"),
    ],
)
def test_wrong_wordings_are_refused(wordings: dict[str, object], match: str) -> None:
    relation_type = GRAPH["relation_types"]["prevents"] | wordings
    with pytest.raises(DataError, match=match):
        parse_graph(GRAPH | {"relation_types": {"prevents": relation_type}}, "g.yaml")


def test_a_bench_reads_from_yaml_and_from_pairs(tmp_path: Path) -> None:
    question = {
        "id": "b1",
        "question": "q",
        "reference": "氾濫",
        "key_facts": [["氾濫"]],
        "facts": [["a", "r", "b"]],
    }
    text = yaml.safe_dump({"questions": [question | {"stratum": "taught"}]}, allow_unicode=True)
    (one,) = read_bench(write(tmp_path / "b.yaml", text))
    assert (one.answer, one.facts, one.stratum) == ("氾濫", ["a r b"], "taught")
    (two,) = read_bench(write(tmp_path / "b.jsonl", '{"question": "q", "answer": "a"}'))
    assert (two.answer, two.stratum) == ("a", "")


@pytest.mark.parametrize(
    ("questions", "match"),
    [
        ([{"id": "b1", "question": "q", "reference": "a", "key_facts": []}], "questions.0.key_facts"),
        (
            [{"id": "b1", "question": "q", "reference": "a", "key_facts": [["a"]], "stratum": "new"}],
            "stratum",
        ),
        ([{"id": "b1", "question": "q", "reference": "a", "key_facts": [["a"]]}] * 2, "the id 'b1'"),
        ([{"id": "b" * 121, "question": "q", "reference": "a", "key_facts": [["a"]]}], "questions.0.id: .*longer"),
        ([], "questions"),
    ],
)
def test_a_wrong_bench_is_refused(tmp_path: Path, questions: list[object], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_bench(write(tmp_path / "b.yaml", yaml.safe_dump({"questions": questions})))
