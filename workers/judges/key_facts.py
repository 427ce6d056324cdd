"""The judge that needs no model: 3 × the share of key facts that an answer states."""

from collections.abc import Iterator
from contextlib import contextmanager

from jsm_queue.data.examples import Example
from jsm_queue.data.keyfacts import found_key_facts, key_fact_score
from workers.judges.judgement import Judge, Judgement
from workers.work import Work


@contextmanager
def open_judge(work: Work) -> Iterator[Judge]:
    """A judge that never fails to score. It raises DataError for an example without key facts."""
    yield _judge


def _judge(example: Example, answer: str) -> Judgement:
    score = key_fact_score(answer, example.key_facts)
    found = found_key_facts(answer, example.key_facts)
    names = [spellings[0] for spellings in example.key_facts]
    facts = {
        "found": [name for name, is_found in zip(names, found, strict=True) if is_found],
        "missing": [name for name, is_found in zip(names, found, strict=True) if not is_found],
    }
    return Judgement(score, facts=facts)
