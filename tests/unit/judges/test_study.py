"""From a spec's judge to its jobs: what is part of their identity, what is shared, where they run."""

from pathlib import Path
from typing import Any

import pytest

from api.routes.studies import _parse_inputs
from jsm_queue.canonical import content_hash, file_hash
from jsm_queue.cli.judgefiles import judge_files
from jsm_queue.data.rubrics import RUBRICS
from jsm_queue.errors import JsmError, SpecError
from jsm_queue.kinds import FileRef, Inputs, JobDraft, JudgeInputs, JudgeParams, on_gpu
from jsm_queue.planner import Study, plan
from jsm_queue.scheduler import OpenSlot, ReadyJob, assign
from jsm_queue.spec import JudgeSpec
from jsm_queue.store.access import leaves
from tests.unit.studies import inputs, sha, spec

FILE = FileRef(sha=sha("judge"), suffix=".gguf")
GGUF = {"kind": "gguf", "source": "judge.gguf"}
REMOTE = {"kind": "openai", "url": "http://127.0.0.1:8000/v1", "model": "m"}


def judge_jobs(judge: dict[str, Any], given: JudgeInputs | None, study: str = "s" * 64) -> list[JobDraft]:
    """The judge jobs that a study wants first."""
    toy = spec(judge=judge)
    resolved = inputs(toy).model_copy(update={"judge": given})
    return [w.job for w in plan(Study(study, toy, resolved, "class A", {}, {})).jobs if w.job.kind == "judge"]


def ids(jobs: list[JobDraft]) -> set[str]:
    return {job.id for job in jobs}


def test_rubric_text_and_model_file_are_identity_and_their_names_are_not() -> None:
    given = JudgeInputs(rubric="R", file=FILE)
    first = ids(judge_jobs(GGUF | {"rubric": "a.txt"}, given))
    assert first == ids(judge_jobs({"kind": "gguf", "source": "moved/judge.gguf", "rubric": "b.txt"}, given))
    for other in (
        JudgeInputs(rubric="S", file=FILE),
        JudgeInputs(rubric="R", file=FileRef(sha=sha("x"), suffix=".gguf")),
    ):
        assert first.isdisjoint(ids(judge_jobs(GGUF, other)))
    text = str([job.params for job in judge_jobs(GGUF | {"rubric": "a.txt"}, given)])
    assert "a.txt" not in text and "judge.gguf" not in text


@pytest.mark.parametrize(("judge", "given", "shared"), [
    ({}, None, True),
    (GGUF, JudgeInputs(rubric="R", file=FILE), True),
    (REMOTE, JudgeInputs(rubric="R"), False),
])  # fmt: skip
def test_only_scores_of_a_judge_behind_a_url_are_of_one_study_alone(
    judge: dict[str, Any], given: JudgeInputs | None, shared: bool
) -> None:
    first, other = (ids(judge_jobs(judge, given, study)) for study in ("a" * 64, "b" * 64))
    assert first and (first == other) is shared and (shared or first.isdisjoint(other))


def test_params_are_read_again_from_the_store() -> None:
    for judge, given in (({}, None), (GGUF, JudgeInputs(rubric="R", file=FILE)), (REMOTE, JudgeInputs(rubric="R"))):
        for job in judge_jobs(judge, given):
            assert JudgeParams.model_validate(job.params).model_dump(mode="json") == job.params


def test_a_gguf_judge_gets_its_file_and_a_gpu_and_the_others_neither() -> None:
    (job, *_) = judge_jobs(GGUF, JudgeInputs(rubric="R", file=FILE))
    assert leaves(job.params) == [("judge", "judge.gguf", FILE.sha)]
    assert on_gpu("judge", job.params)
    for judge, given in (({}, None), (REMOTE, JudgeInputs(rubric="R"))):
        (job, *_) = judge_jobs(judge, given)
        assert leaves(job.params) == [] and not on_gpu("judge", job.params)


