"""`jsm init`: its files are a study that works."""

from pathlib import Path

import pytest

from jsm_queue.cli import init, resolve
from jsm_queue.data.options import PrepareOptions
from jsm_queue.data.prepare import prepare
from jsm_queue.data.readers import read_source
from jsm_queue.errors import SpecError
from jsm_queue.planner import preview
from jsm_queue.spec import read_spec


def test_the_sample_study_parses_and_plans(tmp_path: Path) -> None:
    init.run(tmp_path)
    spec = read_spec(tmp_path / "study.yaml")
    resolved, warnings = resolve.sketch(spec, tmp_path)
    assert warnings == []
    assert preview(spec, resolved.inputs)


def test_the_sample_data_are_enough_for_the_sample_sizes(tmp_path: Path) -> None:
    init.run(tmp_path)
    spec = read_spec(tmp_path / "study.yaml")
    data = spec.data
    options = PrepareOptions(
        seed=data.seed,
        validation=data.validation,
        test_taught=data.test_taught,
        test_unseen=data.test_unseen,
        near_duplicate=data.near_duplicate,
        max_answer_chars=data.max_answer_chars,
    )
    dataset = prepare(read_source(tmp_path / "data.jsonl"), [], options)
    assert spec.stages.scale
    assert len(dataset.train) >= spec.stages.scale.sizes[-1]


def test_every_sample_answer_holds_its_key_fact() -> None:
    assert all(fact in answer for _, answer, fact in init.TOPICS)


def test_nothing_of_the_user_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(SpecError, match="exists already"):
        init.run(tmp_path)
    assert (tmp_path / "data.jsonl").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "study.yaml").exists()
