"""The kind: what has no score is counted and shown, never dropped, never zero."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from jsm_queue.data.examples import Example
from jsm_queue.errors import DataError, JsmError, ModelError, SetupError
from jsm_queue.spec import JudgeSpec
from tests.unit.judges.works import EXAMPLES, judge_work
from workers.judges.judgement import Judge, Judgement
from workers.kinds import judge
from workers.work import Outcome, Work

OPENAI = JudgeSpec(kind="openai", url="http://127.0.0.1:9/v1", model="m")
GGUF = JudgeSpec(kind="gguf", source="judge.gguf")


def judged_by(monkeypatch: pytest.MonkeyPatch, work: Work, judgements: dict[str, Judgement]) -> Outcome:
    """The kind's outcome where the judge says that of each example."""

    @contextmanager
    def open_judge(_: Work) -> Iterator[Judge]:
        def say(example: Example, answer: str) -> Judgement:
            assert answer == example.answer
            return judgements[example.id]

        yield say

    monkeypatch.setattr(judge.importlib, "import_module", lambda _: SimpleNamespace(open_judge=open_judge))
    return judge.run(work)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_each_answer_has_a_score_or_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, concurrency: int
) -> None:
    work = judge_work(tmp_path, OPENAI.model_copy(update={"concurrency": concurrency}))
    refused = Judgement(None, problem="refused", output="no")
    outcome = judged_by(monkeypatch, work, {"q0": Judgement(3, "all there"), "q1": refused, "q2": Judgement(0, "none")})
    assert [(r.item, r.name, r.value) for r in outcome.records] == [
        ("q0", "score", 3),
        ("q1", "unjudged", 1),
        ("q2", "score", 0),
    ]
    place = {"stratum": "taught", "category": "works"}
    assert outcome.records[0].meta == {"reason": "all there"} | place
    assert outcome.records[1].meta == {"problem": "refused", "output": "no"} | place
    assert outcome.metrics == {"score": 1.5, "questions": 3, "unjudged": 1, "refused": 1}


@pytest.mark.parametrize(("spec", "error"), [(OPENAI, SetupError), (GGUF, ModelError)])
def test_a_judge_that_scores_nothing_is_no_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spec: JudgeSpec, error: type[JsmError]
) -> None:
    nothing = Judgement(None, problem="unparsable", output="hm")
    with pytest.raises(error, match="none of 3 answers; the first is unparsable: hm"):
        judged_by(monkeypatch, judge_work(tmp_path, spec), {e.id: nothing for e in EXAMPLES})


def test_key_facts_are_the_default_and_say_what_was_found(tmp_path: Path) -> None:
    outcome = judge.run(judge_work(tmp_path, JudgeSpec(), ["It holds back floods.", "Nothing.", "The flow."]))
    assert [record.value for record in outcome.records] == [3, 0, 3]
    assert outcome.records[1].meta == {"found": [], "missing": ["water"], "stratum": "taught", "category": "works"}
    assert outcome.metrics == {"score": 2, "questions": 3, "unjudged": 0}


def test_a_question_without_an_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="q2 has no answer"):
        judge.run(judge_work(tmp_path, JudgeSpec(), ["a", "b"]))


def test_progress_is_told_for_every_question(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    work = judge_work(tmp_path, JudgeSpec())
    judge.run(Work(work.params, work.inputs, work.folder, work.device, lambda at, of, _: told.append((at, of))))
    assert told == [(1, 3), (2, 3), (3, 3)]
