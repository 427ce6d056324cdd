"""Judge jobs for tests: their input folder, and their params."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsm_queue.data.examples import Example, write_examples
from jsm_queue.kinds import FileRef, JudgeParams
from jsm_queue.spec import JudgeSpec
from workers.gguf.answers import Answer, write_answers
from workers.work import Device, Work

RUBRIC = "Score the answer by the reference, from 0 to 3."
EXAMPLES = [
    Example(
        id=f"q{i}",
        question=f"What does a {thing} hold back?",
        answer=f"A {thing} holds back {held}.",
        key_facts=[[held]],
        stratum="taught",
        category="works",
    )
    for i, (thing, held) in enumerate([("levee", "floods"), ("dam", "water"), ("weir", "flow")])
]


def judge_work(folder: Path, judge: JudgeSpec, answers: Sequence[str] | None = None, **params: Any) -> Work:
    """A job over EXAMPLES (their own answers, where none are given), with `folder` as its input folder."""
    texts = [example.answer for example in EXAMPLES] if answers is None else answers
    for name in ("dataset", "answers"):
        (folder / name).mkdir(exist_ok=True)
    write_examples(folder / "dataset" / "bench.jsonl", EXAMPLES)
    made = [
        Answer(id=e.id, text=text, tokens=1, stop="end", prompt_tokens=1)
        for e, text in zip(EXAMPLES, texts, strict=False)
    ]
    write_answers(folder / "answers" / "answers.jsonl", made)
    rubric = None if judge.kind == "key_facts" else RUBRIC
    of = JudgeParams(judge=judge, split="bench", rubric=rubric, **params)
    return Work(of, folder, folder, Device("cpu", 1), lambda *_: None)


def with_gguf(folder: Path, gguf: Path) -> FileRef:
    """Puts the judge's GGUF where the worker puts it."""
    (folder / "judge").mkdir()
    (folder / "judge" / "judge.gguf").write_bytes(gguf.read_bytes())
    return FileRef(sha="0" * 64, suffix=".gguf")
