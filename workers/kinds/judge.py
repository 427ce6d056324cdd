"""Answers → scores 0–3, by the key facts that they state."""

from jsm_queue.data.examples import Example, read_examples
from jsm_queue.data.keyfacts import found_key_facts, key_fact_score, require_key_facts
from jsm_queue.errors import DataError
from jsm_queue.kinds import ROLE_FILES, JudgeParams
from jsm_queue.protocol import RecordIn
from workers.gguf.answers import read_answers
from workers.work import Outcome, Work


def run(work: Work) -> Outcome:
    """One record an example of the split. Raises DataError for an example without key facts or without an answer."""
    params: JudgeParams = work.params
    examples = read_examples(work.inputs / "dataset" / ROLE_FILES[params.split])
    require_key_facts(examples, f"{params.split} questions", "Add key_facts to the data")
    texts = {answer.id: answer.text for answer in read_answers(work.inputs / "answers" / ROLE_FILES["answers"])}
    records = [_judged(example, texts) for example in examples]
    work.progress(len(records), len(records), {})
    mean = sum(record.value for record in records) / len(records) if records else 0.0
    return Outcome(records, {"score": mean, "questions": len(records)})


def _judged(example: Example, texts: dict[str, str]) -> RecordIn:
    if example.id not in texts:
        raise DataError(f"the question {example.id} has no answer", "Run the answer job again")
    text = texts[example.id]
    found = found_key_facts(text, example.key_facts)
    names = [spellings[0] for spellings in example.key_facts]
    meta = {
        "found": [name for name, is_found in zip(names, found, strict=True) if is_found],
        "missing": [name for name, is_found in zip(names, found, strict=True) if not is_found],
        "stratum": example.stratum,
        "category": example.category,
    }
    return RecordIn(item=example.id, name="score", value=key_fact_score(text, example.key_facts), meta=meta)
