"""Kinds that are gone on with: in this process or another, they end as if nothing had broken them off."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from workers.engine import batches, checkpoint
from workers.engine import train as engine
from workers.engine.prompts import Encoded
from workers.kinds import score, train
from workers.work import Save, Take, Work

from .conftest import score_params, train_params
from .test_train import digests

EPOCHS = 3
STEPS = 2 * EPOCHS


class Broken(Exception):
    """The power went."""


def broken_off(work: Work, at: int) -> Path:
    """Runs the work until position `at`. Returns its checkpoint."""
    file = work.folder.parent / f"at{at}"
    offers: list[Take] = []

    def progress(position: int, total: int, metrics: dict[str, float]) -> None:
        if position >= at:
            offers[-1]()(file)
            raise Broken

    kind = train if hasattr(work.params, "training") else score
    with pytest.raises(Broken):
        kind.run(replace(work, progress=progress, checkpoint=lambda _, take: offers.append(take), attempt="a1a1a1a1"))
    return file


def losses(work: Work) -> list[float]:
    return [step["loss"] for step in json.loads((work.folder / "training_log.json").read_text("utf-8"))["steps"]]


@pytest.fixture
def params(llama: Path) -> Any:
    return train_params(llama, epochs=EPOCHS, dropout=0.1)


def test_a_resumed_training_equals_an_unbroken_one(params: Any, make_work: Callable[..., Work], llama: Path):
    whole, again = make_work(llama, params, name="whole"), make_work(llama, params, name="again")
    train.run(whole)
    resumed = replace(again, resume=broken_off(again, 2))
    told: list[int] = []
    second = replace(resumed, resume=broken_off(resumed, 4), progress=lambda position, *_: told.append(position))
    outcome = train.run(second)
    assert told == [5, 6], "what is done is not done again"
    assert losses(second) == losses(whole)
    assert digests(second.folder) == digests(whole.folder)
    assert outcome.metrics["steps"] == STEPS and outcome.metrics["seconds"] > 0


def test_a_checkpoint_that_is_written_late_is_of_when_it_was_taken(
    params: Any, make_work: Callable[..., Work], llama: Path, tmp_path: Path
):
    work, offers, saves = make_work(llama, params), list[Take](), list[Save]()
    whole = replace(
        work,
        checkpoint=lambda _, take: offers.append(take),
        progress=lambda position, *_: saves.append(offers[-1]()) if position == 2 else None,
    )
    train.run(whole)
    saves[0](tmp_path / "late")
    train.run(resumed := replace(make_work(llama, params, name="resumed"), resume=tmp_path / "late"))
    assert digests(resumed.folder) == digests(whole.folder)


def test_where_no_file_can_be_written_it_says_so_as_files_do(tmp_path: Path):
    with pytest.raises(OSError, match="No such file"):
        checkpoint.saving({"x": torch.zeros(2)}, {})(tmp_path / "missing" / "x")


def test_a_finished_training_that_is_resumed_is_finished(params: Any, make_work: Callable[..., Work], llama: Path):
    work = make_work(llama, params)
    resumed = replace(work, resume=broken_off(work, STEPS))
    train.run(resumed)
    assert len(losses(resumed)) == STEPS


KILLED = """
import os, signal, sys
from pathlib import Path
from jsm_queue.kinds import TrainParams
from workers import runner, safepoints
from workers.lines import EventLine, JobLine
safepoints.CHECKPOINT_S, safepoints.SHARE = 0.0, 1e9
def say(event):
    if event.event == "checkpoint" and event.position >= 3:
        os.kill(os.getpid(), signal.SIGKILL)
points = safepoints.SafePoints(JobLine.model_validate_json(sys.argv[1]), say)
told = points.progress
def progress(position, total, metrics):
    told(position, total, metrics)
    points._keeper.wait()
points.progress = progress
sys.exit(runner.run_job(points).event != "done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_training_whose_process_was_killed_goes_on_in_another(
    params: Any, make_work: Callable[..., Work], llama: Path, tmp_path: Path
):
    whole, work = make_work(llama, params, name="whole"), make_work(llama, params, name="killed")
    train.run(whole)
    line: dict[str, Any] = {
        "attempt": "a1a1a1a1",
        "kind": "train",
        "params": params.model_dump(mode="json"),
        "inputs": str(work.inputs),
        "folder": str(work.folder),
        "device": "cpu",
        "threads": 1,
        "checkpoints": str(tmp_path / "kept"),
    }
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, json.dumps(line)], env=environment, timeout=120)
    assert killed.returncode == -9
    kept = sorted(file.name for file in (tmp_path / "kept").iterdir())
    assert kept == ["2.0.checkpoint", "3.0.checkpoint"]
    told: list[int] = []
    resume = tmp_path / "kept" / "3.0.checkpoint"
    resumed = replace(work, resume=resume, progress=lambda position, *_: told.append(position))
    train.run(resumed)
    assert told == [4, 5, 6]
    assert losses(resumed) == losses(whole)
    assert digests(resumed.folder) == digests(whole.folder)


