"""`jsm worker yield` and `jsm worker doctor`, without a worker or with what one wrote."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jsm_queue import processes, yielding
from jsm_queue.cli import courtesy, doctor, workerchecks
from jsm_queue.cli.checks import Check
from jsm_queue.cli.main import app
from jsm_queue.errors import RequestError, SetupError

GPU = {"device": "cuda:0", "name": "NVIDIA GeForce RTX 4060 Ti", "free": 15e9, "total": 17e9, "threads": 6}
FOUND: dict[str, Any] = {
    "pid": 12,
    "hardware": {"driver": "580.95.05"},
    "kinds": {"prepare": "", "train": "not installed: torch. With it: python -m pip install torch"},
    "readings": {"on battery": "no", "full screen": None},
    "slots": [GPU, {"device": "cpu", "name": "Ryzen", "free": 9e9, "total": 32e9, "threads": 6}],
}


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1d", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert courtesy.duration(text) == seconds


@pytest.mark.parametrize("text", ["99999999999h", "", "soon", "2", "0h", "-1h", "2h later"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is no duration"):
        courtesy.duration(text)


def test_an_end_has_no_period(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="contradict"):
        courtesy.give_back("2h", True, tmp_path, False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["start", "yield", "doctor", "install-service"])
def test_a_file_is_no_worker_s_folder(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["worker", command, "--home", str(tmp_path / "file")])
    assert isinstance(done.exception, SetupError) and "is a file" in done.exception.message


def test_without_a_worker_the_word_waits_for_one(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["worker", "yield", "--for", "2h", "--home", str(tmp_path)])
    assert shown.exit_code == 0 and "no worker runs here now" in shown.output
    asked = yielding.read(tmp_path)
    assert asked and asked.until
    shown = CliRunner().invoke(app, ["worker", "yield", "--end", "--home", str(tmp_path)])
    assert shown.exit_code == 0 and yielding.read(tmp_path) is None


def test_a_folder_that_is_no_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no worker's folder"):
        courtesy.give_back(None, False, tmp_path / "nowhere", as_json=False)


def test_it_waits_until_the_worker_has_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes.write_pid_file(tmp_path / "agent.pid", os.getpid())
    monkeypatch.setattr(courtesy, "GIVEN_S", 0.2)
    yielding.note(tmp_path, {"0": {"wish": "release", "why": ""}, "1": {"wish": "run", "why": ""}})
    assert courtesy.give_back(None, False, tmp_path, as_json=True) == 1
    yielding.note(tmp_path, {"0": {"wish": "release", "why": ""}})
    (tmp_path / "slots").mkdir()
    (tmp_path / "slots" / "slot0.pid").touch()
    assert courtesy.give_back(None, False, tmp_path, as_json=True) == 1, "a runner is still there"
    (tmp_path / "slots" / "slot0.pid").unlink()
    assert courtesy.give_back(None, False, tmp_path, as_json=True) == 0


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_what_a_machine_can_do_is_said_line_by_line() -> None:
    found = named(workerchecks.machine(FOUND))
    assert found["worker"].found == "runs as process 12"
    assert found["slot 0"].found == ("cuda:0: NVIDIA GeForce RTX 4060 Ti, driver 580.95.05; 15.0 of 17.0 GB free")
    assert found["kind prepare"].state == "ok"
    assert found["kind train"] == Check(
        "kind train", "warning", "not installed: torch", "With it: python -m pip install torch"
    )
    assert found["owner: on battery"].found == "no"
    assert found["owner: full screen"].found == "unknown here, so it stops no work"


def test_a_small_gpu_and_a_slot_that_stands_back_are_said() -> None:
    small = GPU | {"total": 6e9, "wish": "release", "why": "eldenring runs"}
    check = named(workerchecks.machine(FOUND | {"slots": [small], "pid": None}))
    assert check["slot 0"].state == "warning" and check["slot 0"].found.endswith("given back: eldenring runs")
    assert "install-service" in check["worker"].fix


def test_a_machine_that_cannot_be_examined_is_a_problem() -> None:
    (check,) = workerchecks.machine({"error": "No module named 'psutil'", "missing": False})
    assert check.state == "problem" and check.fix


def test_the_doctor_of_a_worker_asks_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_native", lambda: [Check("torch", "problem", "CPU build", "pip install it")])
    monkeypatch.setattr(doctor, "_hub", lambda: [])
    shown = CliRunner().invoke(app, ["worker", "doctor", "--home", str(tmp_path), "--json"])
    assert shown.exit_code == 3
    names = [check["name"] for check in json.loads(shown.output)["checks"]]
    for name in ("worker", "slot 0", "kind train", "owner: hours", "packages (worker)", "disk", "api", "clock"):
        assert name in names
    assert "packages (api)" not in names and not list(tmp_path.iterdir())


def test_a_time_beyond_all_calendars_is_for_ever(tmp_path: Path) -> None:
    (tmp_path / "yield.json").write_text('{"until": 1e300}', encoding="utf-8")
    asked = yielding.read(tmp_path)
    assert asked is not None
    assert asked.until is None
