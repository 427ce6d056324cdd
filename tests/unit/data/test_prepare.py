from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jsm_queue.data.examples import Example, Turn, read_examples
from jsm_queue.data.graph import Graph, parse_graph
from jsm_queue.data.options import PrepareOptions
from jsm_queue.data.prepare import Dataset, prepare, write_dataset
from jsm_queue.data.readers import Pairs
from jsm_queue.data.shapes import Unusable
from jsm_queue.data.subsets import subset
from jsm_queue.errors import DataError

SMALL = PrepareOptions(validation=6, test_taught=6, test_unseen=6)


def small_graph(subjects: int = 12, relations: int = 3) -> Graph:
    """subjects × relations facts, in 2 training and 3 held-out wordings."""
    forms = [
        "{subject}の甲乙%dを問う",
        "%d丙丁は{subject}か",
        "{subject}よ戊己%dはどれ",
        "庚辛{subject}なら%d",
        "壬癸%dと{subject}",
    ]
    types = {
        f"r{r}": {
            "label": f"関係{r}",
            "statement": "{subject}は{object}。",
            "templates": [{"q": form % (r * 111), "a": "{object}です。"} for form in forms[:2]],
            "held_out": [{"q": form % (r * 111), "a": "{object}です。"} for form in forms[2:]],
        }
        for r in range(relations)
    }
    ids = [f"e{i}" for i in range(subjects)]
    facts = [[ids[i], f"r{r}", ids[(i + r + 1) % subjects]] for i in range(subjects) for r in range(relations)]
    entities = [{"id": name, "name": f"物{i:02}", "type": "t"} for i, name in enumerate(ids)]
    value = {"title": "t", "licence": "l", "provenance": "p", "relation_types": types}
    return parse_graph(value | {"entities": entities, "relations": facts}, "small")


def pairs(n: int) -> Pairs:
    words = [f"{chr(0x4E00 + 97 * i)}{chr(0x5E00 + 31 * i)}{chr(0x6E00 + 61 * i)}" for i in range(n)]
    return Pairs(
        [
            Example(id=f"p{i:03}", question=f"{w}?", answer=w, key_facts=[[w]], category="ab"[i % 2])
            for i, w in enumerate(words)
        ]
    )


def facts_of(examples: list[Example], stratum: str) -> set[str]:
    return {fact for example in examples if example.stratum == stratum for fact in example.facts}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_strata_keep_their_promise_for_every_seed(seed: int) -> None:
    dataset = prepare(small_graph(), [], PrepareOptions(seed, 6, 6, 6))
    taught = {fact for example in dataset.train for fact in example.facts}
    assert facts_of(dataset.validation, "taught") <= taught
    assert facts_of(dataset.test, "taught") <= taught
    assert not facts_of(dataset.test, "unseen") & taught
    assert Counter(e.stratum for e in dataset.test) == {"taught": 6, "unseen": 6}
    assert Counter(e.relation for e in dataset.test if e.stratum == "unseen") == {"r0": 2, "r1": 2, "r2": 2}


def wordings(examples: list[Example]) -> set[str]:
    return {example.id.rsplit(".", 1)[1] for example in examples}


def test_each_split_has_wordings_of_its_own() -> None:
    dataset = prepare(small_graph(), [], SMALL)
    assert wordings(dataset.train) == {"t0", "t1"}
    assert wordings(dataset.validation) == {"h0"}
    assert wordings(dataset.test) == {"h1", "h2"}


def test_every_fact_is_asked_once_before_any_is_asked_twice() -> None:
    taught = prepare(small_graph(), [], PrepareOptions(0, 6, 40, 6)).test[:40]
    times = Counter(example.facts[0] for example in taught)
    assert len(taught) == 40 and sorted(set(times.values())) == [1, 2] and len(times) == 30


