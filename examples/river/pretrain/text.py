"""Generated text: random facts over the corpus' words, told plainly, asked, and asked about in context.

Facts are drawn afresh all the time and never equal a triple of the corpus. Some of them hold for a while, as a "world"
that is asked about in ever other words and then replaced: answering from the weights is what a base must know before
LoRA can teach it facts, and what it can't learn from facts that never come back.
"""

from random import Random
from typing import NamedTuple

from examples.river.pretrain.corpus import Corpus, Relation

PREFIX_SHARE = 0.15
PLAIN_SHARE = 0.2
SYSTEM_SHARE = 0.05
SYSTEM_PROMPTS = (
    "河川と砂防の質問に短く答えてください。",
    "あなたは河川工学の技術者です。",
    "質問に日本語で答えてください。",
)


class Fact(NamedTuple):
    relation: Relation
    subject: str
    object: str


class Turn(NamedTuple):
    question: str
    answer: str


class Document(NamedTuple):
    """Either plain text or a chat of question-answer turns, with a system prompt or none."""

    text: str = ""
    turns: tuple[Turn, ...] = ()
    system: str = ""


def random_fact(corpus: Corpus, rng: Random) -> Fact:
    relation = rng.choice(corpus.relations)
    return fact_about(relation, rng.choice(relation.subjects), rng)


def fact_about(relation: Relation, subject: str, rng: Random) -> Fact:
    """A random object of a fitting type: neither the subject itself nor what the corpus states."""
    excluded = relation.truth.get(subject, frozenset()) | {subject}
    while (target := rng.choice(relation.objects)) in excluded:
        pass
    return Fact(relation, subject, target)


def make_world(corpus: Corpus, size: int, rng: Random) -> tuple[Fact, ...]:
    """`size` random facts with one object for each (relation, subject): a question about them has one answer."""
    pairs = [(relation, subject) for relation in corpus.relations for subject in relation.subjects]
    return tuple(fact_about(relation, subject, rng) for relation, subject in rng.sample(pairs, min(size, len(pairs))))


def state(fact: Fact) -> str:
    return fact.relation.statement.format(subject=fact.subject, object=fact.object)


def ask(fact: Fact, corpus: Corpus, rng: Random) -> Turn:
    """The fact as a question in any wording, at times with words in front that don't change the answer."""
    wording = rng.choice(fact.relation.wordings)
    question = wording.question.format(subject=fact.subject)
    if rng.random() < PREFIX_SHARE:
        question = rng.choice(corpus.prefixes).format(other=rng.choice(corpus.names)) + question
    return Turn(question, wording.answer.format(object=fact.object))


def short_document(fact: Fact, corpus: Corpus, rng: Random) -> Document:
    """One fact alone: mostly a question in chat form, as fine-tuning will ask it."""
    draw = rng.random()
    if draw < PLAIN_SHARE / 2:
        return Document(text=state(fact))
    turn = ask(fact, corpus, rng)
    if draw < PLAIN_SHARE:
        return Document(text=turn.question + turn.answer)
    return _chat((turn,), rng)


def long_document(corpus: Corpus, rng: Random) -> Document:
    """Several facts: read and asked about, or the same ones told again in other words."""
    facts = related_facts(corpus, rng.randint(1, 4), rng)
    draw = rng.random()
    if draw < 0.1:
        return Document(text="".join(map(state, facts)))
    if draw < 0.65:
        return _read_and_ask(facts, corpus, rng)
    return _retell(facts[:2], corpus, rng)


def related_facts(corpus: Corpus, count: int, rng: Random) -> list[Fact]:
    """Facts that mostly share a relation or a subject with the first, so that only both together tell them apart."""
    facts = [random_fact(corpus, rng)]
    while len(facts) < count:
        first = facts[0]
        if rng.random() < 0.5:
            fact = fact_about(first.relation, rng.choice(first.relation.subjects), rng)
        else:
            fact = fact_about(rng.choice(corpus.by_subject[first.subject]), first.subject, rng)
        if _is_new(fact, facts):
            facts.append(fact)
        elif rng.random() < 0.1 and _is_new(fact := random_fact(corpus, rng), facts):
            facts.append(fact)  # a subject of one relation alone has nothing to share
    rng.shuffle(facts)
    return facts


def _is_new(fact: Fact, facts: list[Fact]) -> bool:
    return all((fact.relation, fact.subject) != (known.relation, known.subject) for known in facts)


def _read_and_ask(facts: list[Fact], corpus: Corpus, rng: Random) -> Document:
    context = "".join(map(state, facts))
    asked = rng.sample(facts, min(len(facts), rng.randint(1, 2)))
    first, *others = (ask(fact, corpus, rng) for fact in asked)
    opening = Turn(context + first.question, first.answer)
    if rng.random() < PLAIN_SHARE:
        return Document(text=opening.question + opening.answer)
    return _chat((opening, *others), rng)


def _retell(facts: list[Fact], corpus: Corpus, rng: Random) -> Document:
    told = [fact for fact in facts for _ in range(rng.randint(2, 3))][:4]
    rng.shuffle(told)
    turns = tuple(ask(fact, corpus, rng) for fact in told)
    if rng.random() < PLAIN_SHARE:
        return Document(text="".join(turn.question + turn.answer for turn in turns))
    return _chat(turns, rng)


def _chat(turns: tuple[Turn, ...], rng: Random) -> Document:
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < SYSTEM_SHARE else ""
    return Document(turns=turns, system=system)