@pytest.mark.parametrize(("gpu", "slot"), [(True, 0), (False, 1)])
def test_the_scheduler_honours_it(gpu: bool, slot: int) -> None:
    slots = [OpenSlot("w", 0, "gpu", True, "A"), OpenSlot("w", 1, "cpu", True, "A")]
    (offer,) = assign([ReadyJob("j", "judge", 0, (0.0,), gpu=gpu)], slots)
    assert offer.slot == slot
    busy = (
        [slots[0], OpenSlot("w", 1, "cpu", False, "A")] if not gpu else [OpenSlot("w", 0, "gpu", False, "A"), slots[1]]
    )
    assert assign([ReadyJob("j", "judge", 0, (0.0,), gpu=gpu)], busy) == [], "it waits for its own kind of slot"


@pytest.mark.parametrize(
    ("judge", "given"),
    [
        ({}, JudgeInputs(rubric="R")),
        (GGUF, None),
        (GGUF, JudgeInputs(rubric="R")),
        (REMOTE, None),
        (REMOTE, JudgeInputs(rubric="R", file=FILE)),
    ],
)
def test_the_api_refuses_inputs_that_are_not_the_judge_s(judge: dict[str, Any], given: JudgeInputs | None) -> None:
    toy = spec(judge=judge)
    value = inputs(toy).model_copy(update={"judge": given}).model_dump(mode="json")
    with pytest.raises(SpecError, match=r"inputs\.judge"):
        _parse_inputs(value, toy)


def test_the_api_takes_those_that_are() -> None:
    for judge, given in (({}, None), (GGUF, JudgeInputs(rubric="R", file=FILE)), (REMOTE, JudgeInputs(rubric="R"))):
        toy = spec(judge=judge)
        resolved = inputs(toy).model_copy(update={"judge": given})
        assert _parse_inputs(resolved.model_dump(mode="json"), toy) == resolved


def resolved(judge: JudgeSpec, folder: Path, files: dict[str, Path]) -> JudgeInputs | None:
    def missing(error: JsmError) -> None:
        raise error

    return judge_files(judge, folder, files, missing, True)


def test_a_judge_s_file_is_uploaded_and_its_rubric_read(tmp_path: Path) -> None:
    (tmp_path / "judge.gguf").write_bytes(b"GGUF and more")
    (tmp_path / "own.txt").write_bytes("\ufeff採点せよ。\r\n三点満点。\r\n".encode())
    files: dict[str, Path] = {}
    found = resolved(JudgeSpec(kind="gguf", source="judge.gguf", rubric="own.txt"), tmp_path, files)
    whole = file_hash(tmp_path / "judge.gguf")
    assert found == JudgeInputs(rubric="採点せよ。\n三点満点。", file=FileRef(sha=whole, suffix=".gguf"))
    assert files == {whole: tmp_path / "judge.gguf"}


@pytest.mark.parametrize("name", ["ja", "en"])
def test_built_in_rubrics_say_all_four_scores(name: str, tmp_path: Path) -> None:
    found = resolved(JudgeSpec.model_validate(REMOTE | {"rubric": name}), tmp_path, {})
    assert found and found.rubric == RUBRICS[name]
    assert all(f"\n{score}: " in found.rubric for score in range(4))


def test_a_file_of_the_hub_is_fetched_at_its_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "had.gguf").write_bytes(b"GGUF")
    asked: list[Any] = []

    def download(repository: str, name: str, revision: str | None) -> str:
        asked.append((repository, name, revision))
        return str(tmp_path / "had.gguf")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for source in ("hub:org/name/judge-Q4_K_M.gguf@abc123", "hub:org/name/sub/judge.gguf"):
        found = resolved(JudgeSpec(kind="gguf", source=source), tmp_path, {})
        assert found and found.file and found.file.sha == file_hash(tmp_path / "had.gguf")
    assert asked == [("org/name", "judge-Q4_K_M.gguf", "abc123"), ("org/name", "sub/judge.gguf", None)]


def test_the_default_is_key_facts_without_anything(tmp_path: Path) -> None:
    assert resolved(JudgeSpec(), tmp_path, {}) is None
    (job, *_) = judge_jobs({}, None)
    assert job.params["judge"]["kind"] == "key_facts" and job.params["study"] is None
    assert len(content_hash(job.params)) == 64
    assert Inputs.model_fields["judge"].default is None
