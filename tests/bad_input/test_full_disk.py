"""The disk is full in the middle of each kind's write: the attempt ends `disk`, and with room again it is done.

The runner is the real one; the disk is a small one of its own (a tmpfs, so these tests need Linux).
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jsm_queue.kinds import (
    AnswerParams,
    BaseRef,
    ConvertParams,
    FileRef,
    JudgeParams,
    LatencyParams,
    Params,
    ParityParams,
    PrepareParams,
    ScoreParams,
    TrainParams,
)
from jsm_queue.settings import Settings
from jsm_queue.spec import DecodingSpec, TrainingSpec
from jsm_queue.store.database import open_store
from jsm_queue.store.tokens import create_token
from tests.disks import fill
from tests.pool import write_study
from tests.unit.studies import sha
from workers.gguf import tiny
from workers.outbox import Outbox
from workers.runner import RESULT, EventLine, JobLine

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a disk of a test's own is a tmpfs"),
    pytest.mark.timeout(300),
]

BASE = BaseRef(form="folder")
DECODING = DecodingSpec(max_new_tokens=4, context=256)
TRAINING = TrainingSpec(quantized=False, r=4, alpha=8, batch=4, epochs=1, max_length=128)
KINDS: dict[str, Params] = {
    "prepare": PrepareParams(
        source=FileRef(sha=sha("pairs"), suffix=".jsonl"), bench=None, seed=0, validation=10, test_taught=5,
        test_unseen=5, near_duplicate=0.8, max_answer_chars=1000,
    ),
    "train": TrainParams(base=BASE, n=8, seed=1, training=TRAINING, system_prompt=None),
    "score": ScoreParams(base=BASE, split="test", quantized=False, max_length=128, system_prompt=None),
    "convert": ConvertParams(base=BASE, format="Q8_0"),
    "parity": ParityParams(base=BASE, reference="model", prompts=1, system_prompt=None),
    "answer": AnswerParams(split="test", decoding=DECODING, system_prompt=None),
    "judge": JudgeParams.model_validate({"judge": {"kind": "key_facts"}, "split": "test"}),
    "latency": LatencyParams(
        study="s", stage="bases", hardware="any", cells=["a"], questions=1, repeats=1, decoding=DECODING,
        system_prompt=None,
    ),
}  # fmt: skip


class Runner:
    """A runner process, and the folder whose `inputs` it works on."""

    def __init__(self, home: Path) -> None:
        self.inputs = home / "inputs"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers.runner"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, kind: str, folder: Path) -> EventLine:
        """The last event of a job of that kind which writes into `folder`."""
        line = JobLine(
            attempt="a", kind=kind, params=KINDS[kind].model_dump(mode="json"), inputs=self.inputs, folder=folder,
            device="cpu", threads=1,
        )  # fmt: skip
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line.model_dump_json().encode() + b"\n")
        self.process.stdin.flush()
        for said in self.process.stdout:
            event = EventLine.model_validate_json(said)
            if event.event != "progress":
                return event
        raise AssertionError(f"the runner died in {kind}: exit code {self.process.wait()}")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """All kinds have run, so that each has its inputs; what each wrote is in `calm/<kind>`."""
    home = tmp_path_factory.mktemp("kinds")
    runner = Runner(home)
    write_study(home)
    tiny.save_base(runner.inputs / "base", "qwen2")
    (runner.inputs / "source").mkdir()
    (home / "pairs.jsonl").rename(runner.inputs / "source" / "source.jsonl")
    for kind, need in (
        ("prepare", "dataset"), ("train", "adapter"), ("convert", "gguf"), ("convert", "gguf.0"), ("answer", "answers"),
    ):  # fmt: skip
        (runner.inputs / need).mkdir()
        event = runner.run(kind, runner.inputs / need)
        assert event.event == "done", event
    yield runner
    runner.process.kill()
    runner.process.wait()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_ends_disk_and_is_done_with_room(runner: Runner, disk: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "calm").mkdir()
    assert runner.run(kind, tmp_path / "calm").event == "done"
    box = Outbox(disk)
    folder = box.begin("a1") / "out"
    filler = fill(disk, leave=size(tmp_path / "calm") // 2)
    event = runner.run(kind, folder)
    assert (event.event, event.reason) == ("failed", "disk"), event
    assert not (folder / RESULT).exists() and not box.is_finished("a1")
    filler.unlink()
    folder = box.begin("a1") / "out"
    assert runner.run(kind, folder).event == "done"
    box.put("a1")
    assert box.attempts() == ["a1"]


DATA = bytes(range(256)) * 4 * 1024  # 1 MiB
SHA = hashlib.sha256(DATA).hexdigest()


def send(client: TestClient) -> Any:
    """Upload DATA from the byte on that the api asks for."""
    state = client.post("/v1/artifacts", json={"sha": SHA, "size": len(DATA)})
    if not state.is_success or state.json()["have"]:
        return state
    offset = state.json()["offset"]
    headers = {"Upload-Offset": str(offset), "Upload-Length": str(len(DATA))}
    return client.patch(f"/v1/artifacts/{SHA}", content=DATA[offset:], headers=headers)


def test_the_apis_disk_fills_up_in_an_upload(disk: Path) -> None:
    settings = Settings(home=disk, broker_url="redis://127.0.0.1:1/0")
    token = create_token(open_store(settings.store_url), "admin")
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {token}"}) as client:
        filler = fill(disk, leave=len(DATA) // 2)
        told = send(client)
        assert told.status_code == 503
        assert told.json()["error"]["code"] == "store_away"
        assert "full" in told.json()["error"]["message"]
        assert client.get(f"/v1/artifacts/{SHA}").status_code == 404
        filler.unlink()
        assert send(client).json() == {"have": True, "offset": len(DATA)}
        assert client.get(f"/v1/artifacts/{SHA}").content == DATA
