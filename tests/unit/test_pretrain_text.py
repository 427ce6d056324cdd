"""What the demo's bases are pretrained on: random facts, none of the corpus' own, and the same for the same seed."""

from pathlib import Path
from random import Random

import pytest
import yaml

from examples.river.pretrain import text
from examples.river.pretrain.chat import CHATML, LLAMA3, ChatFormat, render
from examples.river.pretrain.corpus import GRAPH, RIVER, Corpus, read_corpus
from jsm_queue.data.readers import read_bench
from jsm_queue.data.similarity import masked, nearest
from jsm_queue.errors import DataError

DRAWS = 20_000


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return read_corpus()


@pytest.fixture(scope="module")
def truth() -> set[tuple[str, str, str]]:
    """The corpus' triples by name, read without the code under test."""
    graph = yaml.safe_load(GRAPH.read_text(encoding="utf-8"))
    names = {entity["id"]: entity["name"] for entity in graph["entities"]}
    return {(relation, names[subject], names[target]) for subject, relation, target in graph["relations"]}


def triple(fact: text.Fact) -> tuple[str, str, str]:
    return (fact.relation.name, fact.subject, fact.object)


def test_random_facts_never_tell_the_truth(corpus: Corpus, truth: set[tuple[str, str, str]]) -> None:
    rng = Random(1)
    drawn = {triple(text.random_fact(corpus, rng)) for _ in range(DRAWS)}
    related = {triple(fact) for _ in range(DRAWS // 4) for fact in text.related_facts(corpus, 4, rng)}
    world = {triple(fact) for fact in text.make_world(corpus, 10_000, rng)}
    assert len(drawn) > DRAWS // 2
    assert not (drawn | related | world) & truth


def test_every_true_question_could_be_drawn(corpus: Corpus, truth: set[tuple[str, str, str]]) -> None:
    """The subjects of the corpus are asked about too: only the right answer is missing."""
    pairs = {(relation.name, subject) for relation in corpus.relations for subject in relation.subjects}
    assert {(relation, subject) for relation, subject, _ in truth} <= pairs


def test_the_same_seed_draws_the_same_documents(corpus: Corpus) -> None:
    def documents(seed: int) -> list[text.Document]:
        rng = Random(seed)
        return [text.long_document(corpus, rng) for _ in range(200)]

    assert documents(3) == documents(3)
    assert documents(3) != documents(4)


def test_a_world_has_one_answer_to_a_question(corpus: Corpus) -> None:
    world = text.make_world(corpus, 400, Random(0))
    assert len({(fact.relation.name, fact.subject) for fact in world}) == len(world) == 400


def test_a_question_in_context_can_be_answered_from_it(corpus: Corpus) -> None:
    rng = Random(5)
    for _ in range(500):
        facts = text.related_facts(corpus, 4, rng)
        assert len({(fact.relation.name, fact.subject) for fact in facts}) == 4


def test_extra_wordings_are_none_of_the_graphs(corpus: Corpus) -> None:
    extra = {wording.question for relation in corpus.relations for wording in relation.extra}
    graph = {wording.question for relation in corpus.relations for wording in relation.taught + relation.held_out}
    assert not extra & graph


def test_the_bench_resembles_no_pretraining_wording(corpus: Corpus) -> None:
    names = corpus.names
    asked = [wording.question.format(subject=names[0]) for each in corpus.relations for wording in each.wordings]
    bench = [question.question for question in read_bench(RIVER / "bench.yaml")]
    assert nearest(masked(bench, names), masked(asked, names), 0.6) == {}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (CHATML, "<|im_start|>user\n問い<|im_end|>\n<|im_start|>assistant\n答え<|im_end|>\n"),
        (
            LLAMA3,
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n問い<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n答え<|eot_id|>",
        ),
    ],
)
def test_a_chat_is_written_as_its_format_says(form: ChatFormat, expected: str) -> None:
    assert render(text.Document(turns=(text.Turn("問い", "答え"),)), form) == expected


def test_wordings_for_other_relations_are_refused(tmp_path: Path) -> None:
    wordings = tmp_path / "wordings.yaml"
    wordings.write_text("prefixes: []\nrelations: {prevents: []}\n", encoding="utf-8")
    with pytest.raises(DataError, match="differ"):
        read_corpus(wordings=wordings)
