"""The runner as a real process: its protocol, its results, its end; and how failures are classified."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from jsm_queue.canonical import file_hash
from jsm_queue.errors import DataError, JsmError, ModelError
from jsm_queue.kinds import KINDS
from jsm_queue.protocol import RecordIn, ResultRequest
from tests.unit.workers.fakes import PARAMS, PROGRAM, job
from workers import runner, safepoints
from workers.runner import EventLine, JobLine
from workers.work import Outcome, saving


class Talk:
    """A runner process and what it says."""

    def __init__(self, argv: list[str], log: Path, **environment: str) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | environment,
            )

    def ask(self, line: JobLine) -> list[EventLine]:
        """All events of a job."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line.model_dump_json().encode() + b"\n")
        self.process.stdin.flush()
        events: list[EventLine] = []
        while not events or events[-1].event == "progress":
            said = self.process.stdout.readline()
            assert said, f"the runner died: {self.log.read_text(encoding='utf-8')}"
            events.append(EventLine.model_validate_json(said))
        return events


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    talk = Talk(["-c", PROGRAM], tmp_path / "log")
    yield talk
    talk.process.kill()
    talk.process.wait()


def read_result(line: JobLine) -> ResultRequest:
    return ResultRequest.model_validate_json((line.folder / "result.json").read_bytes())


def test_a_real_kind_in_the_real_runner(tmp_path: Path) -> None:
    talk = Talk(["-m", "workers.runner"], tmp_path / "log")
    line = JobLine(
        attempt="a1b2c3d4", kind="judge", params=PARAMS, inputs=tmp_path, folder=tmp_path, device="cpu", threads=1
    )
    (tmp_path / "dataset").mkdir()
    (tmp_path / "answers").mkdir()
    example = {
        "id": "q1",
        "question": "ダムとは",
        "answer": "水を貯める施設",
        "key_facts": [["施設"], ["水"]],
        "category": "dams",
    }
    answer = {"id": "q1", "text": "施設です", "tokens": 3, "stop": "end", "prompt_tokens": 5}
    (tmp_path / "dataset" / "bench.jsonl").write_text(json.dumps(example), encoding="utf-8")
    (tmp_path / "answers" / "answers.jsonl").write_text(json.dumps(answer), encoding="utf-8")
    [progress, done] = talk.ask(line)
    assert (progress.position, progress.total, done.event) == (1, 1, "done")
    [record] = read_result(line).records
    assert (record.item, record.name, record.value) == ("q1", "score", 1.5)
    talk.process.kill()
    talk.process.wait()


def test_a_result_is_whole_with_records_and_provenance(talk: Talk, tmp_path: Path) -> None:
    line = job(tmp_path, "ok")
    events = talk.ask(line)
    assert [event.event for event in events] == ["progress", "done"]
    assert events[0].metrics == {"loss": 2.5}, "a figure that is not finite would break the line"
    result = read_result(line)
    assert result.records[0].meta == {"文": ["値"]}
    assert result.provenance["worker"] == "test"
    assert result.provenance["device"] == "cpu"
    assert [file.name for file in line.folder.iterdir()] == ["result.json"]


def test_prints_of_libraries_go_to_the_log(talk: Talk, tmp_path: Path) -> None:
    talk.ask(job(tmp_path, "ok"))
    assert "the kind says: ok" in talk.log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("wish", "reason", "words"),
    [
        ("oom", "oom", "no room"),
        ("torch oom", "oom", "out of memory"),
        ("disk", "disk", "No space left"),
        ("data", "error", "line 3 is empty. Remove it"),
        ("setup", "crashed", "no compiler. Install one"),
        ("import", "crashed", "ModuleNotFoundError"),
        ("cuda", "crashed", "CUDA driver"),
        ("long", "crashed", "ValidationError"),
        ("bug", "crashed", "KeyError: 'x'"),
        ("exit", "crashed", "SystemExit: 3"),
        ("nan", "error", "what it computed is no number"),
        ("meta", "crashed", "not plain JSON"),
    ],
)
def test_failures_are_classified(talk: Talk, tmp_path: Path, wish: str, reason: str, words: str) -> None:
    line = job(tmp_path, wish)
    failed = talk.ask(line)[-1]
    assert (failed.event, failed.reason) == ("failed", reason)
    assert words in failed.message
    assert not (line.folder / "result.json").exists()
    assert "Traceback" in talk.log.read_text(encoding="utf-8")


def test_it_stays_warm_after_an_error(talk: Talk, tmp_path: Path) -> None:
    talk.ask(job(tmp_path / "1", "data"))
    assert talk.ask(job(tmp_path / "2", "ok"))[-1].event == "done"


