"""Graph → examples: taught facts in the training wordings, held-out wordings for validation and test."""

from dataclasses import dataclass
from typing import NamedTuple

from jsm_queue.data.examples import Example, Stratum
from jsm_queue.data.graph import Fact, Graph, facts
from jsm_queue.data.options import PrepareOptions
from jsm_queue.data.subsets import seeded_rank, stratified
from jsm_queue.errors import DataError

MAX_UNSEEN_SHARE = 1 / 3
"""Of the graph's facts, the most that may be kept out of the training data."""


class Split(NamedTuple):
    """The examples of a corpus before leaks are dropped."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]


@dataclass(frozen=True)
class _Form:
    """One wording of a relation type, with the name that it has in an example's id."""

    name: str
    question: str
    answer: str


def split_graph(graph: Graph, bench: list[Example], options: PrepareOptions) -> Split:
    """Training, validation and test examples of a graph.

    `options.test_unseen` facts, chosen by the seed and stratified by relation, are never taught; among them
    are those that the bench names as unseen, while those it names as taught are always taught. All other
    facts are taught in every training wording. Validation asks taught facts in the first half of the
    held-out wordings; the test asks taught and unseen facts in the second half. A fact is asked once before
    any is asked twice.

    Raises DataError when the graph is too small for that, or the bench contradicts it.
    """
    unseen, taught = _divide(facts(graph), bench, options)
    return Split(
        train=[_example(fact, form, "taught") for fact in taught for form in _taught_forms(graph, fact)],
        validation=_asked(graph, taught, 0, options.validation, "taught", options.seed),
        test=_asked(graph, taught, 1, options.test_taught, "taught", options.seed)
        + _asked(graph, unseen, 1, options.test_unseen, "unseen", options.seed),
    )


def _divide(all_facts: list[Fact], bench: list[Example], options: PrepareOptions) -> tuple[list[Fact], list[Fact]]:
    """The facts never taught (in the order in which the test takes them), and the taught ones."""
    never = _named(all_facts, bench, "unseen")
    always = _named(all_facts, bench, "taught")
    both = sorted({fact.name for fact in never} & {fact.name for fact in always})
    if both:
        raise DataError(f"the bench names the fact {both[0]!r} as taught and as unseen", "Correct one of its strata")
    most = int(len(all_facts) * MAX_UNSEEN_SHARE)
    if max(options.test_unseen, len(never)) > most:
        raise DataError(
            f"{max(options.test_unseen, len(never))} of the graph's {len(all_facts)} facts would be unseen",
            f"Set data.test_unseen to {most} or less",
        )
    fixed = {fact.name for fact in [*never, *always]}
    free = [fact for fact in all_facts if fact.name not in fixed]
    chosen = stratified(free, options.seed, lambda fact: fact.name, lambda fact: fact.relation)
    unseen = never + chosen[: max(options.test_unseen - len(never), 0)]
    out = {fact.name for fact in unseen}
    return unseen, [fact for fact in all_facts if fact.name not in out]


def _named(all_facts: list[Fact], bench: list[Example], stratum: Stratum) -> list[Fact]:
    """The facts of the bench's questions of that stratum. Raises DataError when a taught one is unknown."""
    triples = {triple for example in bench if example.stratum == stratum for triple in example.facts}
    known = {triple for fact in all_facts for triple in fact.triples}
    if stratum == "taught" and triples - known:
        raise DataError(
            f"the bench names {min(triples - known)!r} as taught, but the graph has no such relation",
            "Add it to the graph, or set that question's stratum to unseen",
        )
    return [fact for fact in all_facts if triples.intersection(fact.triples)]


def _asked(graph: Graph, asked: list[Fact], half: int, n: int, stratum: Stratum, seed: int) -> list[Example]:
    """n examples in that half of the held-out wordings, stratified, each fact once before any twice."""
    order = stratified(asked, seed, lambda fact: f"{half} {fact.name}", lambda fact: fact.relation)
    forms = {fact.name: _held_out_forms(graph, fact, half, seed) for fact in order}
    rounds = range(max((len(each) for each in forms.values()), default=0))
    examples = [
        _example(fact, forms[fact.name][turn], stratum)
        for turn in rounds
        for fact in order
        if turn < len(forms[fact.name])
    ]
    if len(examples) < n:
        raise DataError(
            f"the graph gives {len(examples)} {stratum} questions where {n} are asked for",
            "Lower data.validation or data.test_taught, or add relations or held_out wordings to the graph",
        )
    return examples[:n]


def _taught_forms(graph: Graph, fact: Fact) -> list[_Form]:
    wordings = graph.relation_types[fact.relation].templates
    return [_Form(f"t{i}", wording.q, wording.a) for i, wording in enumerate(wordings)]


def _held_out_forms(graph: Graph, fact: Fact, half: int, seed: int) -> list[_Form]:
    """The first half (0: validation) or the rest (1: test), in an order of this fact's own."""
    wordings = graph.relation_types[fact.relation].held_out
    forms = [_Form(f"h{i}", wording.q, wording.a) for i, wording in enumerate(wordings)]
    middle = len(forms) // 2
    mine = forms[middle:] if half else forms[:middle]
    return sorted(mine, key=lambda form: seeded_rank(seed, f"{fact.name} {form.name}"))


def _example(fact: Fact, form: _Form, stratum: Stratum) -> Example:
    listed = "、".join(each.name for each in fact.objects)
    return Example(
        id=f"{fact.name}.{form.name}",
        question=form.question.replace("{subject}", fact.subject.name),
        answer=form.answer.replace("{object}", listed),
        key_facts=[[each.name] for each in fact.objects],
        stratum=stratum,
        category=fact.subject.type,
        relation=fact.relation,
        facts=fact.triples,
    )
