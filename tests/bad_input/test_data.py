"""Data that cannot be used: `jsm plan` and `jsm submit` say so in one line, exit with 2, and have done nothing."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from jsm_queue.cli import main as command
from jsm_queue.cli import studies
from jsm_queue.errors import DataError
from tests.pairs import pair, pair_lines

EXAMPLES = Path(__file__).parents[2] / "examples" / "river"

SPEC: dict[str, Any] = {
    "name": "s",
    "data": {"source": "data.jsonl", "validation": 10, "test_unseen": 10},
    "bases": [{"name": "b", "source": "org/never-asked"}],
    "stages": {"scale": {"base": "b", "sizes": [5, 20]}},
}
NO_FACTS = {"key_facts": []}

TALK = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'

Plan = Callable[..., str]


def line(**row: Any) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plan:
    """Runs `jsm plan` on a study of these files. Returns the one line of its error, and holds it to the form."""

    def run(files: dict[str, str | bytes], stages: dict[str, Any] | None = None, **data: Any) -> str:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        spec = SPEC | {"data": SPEC["data"] | data} | ({"stages": stages} if stages else {})
        (tmp_path / "study.yaml").write_text(json.dumps(spec), encoding="utf-8")
        monkeypatch.setenv("JSM_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(sys, "argv", ["jsm", "plan", str(tmp_path / "study.yaml"), "--dry-run"])
        with pytest.raises(SystemExit) as ended:
            command.main()
        shown = capsys.readouterr()
        assert ended.value.code == 2, shown.err
        assert shown.out == "" and not (tmp_path / "home").exists()
        told = " ".join(shown.err.split())
        assert told.startswith("error: ") and " — " in told and "Traceback" not in told
        return told

    return run


MALFORMED: list[tuple[str, str | bytes, str]] = [
    ("empty", "", "data.jsonl: no question–answer pairs in it"),
    ("blank lines", "\n\n \n", "data.jsonl: no question–answer pairs in it"),
    ("another encoding", pair_lines(3).encode("utf-16"), "data.jsonl, line 1: not UTF-8 (byte 0xff)"),
    ("another encoding at line 3", pair_lines(2).encode() + b"\xff", "data.jsonl, line 3: not UTF-8 (byte 0xff)"),
    ("NUL in a question", pair_lines(1) + line(question="a\0", answer="a"), "line 2: question holds the character NUL"),
    ("NUL in a message", TALK.replace('"a"', '"\\u0000"'), "line 1: messages[1]: content holds the character NUL"),
    ("NUL in a history", line(instruction="q", output="a", history=[["\0", "b"]]), "history holds the character NUL"),
    (
        "a key twice",
        pair_lines(1) + '{"question": "q", "answer": "a", "answer": "b"}',
        "line 2: the key 'answer' is twice",
    ),
    ("malformed at line 3", pair_lines(2) + '{"question": \n', "data.jsonl, line 3: not JSON"),
    ("a list at line 2", pair_lines(1) + "[1]\n", "data.jsonl, line 2: not a JSON object"),
    ("nesting without end", '{"question": ' + "[" * 100_000, "data.jsonl, line 1: JSON that cannot be read"),
    ("an endless number", '{"question": ' + "1" * 5000 + "}", "data.jsonl, line 1: JSON that cannot be read"),
    ("half a character", line(question="\ud800", answer="a").replace("\ud800", "\\ud800"), "half of a surrogate pair"),
    ("no answer at line 2", pair_lines(1) + line(question="q"), "data.jsonl, line 2: answer is missing"),
    ("null answers", line(question="q", answer=None), "data.jsonl, line 1: answer is missing"),
    ("without answers", pair_lines(50, answer=" "), "none of its 50 questions has an answer"),
    ("an unknown shape", line(frage="q", antwort="a"), "line 1: of no known shape; the keys are: frage, antwort"),
    ("two shapes in a row", line(question="q", answer="a", messages=[]), "has the keys of question/answer and of"),
    ("two shapes in a file", pair_lines(1) + line(instruction="q", output="a"), "line 2: is of the shape alpaca"),
    ("a number as answer", line(question="q", answer=3), "line 1: answer is the number 3, not text"),
    ("a list as question", line(question=["q"], answer="a"), "line 1: question is a list, not text"),
    ("true as id", line(question="q", answer="a", id=True), "line 1: id is the truth value True"),
    ("a number as category", line(question="q", answer="a", category=2), "line 1: category is the number 2"),
    ("text as key facts", pair_lines(1, key_facts="x"), 'line 1: key_facts is text, not a list such as ["氾濫"'),
    ("a number as key fact", pair_lines(1, key_facts=["a", 3]), "line 1: key_facts[1] is the number 3"),
    ("a repeated id", pair_lines(2, id="i"), "line 2: the id 'i' is already that of data.jsonl, line 1"),
    ("messages that are text", line(messages="hello"), "line 1: messages is text, not a list of messages"),
    ("a message that is text", line(messages=["hello"]), "line 1: messages[0] is text, not a message"),
    ("a message without role", line(messages=[{"text": "hello"}]), "messages[0] has neither role nor from"),
    ("a message of parts", line(messages=[{"role": "user", "content": [{}]}]), "messages[0]: content is a list"),
    (
        "tool calls only",
        line(messages=[{"role": "tool", "content": "x"}]) * 2,
        "none of its 2 rows can be used (2 ",
    ),
    ("too few", pair_lines(39), "39 pairs are too few to hold out 20"),
]


@pytest.mark.parametrize(("content", "said"), [each[1:] for each in MALFORMED], ids=[each[0] for each in MALFORMED])
def test_what_is_wrong_with_a_corpus_is_told(plan: Plan, content: str | bytes, said: str) -> None:
    assert said in plan({"data.jsonl": content})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data.csv", "frage,answer\nq,a\n", "data.csv, line 2: question is missing; the keys are: frage, answer"),
        ("data.csv", "question;answer\nq;a\n", "of no known shape; the keys are: question;answer"),
        ("data.csv", "question,question\nq,a\n", "two columns have the name 'question'"),
        ("data.csv", 'question,answer\nq,"a', "data.csv, after line"),
        ("data.csv", "question,answer\n堤防,氾濫\n".encode("shift_jis"), "not UTF-8"),
        ("data.json", '[{"question": "q"}, 3]', "data.json, item 2: not a JSON object"),
        ("data.json", '[{"question": "q"}', "data.json, line 1: not JSON"),
        ("data.parquet", "no parquet", "data.parquet: not a Parquet file that can be read"),
        ("data.parquet", "", "data.parquet: not a Parquet file that can be read"),
        ("data.xlsx", "x", "data.source: data.xlsx ends in .xlsx, not in .yaml"),
        ("data.yaml", "a: [", "data.yaml, line 1"),
        ("data.yaml", "a: 2020-13-45", "data.yaml: not valid YAML"),
        ("data.yaml", "[" * 5000, "data.yaml"),
        ("data.yaml", "title: t\nentities: []", "data.yaml: licence: Field required"),
    ],
)
def test_what_is_wrong_with_another_form_is_told(plan: Plan, name: str, content: str | bytes, said: str) -> None:
    assert said in plan({name: content}, source=name)


@pytest.mark.parametrize(
    ("bench", "said"),
    [
        (line(id="b", **pair(900)) + line(id="b", **pair(901)), "bench.jsonl, line 2: the id 'b' is already that of"),
        (pair_lines(3), "3 of the 3 bench questions stand in the corpus word for word"),
        (line(**(pair(900) | NO_FACTS)), "1 of the 1 bench questions have no key facts to be judged by"),
        (TALK + line(messages=[{"role": "user", "content": "q"}]), "line 2: conversation without an answer"),
        ("", "bench.jsonl: no question–answer pairs"),
    ],
)
def test_what_is_wrong_with_a_bench_is_told(plan: Plan, bench: str, said: str) -> None:
    assert said in plan({"data.jsonl": pair_lines(60), "bench.jsonl": bench}, bench="bench.jsonl")


def test_a_repeated_question_of_a_bench_in_yaml_is_told(plan: Plan) -> None:
    question = "{id: b, question: 何か, reference: a, key_facts: [[a]]}"
    files = {"data.jsonl": pair_lines(60), "bench.yaml": f"questions: [{question}, {question}]"}
    assert "bench.yaml, question 2: the id 'b' is already that of bench.yaml, question 1" in plan(
        files, bench="bench.yaml"
    )


def test_test_questions_that_serve_as_bench_need_key_facts(plan: Plan) -> None:
    said = plan({"data.jsonl": pair_lines(60, **NO_FACTS)})
    assert "10 of the 10 test questions, which serve as the bench, have no key facts" in said


def test_a_size_larger_than_the_data_says_how_many_remain(plan: Plan) -> None:
    files = {"data.jsonl": pair_lines(60) + pair_lines(1)}
    said = plan(files, {"scale": {"base": "b", "sizes": [5, 41, 50]}})
    assert "stages.scale.sizes: 41, 50 training examples are asked for, 40 remain of 61: 20 are held out" in said
    assert "stages.bases.n: 41 training examples are asked for, 40 remain" in plan(files, {"bases": {"n": 41}})


GRAPH = (EXAMPLES / "graph.yaml").read_text(encoding="utf-8")
BENCH = (EXAMPLES / "bench.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "bench", "said"),
    [
        (f"{BENCH}\n# the same", BENCH, "g.yaml: it looks like a bench, expected is a graph (relation_types"),
        (GRAPH, GRAPH, "b.yaml: it looks like a graph, expected is a bench (questions)"),
        (GRAPH, json.dumps(SPEC), "b.yaml: it looks like a study, expected is a bench"),
        ("", BENCH, "g.yaml: it is empty, expected is a graph"),
        ("- a\n", BENCH, "g.yaml: it holds a list, expected is a graph"),
        ("a: b\n", BENCH, "g.yaml: it has none of the keys, expected is a graph"),
        (GRAPH, f"{BENCH}\n---\na: b\n", "a second document begins (---), and one is read"),
        (f'a: 1\nb: ["x", "\\0"]\n{GRAPH}', BENCH, "g.yaml, line 2: a text holds the character NUL"),
        (GRAPH, f'a: 1\nb: "\\ud800"\n{BENCH}', "b.yaml, line 2: a text holds half of a surrogate pair"),
    ],
)
def test_what_is_wrong_with_yaml_is_told(plan: Plan, source: str, bench: str, said: str) -> None:
    assert said in plan({"g.yaml": source, "b.yaml": bench}, source="g.yaml", bench="b.yaml")


@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
def test_nul_in_other_files_is_told(plan: Plan, tmp_path: Path, name: str) -> None:
    if name == "data.csv":
        content = b'question,answer\nq,"a\0"\n'
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"question": ["q"], "answer": ["a\0"]}), tmp_path / name)
        content = (tmp_path / name).read_bytes()
    assert "answer holds the character NUL" in plan({name: content}, source=name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_no_data(plan: Plan, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "data.source: " in (said := plan({}, source="pipe.jsonl")) and "is no regular file" in said


def test_a_missing_file_is_told(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.source: .*data\.jsonl does not exist"):
        studies.resolve.resolve(studies.read_spec(write_spec(tmp_path)), tmp_path)
    (tmp_path / "data.jsonl").mkdir()
    with pytest.raises(DataError, match=r"data\.source: .*data\.jsonl is no regular file"):
        studies.resolve.resolve(studies.read_spec(write_spec(tmp_path)), tmp_path)


def write_spec(folder: Path) -> Path:
    (folder / "study.yaml").write_text(json.dumps(SPEC), encoding="utf-8")
    return folder / "study.yaml"


def test_nothing_is_uploaded_for_data_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(pair_lines(39), encoding="utf-8")

    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.method} {request.url} came before the data were read")

    api = httpx.Client(base_url="http://api", transport=httpx.MockTransport(answer))
    with pytest.raises(DataError, match="too few"):
        studies.send(api, write_spec(tmp_path), quiet=True)
