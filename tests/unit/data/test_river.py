"""The shipped corpus keeps the promises of its README."""

from collections import Counter
from pathlib import Path

import pytest

from jsm_queue.data.examples import Example
from jsm_queue.data.graph import Graph, facts
from jsm_queue.data.keyfacts import key_fact_score, key_fact_spans
from jsm_queue.data.options import PrepareOptions
from jsm_queue.data.prepare import Dataset, prepare
from jsm_queue.data.readers import read_bench, read_source
from jsm_queue.data.similarity import masked, nearest

RIVER = Path(__file__).parents[3] / "examples" / "river"


@pytest.fixture(scope="module")
def graph() -> Graph:
    source = read_source(RIVER / "graph.yaml")
    assert isinstance(source, Graph)
    return source


@pytest.fixture(scope="module")
def bench() -> list[Example]:
    return read_bench(RIVER / "bench.yaml")


@pytest.fixture(scope="module")
def dataset(graph: Graph, bench: list[Example]) -> Dataset:
    return prepare(graph, bench, PrepareOptions())


def test_the_counts_are_those_of_the_readme(graph: Graph, dataset: Dataset) -> None:
    counts = {name: len(examples) for name, examples in dataset.splits.items()}
    print(
        f"\nriver: {len(graph.entities)} entities, {len(graph.relations)} relations,",
        counts,
        dataset.report["facts"],
    )
    assert (len(graph.entities), len(graph.relations), len(graph.relation_types)) == (420, 322, 15)
    assert counts == {"train": 1310, "validation": 60, "test": 120, "bench": 72}
    assert dataset.report["facts"] == {"total": 322, "taught": 262, "unseen": 60}
    readme = (RIVER / "README.md").read_text(encoding="utf-8")
    assert all(
        figure in readme for figure in ("420 entities", "322 relations", "15 types", "1 310 training", "262 taught")
    )


def test_each_relation_type_has_enough_wordings(graph: Graph) -> None:
    for key, relation_type in graph.relation_types.items():
        assert len(relation_type.templates) >= 4 and len(relation_type.held_out) >= 3, key


def test_a_question_has_one_right_answer_that_it_does_not_hold(graph: Graph) -> None:
    for fact in facts(graph):
        assert len(fact.objects) == 1, fact.name
        assert fact.objects[0].name not in fact.subject.name, fact.name


def test_two_entities_are_related_at_most_once(graph: Graph) -> None:
    pairs = Counter(frozenset((subject, end)) for subject, _, end in graph.relations)
    assert [sorted(pair) for pair, times in pairs.items() if times > 1] == []


def test_guessing_the_commonest_object_stays_poor(graph: Graph) -> None:
    for key in graph.relation_types:
        objects = [end for _, relation, end in graph.relations if relation == key]
        assert Counter(objects).most_common(1)[0][1] <= len(objects) / 4, key


def test_within_a_relation_type_no_object_hides_in_another(graph: Graph) -> None:
    names = {entity.id: entity.name for entity in graph.entities}
    for key in graph.relation_types:
        objects = {names[end] for _, relation, end in graph.relations if relation == key}
        hidden = [(a, b) for a in objects for b in objects if a != b and a in b]
        assert hidden == [], key


def test_all_wordings_differ_clearly(graph: Graph, bench: list[Example]) -> None:
    names = [entity.name for entity in graph.entities]
    for relation_type in graph.relation_types.values():
        taught = [wording.q.replace("{subject}", names[0]) for wording in relation_type.templates]
        others = [wording.q.replace("{subject}", names[0]) for wording in relation_type.held_out]
        assert nearest(masked(others, names), masked(taught, names), 0.5) == {}
    every = [
        wording.q.replace("{subject}", names[0])
        for relation_type in graph.relation_types.values()
        for wording in [*relation_type.templates, *relation_type.held_out]
    ]
    assert nearest(masked([e.question for e in bench], names), masked(every, names), 0.6) == {}


def test_answers_are_short_and_state_their_key_facts(dataset: Dataset) -> None:
    for examples in dataset.splits.values():
        for example in examples:
            assert len(example.answer) <= 25, example.id
            assert key_fact_score(example.answer, example.key_facts) == 3.0, example.id
            assert key_fact_spans(example.answer, example.key_facts), example.id


def test_nothing_is_dropped_or_odd(dataset: Dataset) -> None:
    assert dataset.report["dropped"]["examples"] == []
    assert not any(ids for split in dataset.report["oddities"].values() for ids in split.values())
    assert not any(dataset.report["unsupported_numbers"].values())


@pytest.mark.parametrize("seed", range(4))
def test_strata_hold_for_every_seed(graph: Graph, bench: list[Example], seed: int) -> None:
    dataset = prepare(graph, bench, PrepareOptions(seed=seed))
    taught = {fact for example in dataset.train for fact in example.facts}
    for example in [*dataset.validation, *dataset.test, *dataset.bench]:
        assert taught.issuperset(example.facts) if example.stratum == "taught" else taught.isdisjoint(example.facts)
    assert len(dataset.train) >= 1000
    assert len({example.facts[0] for example in dataset.test if example.stratum == "unseen"}) == 60


def test_the_bench_has_seven_taught_questions_and_two_unseen_ones_in_each_category(
    bench: list[Example],
) -> None:
    counts = Counter((example.category, example.stratum) for example in bench)
    assert len({category for category, _ in counts}) == 8
    assert all(times == (7 if stratum == "taught" else 2) for (_, stratum), times in counts.items())
