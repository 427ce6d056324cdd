"""GGUF + questions → answers, greedy, each kept whole."""

from jsm_queue.data.examples import Example, read_examples
from jsm_queue.kinds import ROLE_FILES, AnswerParams
from jsm_queue.protocol import RecordIn
from workers.finished import Finished
from workers.gguf.answers import Answer, write_answers
from workers.gguf.llama import Gguf, open_gguf
from workers.gguf.prompts import prompt_ids
from workers.work import Outcome, Work


def run(work: Work) -> Outcome:
    """answers.jsonl, and one record an example of the split."""
    params: AnswerParams = work.params
    examples = read_examples(work.inputs / "dataset" / ROLE_FILES[params.split])
    finished = Finished(work, Answer)
    with open_gguf(work.inputs / "gguf" / ROLE_FILES["gguf"], work.device, params.decoding.context) as gguf:
        for example in examples:
            if finished.get(example.id) is None:
                with finished.timed():
                    finished.add(example.id, _answer(gguf, example, params))
                finished.tell(len(examples), {})
    answers = [answer for example in examples if (answer := finished.get(example.id))]
    write_answers(work.folder / ROLE_FILES["answers"], answers)
    metrics = {
        "seconds": finished.seconds,
        "truncated": float(sum(answer.stop == "length" for answer in answers)),
    }
    return Outcome([_record(*pair) for pair in zip(examples, answers, strict=True)], metrics)


def _answer(gguf: Gguf, example: Example, params: AnswerParams) -> Answer:
    ids = prompt_ids(gguf, example, params.system_prompt)
    made = gguf.generate(ids, params.decoding.max_new_tokens)
    return Answer(id=example.id, text=made.text, tokens=len(made.ids), stop=made.stop, prompt_tokens=len(ids))


def _record(example: Example, answer: Answer) -> RecordIn:
    meta = {"text": answer.text, "stop": answer.stop, "stratum": example.stratum, "category": example.category}
    return RecordIn(item=example.id, name="answer", value=answer.tokens, meta=meta)
