"""`make bench-near-duplicates`: from which bigram Jaccard on is a question a near duplicate of a held-out one?

On the river graph's questions: a question against light edits of itself (which must be dropped from training), against
the same fact in other words and against questions about other facts (which must stay). In a graph the entity names are
masked; among a user's pairs they are not, and there one wording about another entity is a question of its own.
"""

import random
from collections.abc import Iterator
from functools import partial

import yaml

from benchmarks.form import ROOT, Row, report
from jsm_queue.data.examples import Example
from jsm_queue.data.graph import Fact, Graph, facts
from jsm_queue.data.options import GRAPH_NEAR_DUPLICATE, PAIRS_NEAR_DUPLICATE, PrepareOptions
from jsm_queue.data.prepare import divide
from jsm_queue.data.readers import Pairs, read_source
from jsm_queue.data.similarity import bigrams, jaccard, masked

RIVER = ROOT / "examples" / "river"
THRESHOLDS = [round(0.5 + 0.05 * step, 2) for step in range(10)]
WORDINGS = 4  # of a fact, each edited
OTHERS = 12  # pairs a fact of each kind that must stay
KANA = {"何": "なに", "主に": "おもに", "作": "つく", "造": "つく", "持": "も", "行": "おこな"}

Couple = tuple[str, str]
Alike = dict[str, list[float]]
"""kind of couple → the Jaccard of each"""


def main() -> int:
    """Returns the exit status."""
    graph = read_source(RIVER / "graph.yaml")
    assert isinstance(graph, Graph)
    couples = gather(graph)
    names = [entity.name for entity in graph.entities]
    in_graph = {kind: [alike(couple, names) for couple in each] for kind, each in couples.items() if kind != "entity"}
    in_pairs = {kind: [alike(couple, []) for couple in each] for kind, each in couples.items()}
    rows = [*curve("graph", in_graph), *curve("pairs", in_pairs), *lost(graph)]
    return report("near_duplicates", rows)


def gather(graph: Graph) -> dict[str, list[Couple]]:
    """Couples of questions by kind: edited, reworded, other (fact), entity (one wording about another one)."""
    rng = random.Random(0)
    every = facts(graph)
    wordings = all_wordings(graph)
    couples: dict[str, list[Couple]] = {"edited": [], "reworded": [], "other": [], "entity": []}
    for fact in every:
        asked = [ask(wording, fact) for wording in wordings[fact.relation]]
        for question in rng.sample(asked, WORDINGS):
            couples["edited"] += [(question, edited) for edited in edits(question, rng)]
        couples["reworded"] += [tuple(rng.sample(asked, 2)) for _ in range(OTHERS)]  # type: ignore[misc]
        for _ in range(OTHERS):
            other = rng.choice([each for each in every if each.relation != fact.relation])
            couples["other"].append((rng.choice(asked), ask(rng.choice(wordings[other.relation]), other)))
            same = rng.choice([each for each in every if each.relation == fact.relation and each != fact])
            wording = rng.choice(wordings[fact.relation])
            couples["entity"].append((ask(wording, fact), ask(wording, same)))
    return couples


def all_wordings(graph: Graph) -> dict[str, list[str]]:
    """Relation → all its wordings: of training, held out, and of the bases' pretraining. Each was written by hand."""
    pretrain = yaml.safe_load((RIVER / "pretrain" / "wordings.yaml").read_text(encoding="utf-8"))["relations"]
    return {
        key: [wording.q for wording in [*kind.templates, *kind.held_out]] + [each["q"] for each in pretrain[key]]
        for key, kind in graph.relation_types.items()
    }


def ask(wording: str, fact: Fact) -> str:
    """The question about that fact."""
    return wording.replace("{subject}", fact.subject.name)


def edits(question: str, rng: random.Random) -> list[str]:
    """The question as someone who copies it might change it: a few characters, the same words."""
    place = rng.randrange(1, len(question) - 1)
    before, char, after = question[:place], question[place], question[place + 1 :]
    changed = [
        question.replace("ですか。", "でしょうか。"),
        question.replace("。", "").replace("、", "").replace("？", ""),
        f"では、{question}",
        f"{question.rstrip('。？')}、教えてください。",
        question.replace("は", "が", 1) if "は" in question else question.replace("を", "は", 1),
        in_kana(question),
        before + after,
        before + char + char + after,
        before + after[:1] + char + after[1:],
    ]
    if "、" in question:
        first, rest = question.rstrip("。？").split("、", 1)
        changed.append(f"{rest}、{first}。")
    return [each for each in changed if each != question]


def in_kana(question: str) -> str:
    """Common words in hiragana."""
    for kanji, kana in KANA.items():
        question = question.replace(kanji, kana)
    return question


def alike(couple: Couple, names: list[str]) -> float:
    """As `prepare` compares them."""
    one, two = masked(list(couple), names)
    return jaccard(bigrams(one), bigrams(two))


def curve(source: str, found: Alike) -> Iterator[Row]:
    """At each threshold: how many edits it catches, and how much of what it catches are edits.

    Precision counts as many couples that must stay as edits, of each kind alike.
    """
    default = {"graph": GRAPH_NEAR_DUPLICATE, "pairs": PAIRS_NEAR_DUPLICATE}[source]
    for threshold in THRESHOLDS:
        caught = {kind: sum(each >= threshold for each in of) / len(of) for kind, of in found.items()}
        recall = caught.pop("edited")
        false = sum(caught.values()) / len(caught)
        here = f"{source} {threshold:.2f}" + (" (default)" if threshold == default else "")
        yield Row(f"{here} recall", recall, "share")
        yield Row(f"{here} precision", recall / (recall + false) if recall else 1.0, "share")
        for kind, share in caught.items():
            must_stay = threshold == default and kind != "entity"
            yield Row(f"{here} {kind} dropped", share, "share", bound=0.001 if must_stay else None)


def lost(graph: Graph) -> Iterator[Row]:
    """What a corpus of pairs loses whose questions are all made from 75 wordings: the worst case for pairs."""
    pairs = [
        Example(id=f"{fact.name}.{i}", question=ask(wording.q, fact), answer=fact.objects[0].name)
        for fact in facts(graph)
        for i, wording in enumerate(graph.relation_types[fact.relation].templates)
    ]
    prepared = partial(divide, Pairs(pairs), [])
    kept = len(prepared(PrepareOptions(near_duplicate=1.0)).train)
    for threshold in THRESHOLDS:
        train = prepared(PrepareOptions(near_duplicate=threshold)).train
        is_default = threshold == PAIRS_NEAR_DUPLICATE
        here = f"pairs {threshold:.2f}" + (" (default)" if is_default else "")
        lost_share = 1 - len(train) / kept
        yield Row(f"{here} training lost, all from wordings", lost_share, "share", bound=0.05 if is_default else None)


if __name__ == "__main__":
    raise SystemExit(main())
