"""The worker as a service: what is written for each system, and what is run."""

import json
import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from workers import service
from workers.service import Service

TASKS = f"{{{service.TASKS}}}"
UGLY = Service(
    python="/opt/my venv/bin/python",
    home=Path('/home/a/100% "jsm"/worker'),
    settings_home=Path("/home/a/$HOME/jsm"),
    api="https://192.168.0.5:8080",
    name="太郎's PC",
)


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home, with a worker that joined a pool, and a `systemctl` that notes what it is told."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    worker = tmp_path / "jsm" / "worker"
    worker.mkdir(parents=True)
    identity = {"worker": "a1b2c3d4", "token": "secret-token", "broker_secret": "hush", "api": "https://pool:8080"}
    (worker / "identity.json").write_text(json.dumps(identity), encoding="utf-8")
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/told\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def call(user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    """What `python -m workers.service` prints."""
    home = ["--home", str(user / "jsm" / "worker"), "--settings-home", str(user / "jsm")]
    monkeypatch.setattr(sys, "argv", ["service", words[0], *home, *words[1:]])
    service.main()
    return json.loads(capsys.readouterr().out)


def told(user: Path) -> list[str]:
    """The words of each `systemctl` since the last look."""
    file = user / "told"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


# ---- systemd -----------------------------------------------------------------------------------------------


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    """By systemd's own check where it is installed; what must be in it everywhere."""
    (tmp_path / "my venv").mkdir()
    interpreter = tmp_path / "my venv" / "python"
    interpreter.symlink_to(sys.executable)
    there = Service(str(interpreter), tmp_path / '100% "x"', tmp_path, UGLY.api, UGLY.name)
    file = tmp_path / "jsm-worker.service"
    file.write_text(service.unit(there), encoding="utf-8")
    sections = {line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("[")}
    assert sections == {"[Unit]", "[Service]", "[Install]"}
    if shutil.which("systemd-analyze"):
        verify = ["systemd-analyze", "verify", "--user", "--man=no", str(file)]
        done = subprocess.run(
            verify, capture_output=True, text=True, env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
        )
        assert "jsm-worker.service" not in done.stderr, done.stderr


def test_the_unit_quotes_what_means_something_to_systemd() -> None:
    text = service.unit(UGLY)
    assert r'"--home" "/home/a/100%% \"jsm\"/worker"' in text
    assert 'ExecStart="/opt/my venv/bin/python" "-m" "workers"' in text
    assert 'Environment="JSM_HOME=/home/a/$HOME/jsm"' in text, "a variable stands for itself there"
    assert "Restart=always" in text and "RestartPreventExitStatus=5 6" in text


def test_a_word_with_a_dollar_is_no_variable_of_the_command_line() -> None:
    text = service.unit(Service("/p", Path("/a$b"), Path("/s"), None, "x"))
    assert '"/a$$b"' in text and "--api" not in text


def test_install_starts_it_once_and_again_only_what_changed(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = call(user, monkeypatch, capsys, "install", "--name", "gamer")
    unit = Path(answer["path"])
    assert unit == user / "config" / "systemd" / "user" / "jsm-worker.service"
    assert told(user) == ["--user daemon-reload", f"--user enable {unit.name}", f"--user restart {unit.name}"]
    written = unit.read_text(encoding="utf-8")
    assert not any(secret in written for secret in ("secret-token", "hush"))
    call(user, monkeypatch, capsys, "install", "--name", "gamer")
    assert told(user) == ["--user daemon-reload", f"--user enable --now {unit.name}"]
    call(user, monkeypatch, capsys, "install", "--name", "other")
    assert told(user)[-1] == f"--user restart {unit.name}"
    assert call(user, monkeypatch, capsys, "uninstall")["existed"]
    assert told(user) == [f"--user disable --now {unit.name}", "--user daemon-reload"] and not unit.exists()
    assert not call(user, monkeypatch, capsys, "uninstall")["existed"]


def test_a_dry_run_does_nothing(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = call(user, monkeypatch, capsys, "install", "--dry-run")
    assert "ExecStart=" in answer["content"] and not Path(answer["path"]).exists() and told(user) == []
    assert answer["joined"] and not answer["existed"]
    (user / "jsm" / "worker" / "identity.json").unlink()
    assert not call(user, monkeypatch, capsys, "install", "--dry-run")["joined"]


def test_what_systemd_refuses_is_said_with_the_command(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (user / "bin" / "systemctl").write_text(
        "#!/bin/sh\necho 'Failed to connect to bus' >&2; exit 1\n", encoding="utf-8"
    )
    answer = call(user, monkeypatch, capsys, "install")
    assert "Failed to connect to bus" in answer["message"] and "systemctl --user daemon-reload" in answer["fix"]
    monkeypatch.setenv("PATH", "/nowhere")
    answer = call(user, monkeypatch, capsys, "install")
    assert "systemctl is not there" in answer["message"] and "jsm worker start" in answer["fix"]


def test_a_worker_that_never_joined_is_refused(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (user / "jsm" / "worker" / "identity.json").unlink()
    answer = call(user, monkeypatch, capsys, "install", "--api", "https://pool:8080")
    assert "has not joined a pool" in answer["message"] and told(user) == []


@pytest.mark.parametrize("api", ["pool:8080", "https://user:hush@pool:8080", "ftp://pool"])
def test_an_address_that_is_none_or_holds_a_password_is_refused(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], api: str
) -> None:
    assert "is not an api's URL" in call(user, monkeypatch, capsys, "install", "--api", api)["message"]


def test_a_name_is_no_further_line_of_the_unit(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = call(
        user, monkeypatch, capsys, "install", "--api", "https://pool", "--name", "pc\nExecStartPre=/bin/false"
    )
    assert "line break" in answer["message"] and told(user) == []


def test_a_worker_that_runs_already_is_not_started_twice(
    user: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service.processes, "find_leftover", lambda _: object())
    assert "already runs" in call(user, monkeypatch, capsys, "install")["message"]


# ---- Windows and macOS, as text ----------------------------------------------------------------------------


def test_the_windows_task_has_what_its_schema_wants() -> None:
    text = service.task(UGLY, "GAMING\\taro")
    assert text.startswith((b"\xff\xfe", b"\xfe\xff")), "schtasks reads UTF-16 with its mark"
    root = ElementTree.fromstring(text)
    assert root.tag == f"{TASKS}Task" and root.get("version") == "1.4"
    order = ["RegistrationInfo", "Triggers", "Principals", "Settings", "Actions"]
    assert [child.tag.removeprefix(TASKS) for child in root] == order

    def said(path: str) -> str | None:
        return root.findtext("/".join(f"{TASKS}{part}" for part in path.split("/")))

    expected = {
        "Triggers/LogonTrigger/UserId": "GAMING\\taro",
        "Triggers/LogonTrigger/Repetition/Interval": "PT5M",
        "Principals/Principal/LogonType": "InteractiveToken",
        "Principals/Principal/RunLevel": "LeastPrivilege",
        "Settings/MultipleInstancesPolicy": "IgnoreNew",
        "Settings/DisallowStartIfOnBatteries": "false",
        "Settings/StopIfGoingOnBatteries": "false",
        "Settings/ExecutionTimeLimit": "PT0S",
        "Settings/RestartOnFailure/Interval": "PT1M",
        "Settings/RestartOnFailure/Count": "255",
        "Actions/Exec/Command": UGLY.python,
        "Actions/Exec/WorkingDirectory": str(UGLY.settings_home),
    }
    assert {path: said(path) for path in expected} == expected
    arguments = said("Actions/Exec/Arguments") or ""
    assert arguments.startswith("-m workers.service run --settings-home") and '100% \\"jsm\\"' in arguments
    principal = root.find(f"{TASKS}Principals/{TASKS}Principal")
    actions = root.find(f"{TASKS}Actions")
    assert principal is not None and actions is not None and principal.get("id") == actions.get("Context")


def test_the_macos_agent_is_one_that_launchd_reads(tmp_path: Path) -> None:
    found = plistlib.loads(service.plist(UGLY))
    assert found["ProgramArguments"][:3] == [UGLY.python, "-m", "workers"]
    assert found["RunAtLoad"] and found["KeepAlive"] == {"SuccessfulExit": False}
    assert found["EnvironmentVariables"] == {"JSM_HOME": str(UGLY.settings_home)}


@pytest.mark.parametrize(
    ("system", "programs"),
    [("win32", ["schtasks", "schtasks"]), ("darwin", ["launchctl", "launchctl"]), ("linux", ["systemctl"] * 3)],
)
def test_each_system_is_told_by_its_own_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, programs: list[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    there = Service(sys.executable, tmp_path / "worker", tmp_path, None, "pc")
    plan = service.installing(there, system)
    assert [step.argv[0] for step in plan.steps] == programs
    assert plan.path.is_relative_to(tmp_path) and plan.content
    removal = service.uninstalling(there.home, system)
    assert removal.path == plan.path and removal.content is None and not any(step.must for step in removal.steps)


def test_windows_takes_the_python_without_a_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.sys, "executable", str(tmp_path / "python.exe"))
    assert service.python("win32").endswith("python.exe")
    (tmp_path / "pythonw.exe").touch()
    assert service.python("win32").endswith("pythonw.exe") and service.python("linux").endswith("python.exe")


def test_run_is_the_agent_with_its_settings_and_a_log(tmp_path: Path) -> None:
    """As Windows starts it: without console, environment or folder of its own."""
    (tmp_path / "jsm").mkdir()
    (tmp_path / "jsm" / "settings.toml").write_text('log_format = "json"\n', encoding="utf-8")
    argv = ["-m", "workers.service", "run", "--settings-home", str(tmp_path / "jsm"), "--home", str(tmp_path / "w")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JSM_")}
    environment["PYTHONPATH"] = str(Path.cwd())
    done = subprocess.run([sys.executable, *argv], env=environment, capture_output=True)
    assert done.returncode == 3 and not done.stdout
    last = json.loads((tmp_path / "w" / "logs" / "agent.log").read_text(encoding="utf-8").splitlines()[-1])
    assert last["level"] == "error" and "which pool" in last["message"]