@pytest.mark.parametrize("damage", ["cut off", "of another adapter", "of another format", "no file"])
def test_a_checkpoint_that_cannot_be_used_means_the_start(
    params: Any, make_work: Callable[..., Work], llama: Path, damage: str
):
    whole, work = make_work(llama, params, name="whole"), make_work(llama, params, name="work")
    train.run(whole)
    file = broken_off(work, 2)
    if damage == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "of another adapter":
        other = train_params(llama, epochs=EPOCHS, r=8)
        file = broken_off(make_work(llama, other, name="other"), 2)
    elif damage == "of another format":
        file.write_bytes(file.read_bytes().replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    else:
        file.unlink()
    resumed = replace(work, resume=file)
    train.run(resumed)
    assert digests(resumed.folder) == digests(whole.folder)
    assert not file.exists(), "nobody tries it again"


def test_a_resumed_scoring_equals_an_unbroken_one_and_keeps_who_scored(
    llama: Path, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batches, "CPU_MEMORY", 2**18)  # so that there are several passes
    whole, work = (make_work(llama, score_params(llama), name=name) for name in ("whole", "work"))
    records = score.run(whole).records
    file = broken_off(work, 4)
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert 4 <= lines[0]["count"] < 10 and {line["attempt"] for line in lines[1:]} == {"a1a1a1a1"}
    told: list[int] = []
    offers: list[Take] = []
    resumed = replace(
        work,
        resume=file,
        attempt="b2b2b2b2",
        progress=lambda position, *_: told.append(position),
        checkpoint=lambda _, take: offers.append(take),
    )
    assert score.run(resumed).records == records
    assert told[0] > lines[0]["count"], "what is finished is not done again"
    offers[-1]()(file)
    made = [json.loads(line)["attempt"] for line in file.read_text("utf-8").splitlines()[1:]]
    assert made == ["a1a1a1a1"] * lines[0]["count"] + ["b2b2b2b2"] * (10 - lines[0]["count"])


def test_a_scoring_in_other_passes_goes_on_from_what_is_finished(
    llama: Path, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
):
    work = make_work(llama, score_params(llama))
    records = score.run(work).records
    with monkeypatch.context() as small:
        small.setattr(batches, "CPU_MEMORY", 2**18)
        file = broken_off(work, 4)
    for found, expected in zip(score.run(replace(work, resume=file)).records, records, strict=True):
        assert (found.item, found.name) == (expected.item, expected.name)
        assert found.value == pytest.approx(expected.value, abs=1e-4)


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[1]\n", b'{"format": 1, "items": "Answer", "count": 0}\n'])
def test_finished_items_that_cannot_be_read_mean_the_start(llama: Path, make_work: Callable[..., Work], content: bytes):
    work = make_work(llama, score_params(llama))
    (work.folder / "kept").write_bytes(content)
    assert len(score.run(replace(work, resume=work.folder / "kept")).records) == 50
    assert not (work.folder / "kept").exists()


def test_out_of_memory_lowers_the_plan_and_not_the_result(
    llama: Path, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
):
    """Each time the budget is half; from the second on activations are recomputed as well."""
    monkeypatch.setattr(batches, "CPU_MEMORY", 2**24)
    params = train_params(llama, epochs=1)
    plans: list[tuple[int, batches.Memory]] = []

    def noted(examples: Sequence[Encoded], memory: batches.Memory) -> list[list[int]]:
        groups = batches.passes(examples, memory)
        plans.append((len(groups), memory))
        return groups

    def enable(model: PreTrainedModel, *given: Any) -> None:
        recomputed.append(ooms)
        plain_enable(model, *given)

    recomputed: list[int] = []
    plain_enable = PreTrainedModel.gradient_checkpointing_enable
    monkeypatch.setattr(PreTrainedModel, "gradient_checkpointing_enable", enable)
    monkeypatch.setattr(engine, "passes", noted)
    found: list[list[float]] = []
    for ooms in range(3):
        work = replace(make_work(llama, params, name=f"ooms{ooms}"), ooms=ooms)
        train.run(work)
        found.append(losses(work))
    # AdamW's first step is the sign of the gradient: where that is near 0 the order of a sum decides.
    assert found[1] == pytest.approx(found[0], rel=1e-3) and found[2] == pytest.approx(found[0], rel=1e-3)
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6) and found[2][0] == pytest.approx(found[0][0], rel=1e-6)
    (first, before), (second, half), (_, quarter) = plans[0], plans[len(found[0])], plans[-1]
    assert (half.budget, quarter.budget) == (before.budget / 2, before.budget / 4)
    assert second > first, "passes are smaller"
    assert recomputed == [2] and half.token == before.token != quarter.token