def test_unknown_parameters_name_the_version(talk: Talk, tmp_path: Path) -> None:
    line = job(tmp_path, "ok").model_copy(update={"params": {"judge": {}, "split": "bench", "new": 1}})
    failed = talk.ask(line)[-1]
    assert (failed.reason, "this worker's version" in failed.message) == ("crashed", True)


def test_it_ends_with_its_input_even_in_the_middle_of_a_step(talk: Talk, tmp_path: Path) -> None:
    assert talk.process.stdin and talk.process.stdout
    talk.process.stdin.write(job(tmp_path, "sleep").model_dump_json().encode() + b"\n")
    talk.process.stdin.flush()
    assert b"progress" in talk.process.stdout.readline()
    talk.process.stdin.close()
    assert talk.process.wait(20) == 0


def test_the_crash_point_kills_it_in_the_middle_of_a_job(tmp_path: Path) -> None:
    once = tmp_path / "once"
    once.mkdir()
    crash = {"JSM_CRASH_AT": "other;process before event progress*", "JSM_CRASH_ONCE": str(once)}
    talk = Talk(["-c", PROGRAM], tmp_path / "log", **crash)
    with pytest.raises(AssertionError, match="the runner died"):
        talk.ask(job(tmp_path, "ok"))
    assert talk.process.wait() != 0
    again = Talk(["-c", PROGRAM], tmp_path / "log", **crash)
    assert again.ask(job(tmp_path, "ok"))[-1].event == "done"
    again.process.kill()
    again.process.wait()


def test_progress_is_said_at_most_every_half_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(safepoints, "time", SimpleNamespace(monotonic=lambda: now[0]))
    said: list[EventLine] = []
    progress = safepoints.Progress("a1b2c3d4", said.append)
    for position, now[0] in enumerate([10.0, 10.1, 10.4, 10.6, 10.7]):
        progress(position, 5, {str(i): 1.0 for i in range(20)})
    assert [event.position for event in said] == [0, 3]
    progress.flush()
    assert [event.position for event in said] == [0, 3, 4]
    assert len(said[0].metrics) == safepoints.MAX_METRICS


def test_a_checkpoint_that_could_not_be_written_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    line = job(tmp_path, "steps").model_copy(update={"checkpoints": folder, "position": 2})
    said: list[EventLine] = []
    keeper = safepoints.Keeper(line, said.append)
    folder.write_text("a file in its way", encoding="utf-8")
    keeper.write(3, lambda: saving(b"three"))
    keeper.wait()
    assert (keeper.position, said) == (2, [])
    folder.unlink()
    keeper.write(3, lambda: saving(b"three"))
    keeper.wait()
    assert keeper.position == said[0].position == 3


def test_files_are_listed_with_hash_and_size(tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors", "training_log.json", "extra.bin"):
        (tmp_path / name).write_bytes(name.encode())
    result = runner.collect("train", Outcome(), tmp_path, {})
    assert [a.role for a in result.artifacts] == list(KINDS["train"].outputs)
    assert result.artifacts[1].sha == file_hash(tmp_path / "adapter_model.safetensors")
    assert result.artifacts[1].size == len("adapter_model.safetensors")


def test_files_are_on_the_disk_before_what_vouches_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"weights")
    flushed: list[int] = []

    def fsync(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        assert not (tmp_path / "result.json").exists()

    monkeypatch.setattr(runner.os, "fsync", fsync)
    runner.collect("convert", Outcome(), tmp_path, {})
    assert flushed == [(tmp_path / "model.gguf").stat().st_ino]


def test_a_missing_file_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(JsmError, match=r"train did not write adapter_config\.json"):
        runner.collect("train", Outcome(), tmp_path, {})


def test_a_metric_that_is_not_finite_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(JsmError, match="metric loss is inf"):
        runner.collect("judge", Outcome(metrics={"loss": math.inf}), tmp_path, {})


def test_a_value_that_is_no_number_is_the_models_fault_and_final() -> None:
    with pytest.raises(ValidationError) as raised:
        RecordIn(item="1", name="kl", value=math.nan)
    assert runner.classify(raised.value) == ("error", f"what it computed is no number. {ModelError.cure}")


def test_a_cause_counts_unless_the_kind_said_itself_what_is_wrong() -> None:
    wrapped = RuntimeError("writing failed")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert runner.classify(wrapped)[0] == "disk"
    said = DataError("the file is damaged")
    said.__cause__ = MemoryError()
    assert runner.classify(said) == ("error", str(said))
