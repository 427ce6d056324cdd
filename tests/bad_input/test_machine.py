"""What a machine, its settings or a command line may be: one clear line each, and nothing half-done."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import pytest

from jsm_queue import processes
from jsm_queue.cli.main import main
from jsm_queue.cli.up import locked
from jsm_queue.settings import OTHER_VARIABLES, Settings, settings

ROOT = Path(__file__).resolve().parents[2]


def run(argv: list[str], home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("JSM_")}
    told = {**clean, "JSM_HOME": str(home), **env}
    return subprocess.run(
        [sys.executable, "-m", *argv], capture_output=True, encoding="utf-8", env=told, cwd=ROOT, timeout=60
    )


def jsm(*arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return run(["jsm_queue.cli", *arguments], home, **env)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """`here(arguments, **variables)`: the command line in this process, which is quicker."""
    for name in [name for name in os.environ if name.upper().startswith("JSM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JSM_HOME", str(tmp_path))

    def call(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["jsm", *arguments])
        settings.cache_clear()
        with pytest.raises(SystemExit) as left:
            main()
        said, told = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(left.value.code or 0), said, told)

    yield call
    settings.cache_clear()


def one_line(done: subprocess.CompletedProcess[str], status: int) -> str:
    """Its only line. Fails when there are more, or another exit status."""
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which something else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# ---- home folder and ports ---------------------------------------------------------------------------------


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    assert str(tmp_path / "home") in one_line(jsm("up", home=tmp_path / "home"), 3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a folder that nobody may write in")
def test_a_home_that_is_not_writable(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write everywhere but on a disk that is read-only
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(home)], check=True)
    try:
        assert str(home) in one_line(jsm("up", home=home), 3)
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "-l", str(home)], check=True)


def test_a_home_that_is_a_circle(here: Any, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    assert str(tmp_path / "one") in one_line(here("status", JSM_HOME=str(tmp_path / "one")), 3)


def test_a_home_in_which_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "up.lock").mkdir()
    assert "writable folder" in one_line(jsm("up", home=tmp_path), 3)


@pytest.mark.parametrize("name", ["api", "flower"])
def test_a_port_that_is_taken(tmp_path: Path, taken: int, name: str) -> None:
    said = one_line(jsm("up", home=tmp_path, **{f"JSM_{name.upper()}_PORT": str(taken)}), 3)
    assert f"Port {taken} for {name} is taken" in said and f"JSM_{name.upper()}_PORT" in said
    assert not (tmp_path / "endpoint.json").exists()


def test_a_port_that_this_user_may_not_open(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bind = processes._bind

    def refused(port: int, host: str) -> int:
        if port == 80:
            raise PermissionError(13, "Permission denied")
        return bind(port, host)

    monkeypatch.setattr(processes, "_bind", refused)
    assert "Port 80 for api may not be opened by this user" in one_line(here("up", JSM_API_PORT="80"), 3)


def test_one_port_for_two_parts(tmp_path: Path) -> None:
    said = one_line(jsm("up", home=tmp_path, JSM_API_PORT="18080", JSM_FLOWER_PORT="18080"), 3)
    assert "Port 18080 is told for api and flower" in said and "JSM_FLOWER_PORT" in said


def test_an_api_on_a_port_that_is_taken(tmp_path: Path, taken: int) -> None:
    done = run(["api"], tmp_path, JSM_API_PORT=str(taken), JSM_BROKER_URL="redis://127.0.0.1:1/0")
    assert f"Port {taken} on 127.0.0.1 is taken" in one_line(done, 3)


def test_a_second_up(tmp_path: Path) -> None:
    with locked(tmp_path):
        said = one_line(jsm("up", home=tmp_path), 3)
    assert "jsm runs there already" in said and "jsm down" in said


# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("JSM_API_PROT", "1", "is JSM_API_PORT meant?"),
        ("JSM_LEASE", "1", "is JSM_LEASE_S meant?"),
        ("JSM_XYZZY", "1", "JSM_XYZZY is no setting —"),
        ("JSM_API_PORT", "many", "JSM_API_PORT: "),
        ("JSM_API_PORT", "99999", "JSM_API_PORT: "),
        ("JSM_LEASE_S", "0", "JSM_LEASE_S: "),
        ("JSM_LEASE_S", "1e400", "should be a finite number"),
        ("JSM_LEASE_S", "20", "JSM_HEARTBEAT_S: 15 s are more than half of JSM_LEASE_S, 20 s"),
        ("JSM_CPU_SLOTS", "-1", "JSM_CPU_SLOTS: "),
        ("JSM_CPU_SLOTS", "999999", "JSM_CPU_SLOTS: "),
        ("JSM_LOG_FORMAT", "xml", "'text' or 'json'"),
        ("JSM_LOG_LEVEL", "LOUD", "'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_variable_that_cannot_be(here: Any, variable: str, value: str, words: str) -> None:
    said = one_line(here("status", **{variable: value}), 3)
    assert variable in said and words in said and "docs/settings.md" in said


@pytest.mark.parametrize("program", ["api", "workers --home w --api http://127.0.0.1:1"])
def test_every_program_refuses_a_variable_that_cannot_be(tmp_path: Path, program: str) -> None:
    done = run(program.split(), tmp_path, JSM_API_PROT="1")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1) and "is JSM_API_PORT meant?" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("api_prot = 8080\n", "api_prot is no setting; is api_port meant?"),
        ("api_port = \n", "is not TOML in UTF-8"),
        ("api_port = 'x'\n", "JSM_API_PORT: "),
        ("home = '/srv/jsm'\n", "home is without effect there"),
        ("[api]\nport = 8080\n", "api is no setting"),
    ],
)
def test_a_broken_settings_file(here: Any, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    said = one_line(here("status"), 3)
    assert words in said and "settings.toml" in said


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    code = "from jsm_queue.settings import settings, toml_file; print(settings().home, settings().lease_s, toml_file())"
    env = {name: value for name, value in os.environ.items() if not name.startswith("JSM_")}
    empty = env | {"JSM_HOME": "", "JSM_LEASE_S": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=empty, cwd=tmp_path)
    assert done.stdout.split() == [".jsm", "60.0", str(Path(".jsm", "settings.toml"))], done.stderr


def test_a_settings_file_that_is_none(here: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").mkdir()
    assert "settings.toml is no file" in one_line(here("status"), 3)
    (tmp_path / "settings.toml").rmdir()
    (tmp_path / "settings.toml").symlink_to(tmp_path / "nothing")
    assert "settings.toml is no file" in one_line(here("status"), 3)


def test_every_known_variable_is_taken(tmp_path: Path) -> None:
    shown = {name: "" for name in OTHER_VARIABLES if "CRASH" not in name and name not in ("JSM_LIFELINE", "JSM_DEBUG")}
    shown["JSM_JUDGE_KEY"] = shown.pop("JSM_JUDGE_…")
    told = {
        f"JSM_{name.upper()}": str(field.examples[0]) for name, field in Settings.model_fields.items() if field.examples
    }
    code = "from jsm_queue.settings import settings; print(settings().log_format)"
    env = {name: value for name, value in os.environ.items() if not name.startswith("JSM_")} | shown | told
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=env, cwd=ROOT)
    assert done.stdout == "json\n", done.stderr


@pytest.mark.parametrize("url", ["notaurl", "127.0.0.1:8080", "ftp://x", "http://", "http://[", "http://a b"])
@pytest.mark.parametrize("token", ["x", ""])
def test_an_address_that_is_none(here: Any, url: str, token: str) -> None:
    assert "http://127.0.0.1:8080" in one_line(here("status", JSM_API_URL=url, JSM_TOKEN=token), 3)


# ---- names and options -------------------------------------------------------------------------------------


class Api(BaseHTTPRequestHandler):
    """An api without studies, which notes what it is asked."""

    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        name = unquote(self.path.rpartition("/")[2])
        body: dict[str, Any] = {"error": {"code": "not_found", "message": f"No study {name!r}", "fix": "`jsm status`"}}
        status = 404
        if self.path == "/v1/studies":
            status, body = 200, {"studies": []}
        elif self.path.count("/") > 3 or "%2F" in self.path:
            body = {"error": {"code": "http", "message": "Not Found", "fix": "See /docs"}}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["../../x", "a/b", "", " ", "..", ".", "abc", "?x=1", "#x", "%2e%2e", "河川"])
def test_a_study_that_is_none(here: Any, api: str, name: str) -> None:
    Api.paths.clear()
    said = one_line(here("status", name, JSM_API_URL=api, JSM_TOKEN="x"), 4)
    assert f"No study {name!r}" in said
    asked = [path for path in Api.paths if path != "/v1/studies"]
    assert [path.count("/") for path in asked] == ([] if "/" in name else [3]), "the name stays one part of the path"
    assert all(path.startswith("/v1/studies/") and not path.endswith("/") and "?" not in path for path in asked)


@pytest.mark.parametrize("name", ["../../x", "", ".."])
def test_a_log_of_a_job_that_is_none(here: Any, api: str, name: str) -> None:
    one_line(here("logs", name, JSM_API_URL=api, JSM_TOKEN="x"), 4)


def test_a_state_that_is_none(here: Any) -> None:
    said = one_line(here("jobs", "river", "--state", "bogus"), 2)
    assert "'bogus'" in said and "waiting, ready, active, done, failed, quarantined, skipped" in said


def test_a_report_into_a_folder(here: Any, tmp_path: Path) -> None:
    said = one_line(here("report", "river", "-o", str(tmp_path)), 3)
    assert f"{tmp_path} is a folder" in said and "report.html" in said
