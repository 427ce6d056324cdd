"""The command line: help everywhere, errors in one line, JSON where data are printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from jsm_queue.cli import console
from jsm_queue.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
STUDIES = ["plan", "submit", "status", "watch", "jobs", "cancel", "pause", "resume", "retry", "report"]
OTHERS = ["logs", "why", "doctor", "backup", "restore", "collect"]
COMMANDS = ["up", "serve", "down", "demo", "init", *STUDIES, *OTHERS, "tls", "worker", "token"]
WITH_DATA = [*(name for name in STUDIES if name != "watch"), *OTHERS, "worker list", "worker invite"]


def jsm(*arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JSM_")}
    return subprocess.run(
        [sys.executable, "-m", "jsm_queue.cli", *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**clean, "JSM_HOME": str(home), **env},
        cwd=ROOT,
    )


def test_the_commands_are_these() -> None:
    assert list(typer.main.get_command(app).commands) == COMMANDS  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", [*COMMANDS, "worker start", "worker list", "worker invite"])
def test_every_command_has_help(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.split("\n\n")) >= 1
    assert "Usage" in shown.output
    assert ("--json" in shown.output) == (command in WITH_DATA)


def test_an_error_is_one_line_with_its_fix_and_status(tmp_path: Path) -> None:
    done = jsm("status", home=tmp_path)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: No api is running on")
    assert "jsm up" in done.stderr
    assert done.stdout == ""


def test_debugging_shows_where_an_error_came_from(tmp_path: Path) -> None:
    assert "Traceback" in jsm("status", home=tmp_path, JSM_DEBUG="1").stderr


def test_a_wrong_spec_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("name: a\ndata: {source: x}\nbasis: []\n", encoding="utf-8")
    done = jsm("plan", str(tmp_path / "s.yaml"), home=tmp_path)
    assert done.returncode == 2
    assert "basis" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_api_that_went_away_is_told(tmp_path: Path) -> None:
    done = jsm("status", home=tmp_path, JSM_API_URL="http://127.0.0.1:9", JSM_TOKEN="x")
    assert done.returncode == 3
    assert "does not answer" in done.stderr


def test_brackets_of_a_message_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error("expected [bold] here", "write [/]")
    assert "expected [bold] here — write [/]" in capsys.readouterr().err


def test_settings_that_are_wrong_are_told(tmp_path: Path) -> None:
    done = jsm("status", home=tmp_path, JSM_API_PORT="many")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"lease_s = 60\nhost = \n", b"lease_s = 60\nhost = '\xff'\n"])
def test_a_settings_file_that_is_no_toml_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.toml").write_bytes(content)
    done = jsm("status", home=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert f"{tmp_path / 'settings.toml'} is not TOML" in done.stderr


def test_a_settings_file_that_is_no_toml_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("lease_s = 60\nhost = \n", encoding="utf-8")
    assert "line 2" in jsm("status", home=tmp_path).stderr


@pytest.mark.parametrize("url", ["http://[", "no address", "ftp://x"])
def test_an_address_that_is_none_is_told(tmp_path: Path, url: str) -> None:
    done = jsm("status", home=tmp_path, JSM_API_URL=url, JSM_TOKEN="x")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = jsm("up", home=tmp_path / "file" / "home")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)


SPEC = "{name: x, data: {source: a.jsonl}, bases: [{name: b, source: b}], "


@pytest.mark.parametrize(
    "text",
    [
        "name: 2026-13-45",
        "[" * 5000,
        SPEC + "stages: {bases: {n: 9}}, training: {lr: .inf}}",
        SPEC + "stages: {bases: {n: 9, seeds: [4294967296]}}}",
    ],
)
def test_a_spec_that_cannot_be_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    done = jsm("plan", str(tmp_path / "study.yaml"), "--dry-run", home=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_a_token_that_is_none_is_told(tmp_path: Path) -> None:
    for token in ("あ", "secret\nwords", "secret words"):
        done = jsm("status", home=tmp_path, JSM_API_URL="http://127.0.0.1:1", JSM_TOKEN=token)
        assert (done.returncode, done.stderr.count("\n")) == (5, 1)
        assert "secret" not in done.stdout + done.stderr


def test_white_space_around_a_token_is_none_of_it(tmp_path: Path) -> None:
    done = jsm("status", home=tmp_path, JSM_API_URL="http://127.0.0.1:1", JSM_TOKEN=" secret\n")
    assert (done.returncode, "does not answer" in done.stderr) == (3, True)


def test_a_worker_s_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = jsm("worker", "start", "--api", "http://127.0.0.1:1", "--home", str(tmp_path / "file" / "w"), home=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "cannot be used" in done.stderr


def test_a_broker_that_must_not_be_used_is_one_line(tmp_path: Path) -> None:
    done = jsm("up", home=tmp_path / "home", JSM_BROKER_URL="redis://example.org")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "without TLS" in done.stderr


def test_a_state_that_no_job_is_in_is_told(tmp_path: Path) -> None:
    assert jsm("jobs", "study", "--state", "foo", home=tmp_path).returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "cp1252"])
def test_a_terminal_of_another_encoding_gets_question_marks(encoding: str) -> None:
    code = "from jsm_queue.cli import streams; streams.print_anywhere(); print('東京 → é 砂防')"
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert done.stdout.decode(encoding).strip() == "東京 → é 砂防".encode(encoding, "replace").decode(encoding)
