"""What the doctor concludes from figures, and the command on this machine."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from jsm_queue import processes
from jsm_queue.cli import checks, doctor
from jsm_queue.cli.checks import Check
from jsm_queue.cli.main import app
from jsm_queue.settings import Settings

CPU: dict[str, Any] = {"version": "2.13.0+cpu", "cuda": None, "usable": False, "archs": [], "capability": None}
CUDA: dict[str, Any] = {
    "version": "2.13.0+cu130",
    "cuda": "13.0",
    "usable": True,
    "archs": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_120"],
    "capability": [8, 9],
}
NONE: dict[str, Any] = {"names": [], "driver": None}
GAMING: dict[str, Any] = {"names": ["NVIDIA GeForce RTX 4060 Ti"], "driver": [13, 0]}
BROKEN = {"error": "OSError: libfoo.so: cannot open", "missing": False}
MISSING = {"error": "No module named 'x'", "missing": True}


@pytest.mark.parametrize(("version", "bits", "state"), [((3, 11, 0), 64, "ok"), ((3, 10, 9), 64, "problem")])
def test_python(version: tuple[int, ...], bits: int, state: str) -> None:
    assert checks.python(version, bits).state == state
    assert checks.python(version, 32).state == "problem"


REQUIREMENTS = ["httpx>=0.28,<1", "win-only; sys_platform == 'nowhere'", "fastapi>=0.120; extra == 'api'"]


@pytest.mark.parametrize(
    ("installed", "states"),
    [
        ({"httpx": "0.28.1", "fastapi": "0.165.0"}, ["ok", "ok"]),
        ({"httpx": "0.28.1"}, ["ok", "warning"]),
        ({"httpx": "0.27.0", "fastapi": "0.165.0"}, ["problem", "ok"]),
        ({"fastapi": "0.1"}, ["problem", "warning"]),
    ],
)
def test_packages_and_each_part(installed: dict[str, str], states: list[str]) -> None:
    found = checks.packages(REQUIREMENTS, installed)
    assert [found[0].state, found[1].state] == states
    assert all(bool(check.fix) == (check.state != "ok") for check in found)
    assert checks.packages(None, {})[0].state == "problem"


@pytest.mark.parametrize(
    ("torch", "gpus", "state", "words"),
    [
        (CPU, NONE, "ok", "CPU slots only"),
        (CPU, GAMING, "problem", "CPU build, which does not use NVIDIA GeForce RTX 4060 Ti"),
        (CUDA, GAMING, "ok", "RTX 4060 Ti"),
        (CUDA | {"usable": False}, GAMING | {"driver": [12, 4]}, "problem", "driver speaks CUDA 12.4"),
        (CUDA | {"usable": False}, GAMING | {"driver": [11, 8]}, "problem", "needs one that speaks CUDA 12.0"),
        (CUDA | {"capability": [6, 1]}, GAMING, "problem", "no code for"),
        (CUDA, NONE, "ok", "no NVIDIA GPU"),
        (MISSING, GAMING, "warning", "not installed"),
        (BROKEN, NONE, "problem", "cannot open"),
    ],
)
def test_torch_against_the_gpu(torch: dict[str, Any], gpus: dict[str, Any], state: str, words: str) -> None:
    check = checks.torch(torch, gpus, "/v/python")
    assert check.state == state and words in f"{check.found} {check.fix}"


@pytest.mark.parametrize(
    ("driver", "build"),
    [([13, 1], "cu130"), ([12, 9], "cu128"), ([12, 8], "cu128"), ([12, 4], "cu126"), (None, "cu130")],
)
def test_the_pip_line_fits_the_driver(driver: list[int] | None, build: str) -> None:
    line = checks.torch_line("2.13.0+cpu", driver, "/my venv/python")
    assert line.startswith("'/my venv/python' -m pip install --force-reinstall torch==2.13.0 ")
    assert line.endswith(f"/{build}")


@pytest.mark.parametrize(
    ("archs", "capability", "fits"),
    [
        (["sm_80", "sm_86"], [8, 9], True),
        (["sm_80"], [9, 0], False),
        (["sm_80", "compute_80"], [9, 0], True),
        (["sm_90a"], [9, 0], True),
        (["sm_120"], [8, 9], False),
        (["sm_75"], [6, 1], False),
        ([], [9, 0], True),
        (["sm_75"], None, True),
    ],
)
def test_a_build_is_made_for_a_gpu(archs: list[str], capability: list[int] | None, fits: bool) -> None:
    assert checks.is_made_for(archs, capability) == fits


def test_native_libraries() -> None:
    assert checks.bitsandbytes({"version": "0.50.2", "device": "cpu"}).state == "ok"
    assert checks.bitsandbytes(BROKEN).state == checks.llama_cpp(BROKEN).state == "problem"
    assert checks.bitsandbytes(MISSING).state == checks.llama_cpp(MISSING).state == "warning"
    assert checks.llama_cpp({"version": "0.3.36"}).state == "ok"


@pytest.mark.parametrize(
    ("found", "loads", "system", "state", "words"),
    [
        ("c++", True, "Linux", "ok", "c++"),
        (None, True, "Linux", "warning", "apt install g++"),
        (None, False, "Linux", "problem", "apt install g++"),
        (None, False, "Windows", "problem", "BuildTools"),
        (None, False, "Darwin", "problem", "xcode-select"),
    ],
)
def test_the_compiler(found: str | None, loads: bool, system: str, state: str, words: str) -> None:
    check = checks.compiler(found, loads, system)
    assert check.state == state and words in f"{check.found} {check.fix}"


@pytest.mark.parametrize(("free", "state"), [(50e9, "ok"), (20e9, "warning"), (1e9, "problem")])
def test_the_disk(free: float, state: str) -> None:
    check = checks.disk("disk", Path("/data"), int(free))
    assert check.state == state and bool(check.fix) == (state != "ok")


@pytest.mark.parametrize(
    ("told", "free", "pool", "state"),
    [(0, True, False, "ok"), (0, False, False, "ok"), (8080, False, True, "ok"), (8080, False, False, "problem")],
)
def test_a_port(told: int, free: bool, pool: bool, state: str) -> None:
    check = checks.port("api", told, 8080, free, pool)
    assert check.state == state and "8080" in check.found
    assert ("JSM_API_PORT" in check.fix) == (state == "problem")


def test_the_api_and_its_clock() -> None:
    assert checks.api(None, False, None).state == "ok"
    assert checks.api("http://a", True, "refused").state == "problem"
    assert checks.api("http://a", False, "refused").state == "warning"
    full = checks.api("http://a", True, None, store_away=True)
    assert full.state == "problem" and "make room" in full.fix
    assert checks.clock(None, "Linux").state == checks.clock(-2.0, "Linux").state == "ok"
    ahead, behind = checks.clock(90.0, "Linux"), checks.clock(-90.0, "Windows")
    assert "90 s ahead" in ahead.found and "timedatectl" in ahead.fix
    assert "90 s behind" in behind.found and "w32tm" in behind.fix and behind.state == "warning"


def test_hub_queue_and_store() -> None:
    assert checks.hub("https://h", None).state == "ok"
    assert "folders or .gguf files work" in checks.hub("https://h", "no route").found
    assert checks.broker(None, True, None).state == "ok"
    assert checks.broker(None, False, None).state == "warning"
    assert checks.broker("rediss://h", False, "refused").state == "problem"
    assert checks.database("postgresql://h", "refused").state == "problem"


def test_the_clock_is_read_from_the_apis_date(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(url: str, **_: Any) -> httpx.Response:
        headers = {"Date": "Wed, 25 Nov 2026 12:00:00 GMT"}
        return httpx.Response(200, headers=headers, request=httpx.Request("GET", url))

    monkeypatch.setattr(doctor.httpx, "get", answer)
    monkeypatch.setattr(doctor.time, "time", lambda: 1795608000.0 + 75)
    assert doctor._ask_api("http://a") == (None, 75.0, False)


def test_the_broker_rule_and_passwords() -> None:
    check = doctor._broker("redis://:hush@10.1.2.3/0")
    assert check.state == "problem" and "TLS" in check.found and "hush" not in check.found
    away = doctor._broker(f"redis://:hush@127.0.0.1:{processes.free_port()}/0")
    assert away.state == "problem" and "hush" not in away.found


def test_the_store_is_neither_made_nor_changed(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    assert doctor._database(f"sqlite:///{file}").state == "ok" and not file.exists()
    file.write_bytes(b"this is no database" * 100)
    assert doctor._database(f"sqlite:///{file}").state == "problem"
    away = doctor._database("postgresql://jsm:hush@127.0.0.1:1/jsm")
    assert away.state == "problem" and "hush" not in away.found
    assert doctor._database("bogus://x").state == "problem"


def test_a_library_that_kills_its_process_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "executable", "/bin/false")
    assert doctor.probe("torch")["error"].startswith("loading it ended with exit status")
    monkeypatch.setattr(doctor.sys, "executable", "/not/there")
    assert "error" in doctor.probe("torch")


def test_a_host_that_is_none_is_a_finding(tmp_path: Path) -> None:
    found = doctor._ports(Settings(home=tmp_path, host="no.such.host.invalid"), tmp_path)
    assert found[0].state == "problem" and found[1].state == "ok"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    found = [Check("disk", "ok", "much"), Check("torch", "problem", "[CPU] build", "pip install it")]
    monkeypatch.setattr(doctor, "examine", lambda *_: found)
    return found


def test_a_problem_is_the_exit_status(found: list[Check]) -> None:
    shown = CliRunner().invoke(app, ["doctor", "--json"])
    assert shown.exit_code == 3
    assert json.loads(shown.output)["problems"] == 1
    found.pop()
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_the_table_has_what_to_do_under_what_is_wrong(found: list[Check], capsys: pytest.CaptureFixture[str]) -> None:
    doctor.show(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["problem", "torch", "[CPU]", "build"]
    assert lines[2].strip() == "→ pip install it"


def test_this_machine_is_examined(tmp_path: Path) -> None:
    names = [check.name for check in doctor.examine(Settings(home=tmp_path), tmp_path)]
    assert names[0] == "python" and names[-1] == "database"
    for name in (
        "torch",
        "bitsandbytes",
        "llama_cpp",
        "compiler",
        "disk",
        "home",
        "port api",
        "clock",
        "hub",
        "broker",
    ):
        assert name in names
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"
