"""What is checked at submit is what `prepare` refuses, and what would only show after training."""

import json
from pathlib import Path
from typing import Any

import pytest

from jsm_queue.data.check import check_data
from jsm_queue.errors import DataError
from jsm_queue.kinds import FileRef
from jsm_queue.spec import StudySpec, parse_spec
from tests.pairs import pair, pair_lines

SOURCE, BENCH = FileRef(sha="a" * 64, suffix=".jsonl"), FileRef(sha="b" * 64, suffix=".jsonl")


def spec(n: int = 40, **changes: Any) -> StudySpec:
    value = {
        "name": "s",
        "data": {"source": "x.jsonl", "validation": 10, "test_unseen": 10},
        "bases": [{"name": "b", "source": "org/b"}],
        "stages": {"bases": {"n": n}},
    }
    return parse_spec(value | changes)


def files(folder: Path, source: str, bench: str | None = None) -> dict[str, Path]:
    texts = {SOURCE.sha: source} | ({BENCH.sha: bench} if bench is not None else {})
    for sha, text in texts.items():
        (folder / sha).write_text(text, encoding="utf-8")
    return {sha: folder / sha for sha in texts}


def test_as_many_as_remain_may_be_asked_for(tmp_path: Path) -> None:
    there = files(tmp_path, pair_lines(60))
    check_data(spec(40), SOURCE, None, there)
    with pytest.raises(DataError, match="41 training examples are asked for, 40 remain of 60: 20 are held out, 0"):
        check_data(spec(41), SOURCE, None, there)


def test_what_is_dropped_does_not_remain(tmp_path: Path) -> None:
    bench = json.dumps(pair(99, answer=pair(5)["answer"] * 4), ensure_ascii=False)
    near = json.dumps(pair(98, answer=pair(5)["answer"] * 4), ensure_ascii=False) + "\n"
    there = files(tmp_path, pair_lines(60) + near, bench)
    check_data(spec(40), SOURCE, BENCH, there)
    with pytest.raises(DataError, match=r"remain of 61: 20 are held out, \d dropped"):
        check_data(spec(42), SOURCE, BENCH, there)


def test_key_facts_are_asked_of_the_bench_where_there_is_one(tmp_path: Path) -> None:
    check_data(spec(), SOURCE, BENCH, files(tmp_path, pair_lines(60, key_facts=[]), json.dumps(pair(99))))
    with pytest.raises(DataError, match="bench questions have no key facts"):
        check_data(spec(), SOURCE, BENCH, files(tmp_path, pair_lines(60), json.dumps(pair(99, key_facts=[]))))


def test_another_judge_needs_no_key_facts(tmp_path: Path) -> None:
    there = files(tmp_path, pair_lines(60, key_facts=[]))
    with pytest.raises(DataError, match="test questions, which serve as the bench, have no key facts"):
        check_data(spec(), SOURCE, None, there)
    check_data(spec(judge={"kind": "gguf", "source": "judge.gguf"}), SOURCE, None, there)


def test_what_is_not_there_yet_is_not_checked(tmp_path: Path) -> None:
    check_data(spec(10**6), SOURCE, None, {})
    check_data(spec(10**6), SOURCE, BENCH, files(tmp_path, pair_lines(60)))
    with pytest.raises(DataError, match="not JSON"):
        check_data(spec(), SOURCE, BENCH, files(tmp_path, "{"))


def test_a_graph_tells_what_remains() -> None:
    graph = Path(__file__).parents[3] / "examples" / "river" / "graph.yaml"
    of_graph = spec(1311, data={"source": "graph.yaml"})
    with pytest.raises(DataError, match=r"1311 training examples are asked for, 1310 remain of the graph"):
        check_data(of_graph, FileRef(sha="c" * 64, suffix=".yaml"), None, {"c" * 64: graph})