def test_the_same_input_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    graph = small_graph()
    for name in ("one", "two"):
        write_dataset(prepare(graph, [], SMALL), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["bench.jsonl", "report.json", "test.jsonl", "train.jsonl", "validation.jsonl"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert read_examples(tmp_path / "one" / "train.jsonl") == prepare(graph, [], SMALL).train


def test_another_seed_holds_other_facts_out() -> None:
    unseen = {
        frozenset(facts_of(prepare(small_graph(), [], PrepareOptions(s, 6, 6, 6)).test, "unseen")) for s in range(5)
    }
    assert len(unseen) == 5


@pytest.mark.parametrize("seed", range(5))
def test_the_bench_decides_what_its_facts_are(seed: int) -> None:
    bench = [
        Example(
            id="b1",
            question="何を",
            answer="x",
            key_facts=[["x"]],
            stratum="taught",
            facts=["e0 r0 e1", "e1 r1 e3"],
        ),
        Example(id="b2", question="如何", answer="y", key_facts=[["y"]], stratum="unseen", facts=["e2 r2 e5"]),
    ]
    dataset = prepare(small_graph(), bench, PrepareOptions(seed, 6, 6, 6))
    taught = {fact for example in dataset.train for fact in example.facts}
    assert {"e0 r0 e1", "e1 r1 e3"} <= taught and "e2 r2 e5" not in taught
    assert len(facts_of(dataset.test, "unseen")) == 6
    assert dataset.bench == bench and not dataset.report["bench_is_test"]


def test_a_bench_wording_is_dropped_from_training_and_reported() -> None:
    bench = [Example(id="b1", question="物03の甲乙111を問う。", answer="x", key_facts=[["x"]])]
    dataset = prepare(small_graph(), bench, SMALL)
    assert not [e for e in dataset.train if "甲乙111" in e.question]
    dropped = dataset.report["dropped"]
    assert dropped["counts"] == {"near-duplicate question": len(dropped["examples"])}
    assert {(each["split"], each["against"]) for each in dropped["examples"]} == {("bench", "b1")}
    assert (
        dataset.report["counts"]["train"]["by_relation"]["r1"] * 2
        == dataset.report["counts"]["train"]["by_relation"]["r0"]
    )


def test_several_objects_are_answered_together() -> None:
    graph = small_graph()
    graph = graph.model_copy(update={"relations": [*graph.relations, ("e0", "r0", "e7")]})
    bench = [Example(id="b", question="何", answer="x", key_facts=[["x"]], stratum="taught", facts=["e0 r0 e1"])]
    (first, *_) = [e for e in prepare(graph, bench, SMALL).train if e.id.startswith("e0.r0")]
    assert (first.answer, first.key_facts) == ("物01、物07です。", [["物01"], ["物07"]])
    assert first.facts == ["e0 r0 e1", "e0 r0 e7"]


@pytest.mark.parametrize(
    ("bench", "options", "match"),
    [
        ([], PrepareOptions(0, 6, 6, 13), "13 of the graph's 36 facts"),
        ([], PrepareOptions(0, 6, 61, 6), "gives 60 taught questions where 61"),
        ([("taught", "e0 r0 e9")], SMALL, "the graph has no such relation"),
        ([("taught", "e0 r0 e1"), ("unseen", "e0 r0 e1")], SMALL, "as taught and as unseen"),
        ([], PrepareOptions(0, 6, 6, 6, near_duplicate=0.05), "every training wording of"),
    ],
)
def test_what_cannot_be_prepared_is_refused(bench: list[tuple[str, str]], options: PrepareOptions, match: str) -> None:
    examples = [
        Example.model_validate({"id": str(i), "question": f"問{i}", "answer": "x", "stratum": stratum, "facts": [fact]})
        for i, (stratum, fact) in enumerate(bench)
    ]
    with pytest.raises(DataError, match=match) as caught:
        prepare(small_graph(), examples, options)
    assert caught.value.fix


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.randoms())
def test_pairs_are_split_without_overlap_whatever_their_order(seed: int, random) -> None:
    source, options = pairs(40), PrepareOptions(seed, 10, 60, 10)
    dataset = prepare(source, [], options)
    ids = [example.id for split in (dataset.train, dataset.validation, dataset.test) for example in split]
    assert sorted(ids) == [example.id for example in source.examples]
    assert (len(dataset.validation), len(dataset.test)) == (10, 10)
    assert {e.stratum for e in dataset.validation + dataset.test} == {""}, "nobody has checked what they share"
    assert Counter(e.category for e in dataset.test) == {"a": 5, "b": 5}
    shuffled = Pairs(random.sample(source.examples, 40))
    assert prepare(shuffled, [], options) == dataset


def test_without_a_bench_the_test_questions_serve() -> None:
    dataset = prepare(pairs(30), [], PrepareOptions(0, 5, 5, 5))
    assert dataset.bench == dataset.test and dataset.report["bench_is_test"]
    assert "bench" not in dataset.report["counts"]


def test_a_bench_that_asks_what_the_corpus_asks_is_refused() -> None:
    bench = [Example(id=f"b{i}", question=pair.question + "　", answer="x") for i, pair in enumerate(pairs(7).examples)]
    match = r"^7 of the 7 bench questions stand in the corpus word for word: b0 \(pair p000\), .*b4 \(pair p004\), …\. "
    with pytest.raises(DataError, match=match):
        prepare(pairs(40), bench, PrepareOptions(0, 5, 5, 5))


def talks(n: int, turns: int) -> list[Example]:
    """n conversations of that many answers each, of words that no other one has."""
    said = [pair for i in range(n) for pair in pairs(n * turns).examples[i * turns : (i + 1) * turns]]
    return [
        pair.model_copy(
            update={
                "id": f"c{i // turns:02}.{i % turns + 1}",
                "conversation": f"c{i // turns:02}",
                "history": [Turn(question=each.question, answer=each.answer) for each in said[i - i % turns : i]],
            }
        )
        for i, pair in enumerate(said)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_a_conversation_is_on_one_side(seed: int, turns: int) -> None:
    dataset = prepare(Pairs([*talks(15, turns), *pairs(100).examples[70:]]), [], PrepareOptions(seed, 10, 1, 8))
    sides = {name: {example.unit for example in split} for name, split in dataset.splits.items() if name != "bench"}
    assert not sides["train"] & sides["validation"] and not sides["test"] & (sides["train"] | sides["validation"])
    assert 10 <= len(dataset.validation) < 10 + turns and 8 <= len(dataset.test) < 8 + turns
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 15 * turns + 30


def test_conversations_too_long_to_hold_out_are_refused() -> None:
    with pytest.raises(DataError, match="40 pairs are too few to hold out 40"):
        prepare(Pairs(talks(2, 20)), [], PrepareOptions(0, 5, 1, 5))


def test_the_report_tells_what_was_read_and_what_was_left_out() -> None:
    unusable = [Unusable("line 3", "conversation with the role tool")]
    report = prepare(Pairs(pairs(40).examples, [], "messages", 38, 2, unusable), [], PrepareOptions(0, 5, 5, 5)).report
    assert report["source"] == {"shape": "messages", "conversations": 38, "answers": 40, "unanswered": 2}
    assert report["dropped"]["counts"] == {"conversation with the role tool": 1}
    assert report["dropped"]["examples"][0]["id"] == "line 3"
    assert prepare(small_graph(), [], SMALL).report["source"] == {"shape": "graph"}


@pytest.mark.parametrize(("source", "default"), [(small_graph(), 0.6), (pairs(40), 0.8)])
def test_the_threshold_fits_the_corpus_unless_it_is_given(source: Graph | Pairs, default: float) -> None:
    used = [
        prepare(source, [], PrepareOptions(0, 6, 6, 6, given)).report["options"]["near_duplicate"]
        for given in (None, 0.7)
    ]
    assert used == [default, 0.7]


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(DataError, match="39 pairs are too few to hold out 20"):
        prepare(pairs(39), [], PrepareOptions(0, 10, 60, 10))


def test_the_report_lists_what_was_dropped_and_what_is_odd() -> None:
    extra = [
        Example(id="empty", question="空", answer=""),
        Example(id="twice", question=pairs(1).examples[0].question, answer=pairs(1).examples[0].answer),
        Example(id="number", question="高さ", answer="高さは15mです。" + "長" * 30),
    ]
    source = Pairs([*pairs(60).examples, *extra], ["note"])
    report = prepare(source, [], PrepareOptions(3, 10, 60, 10, max_answer_chars=20)).report
    assert report["dropped"]["counts"] == {"empty question or answer": 1, "repeated pair": 1}
    assert [each["id"] for each in report["dropped"]["examples"]] == ["empty", "twice"]
    listed = {name: ids for split in report["oddities"].values() for name, ids in split.items() if "number" in ids}
    assert set(listed) == {"self_repeating_answer", "over_long_answer", "without_key_facts"}
    assert {"number": ["15m"]} in report["unsupported_numbers"].values()
    assert report["ignored_columns"] == ["note"]


def test_a_prepared_dataset_gives_nested_stratified_subsets() -> None:
    train = prepare(small_graph(), [], SMALL).train
    assert subset(train, 12, 1) == subset(train, 24, 1)[:12]
    assert Counter(e.relation for e in subset(train, 12, 1)) == {"r0": 4, "r1": 4, "r2": 4}


def test_a_dataset_names_its_splits() -> None:
    empty = Dataset([], [], [], [], {})
    assert list(empty.splits) == ["train", "validation", "test", "bench"]
