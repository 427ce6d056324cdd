"""Answers → scores 0–3, by the judge that the spec names."""

import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jsm_queue.data.examples import Example, read_examples
from jsm_queue.data.keyfacts import require_key_facts
from jsm_queue.errors import DataError, ModelError, SetupError
from jsm_queue.kinds import ROLE_FILES, JudgeParams
from jsm_queue.protocol import RecordIn
from workers.finished import Finished
from workers.gguf.answers import read_answers
from workers.judges.judgement import Judge, Judgement, OpenJudge
from workers.work import Outcome, Work


def run(work: Work) -> Outcome:
    """One record an example of the split: `score`, or `unjudged` with the problem and what the judge said instead.

    Raises DataError for an example without an answer, or without key facts where they are the judge; ModelError or
    SetupError when no answer at all could be judged: such a result would be a cell without a value.
    """
    params: JudgeParams = work.params
    examples = read_examples(work.inputs / "dataset" / ROLE_FILES[params.split])
    if params.judge.kind == "key_facts":
        require_key_facts(examples, f"{params.split} questions", "Add key_facts to the data")
    answers = _answers(work, examples)
    open_judge: OpenJudge = importlib.import_module(f"workers.judges.{params.judge.kind}").open_judge
    finished = Finished(work, RecordIn)
    left = [pair for pair in zip(examples, answers, strict=True) if finished.get(pair[0].id) is None]
    unjudged = sum(record.name == "unjudged" for record in _in_order(examples, finished))
    with open_judge(work) as judge:
        for example, judgement in _judged(judge, left, params.judge.concurrency):
            finished.add(example.id, _record(example, judgement))
            unjudged += judgement.problem is not None
            finished.tell(len(examples), {"unjudged": unjudged})
    records = _in_order(examples, finished)
    problems = Counter(str((record.meta or {})["problem"]) for record in records if record.name == "unjudged")
    _require_some(records, params.judge.kind)
    scores = [record.value for record in records if record.name == "score"]
    mean = sum(scores) / len(scores) if scores else 0.0
    counts = {"questions": len(records), "unjudged": problems.total(), **problems}
    return Outcome(records, {"score": mean} | {name: float(count) for name, count in counts.items()})


def _answers(work: Work, examples: Sequence[Example]) -> list[str]:
    texts = {answer.id: answer.text for answer in read_answers(work.inputs / "answers" / ROLE_FILES["answers"])}
    for example in examples:
        if example.id not in texts:
            raise DataError(f"the question {example.id} has no answer", "Run the answer job again")
    return [texts[example.id] for example in examples]


def _judged(judge: Judge, pairs: Sequence[tuple[Example, str]], at_a_time: int) -> Iterator[tuple[Example, Judgement]]:
    """Each example with its judgement, in order."""
    if at_a_time == 1:
        yield from ((example, judge(example, answer)) for example, answer in pairs)
        return
    with ThreadPoolExecutor(at_a_time, "judge") as threads:
        judgements = threads.map(lambda pair: judge(*pair), pairs)
        yield from ((example, judgement) for (example, _), judgement in zip(pairs, judgements, strict=True))


def _in_order(examples: Sequence[Example], finished: Finished[RecordIn]) -> list[RecordIn]:
    return [record for example in examples if (record := finished.get(example.id))]


def _record(example: Example, judgement: Judgement) -> RecordIn:
    place = {"stratum": example.stratum, "category": example.category}
    if judgement.score is None:
        meta = {"problem": judgement.problem, "output": judgement.output}
        return RecordIn(item=example.id, name="unjudged", value=1, meta=meta | place)
    reason = {"reason": judgement.reason} if judgement.reason else {}
    return RecordIn(item=example.id, name="score", value=judgement.score, meta=judgement.facts | reason | place)


def _require_some(records: Sequence[RecordIn], kind: str) -> None:
    """Raises ModelError for a judge in this process, which will do the same again, SetupError for one behind a URL."""
    if not records or any(record.name == "score" for record in records):
        return
    first = records[0].meta or {}
    words = f"the judge scored none of {len(records)} answers; the first is {first['problem']}: {first['output']}"
    raise (SetupError if kind == "openai" else ModelError)(words, "Take another judge, or correct its rubric")
