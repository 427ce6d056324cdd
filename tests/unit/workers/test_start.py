"""`jsm worker start` becomes the agent: no process is left between the two, and no invite where others can read it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jsm_queue.cli import workers

SAY_WHO = "import os; print(os.getpid(), os.environ['JSM_WHO'], flush=True)"
START = "import os, sys; from jsm_queue.cli import workers; sys.exit(workers.become(sys.argv[1:], dict(os.environ)))"


def test_what_ends_the_starter_ends_the_agent() -> None:
    argv = [sys.executable, "-c", START, sys.executable, "-c", f"{SAY_WHO}; raise SystemExit(7)"]
    starter = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"JSM_WHO": "me"})
    said, _ = starter.communicate()
    assert said.split()[1] == "me" and starter.returncode == 7
    if os.name == "posix":
        assert int(said.split()[0]) == starter.pid


def test_where_a_process_cannot_be_replaced_the_child_ends_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.os, "name", "nt")
    until_eof = "import os, sys; sys.exit(5 if os.environ['JSM_LIFELINE'] and not sys.stdin.isatty() else 6)"
    assert workers.become([sys.executable, "-c", until_eof], dict(os.environ)) == 5


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What this process would have gone on as."""
    seen: list[tuple[list[str], dict[str, str]]] = []

    def become(argv: list[str], env: dict[str, str]) -> int:
        seen.append((argv, env))
        return 0

    monkeypatch.setattr(workers, "become", become)
    return seen


def test_the_invite_travels_in_the_environment(
    became: list[tuple[list[str], dict[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JSM_INVITE", raising=False)
    assert workers.start("http://api", "-secret", tmp_path, "pc") == 0
    assert workers.start("http://api", None, tmp_path, None) == 0
    [(argv, env), (_, later)] = became
    assert "-secret" not in argv and env["JSM_INVITE"] == "-secret" and argv[-2:] == ["--name", "pc"]
    assert "JSM_INVITE" not in later


def test_who_joined_knows_by_itself_where(
    became: list[tuple[list[str], dict[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "settings", lambda: type("S", (), {"api_url": None})())
    assert workers.start(None, None, tmp_path, None) == 0
    [(argv, _)] = became
    assert "--api" not in argv and argv[-2:] == ["--home", str(tmp_path.resolve())]
