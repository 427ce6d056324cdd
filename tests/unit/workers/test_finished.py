"""Jobs that work through a list are gone on with: what is finished is kept, with who finished it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jsm_queue.data.examples import Example
from jsm_queue.kinds import AnswerParams
from jsm_queue.spec import DecodingSpec, JudgeSpec
from tests.unit.judges.works import EXAMPLES, judge_work
from workers.finished import Finished
from workers.judges.judgement import Judge, Judgement
from workers.kinds import answer, judge
from workers.work import Outcome, Take, Work

OPENAI = JudgeSpec(kind="openai", url="http://127.0.0.1:9/v1", model="m")
UNJUDGED = "q1"


class Broken(Exception):
    """The power went."""


def broken_off(kind: Any, work: Work, at: int) -> Path:
    """Runs the work until position `at`. Returns its checkpoint."""
    file, offers = work.folder / f"at{at}", list[Take]()

    def progress(position: int, *_: Any) -> None:
        if position == at:
            offers[-1]()(file)
            raise Broken

    with pytest.raises(Broken):
        kind.run(replace(work, progress=progress, checkpoint=lambda _, take: offers.append(take), attempt="a1a1a1a1"))
    return file


def told(work: Work, ticks: list[int]) -> Work:
    return replace(work, progress=lambda position, *_: ticks.append(position), attempt="b2b2b2b2")


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that a judge was asked, in order; one of them gets no score."""
    asked: list[str] = []

    @contextmanager
    def open_judge(_: Work) -> Iterator[Judge]:
        def say(example: Example, text: str) -> Judgement:
            asked.append(example.id)
            return Judgement(None, problem="refused") if example.id == UNJUDGED else Judgement(2, f"of {text}")

        yield say

    monkeypatch.setattr(judge.importlib, "import_module", lambda _: SimpleNamespace(open_judge=open_judge))
    return asked


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that a model was asked, in order."""
    asked: list[str] = []

    @contextmanager
    def open_gguf(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(generate=lambda ids, _: SimpleNamespace(text=f"to {ids[0]}", ids=[1], stop="end"))

    def prompt_ids(_: Any, example: Example, __: Any) -> list[str]:
        asked.append(example.id)
        return [example.id]

    monkeypatch.setattr(answer, "open_gguf", open_gguf)
    monkeypatch.setattr(answer, "prompt_ids", prompt_ids)
    return asked


def answer_work(folder: Path) -> Work:
    params = AnswerParams(split="bench", decoding=DecodingSpec(), system_prompt=None)
    return replace(judge_work(folder, JudgeSpec()), params=params)


def same(kind: Any, work: Work, asked: list[str]) -> Outcome:
    """Checks that a resumed job equals an unbroken one, and asks for what is left alone."""
    whole = kind.run(work)
    file = broken_off(kind, work, 2)
    assert {json.loads(line)["attempt"] for line in file.read_text("utf-8").splitlines()[1:]} == {"a1a1a1a1"}
    asked.clear()
    ticks: list[int] = []
    resumed = kind.run(told(replace(work, resume=file), ticks))
    assert asked == ["q2"] and ticks == [3]
    assert resumed.records == whole.records
    without = {name: value for name, value in resumed.metrics.items() if name != "seconds"}
    assert without == {name: value for name, value in whole.metrics.items() if name != "seconds"}
    return resumed


def test_answers(tmp_path: Path, answered: list[str]) -> None:
    outcome = same(answer, answer_work(tmp_path), answered)
    assert [(record.meta or {})["text"] for record in outcome.records] == ["to q0", "to q1", "to q2"]
    assert len((tmp_path / "answers.jsonl").read_text("utf-8").splitlines()) == len(EXAMPLES)


@pytest.mark.parametrize("at_a_time", [1, 4])
def test_judgements(tmp_path: Path, judged: list[str], at_a_time: int) -> None:
    work = judge_work(tmp_path, OPENAI.model_copy(update={"concurrency": at_a_time}))
    outcome = same(judge, work, judged)
    assert outcome.metrics == {"score": 2, "questions": 3, "unjudged": 1, "refused": 1}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-30],
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace("RecordIn", "Answer"),
        lambda text: text.replace('"value"', '"worth"'),
    ],
)
def test_what_cannot_be_read_means_the_start(tmp_path: Path, judged: list[str], spoil: Callable[[str], str]) -> None:
    work = judge_work(tmp_path, OPENAI)
    file = broken_off(judge, work, 2)
    file.write_text(spoil(file.read_text("utf-8")), "utf-8")
    judged.clear()
    judge.run(replace(work, resume=file))
    assert judged == ["q0", "q1", "q2"] and not file.exists()


def test_seconds_are_those_of_the_work_in_all_attempts(tmp_path: Path, judged: list[str]) -> None:
    work = judge_work(tmp_path, OPENAI)
    file = broken_off(judge, work, 2)
    head, *lines = file.read_text("utf-8").splitlines()
    file.write_text("\n".join([json.dumps(json.loads(head) | {"seconds": 100.0}), *lines]) + "\n", "utf-8")
    finished = Finished(replace(work, resume=file), judge.RecordIn)
    with finished.timed():
        pass
    assert 100.0 < finished.seconds < 101.0 and len(finished) == 2
