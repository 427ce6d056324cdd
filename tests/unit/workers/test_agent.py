"""The agent's command line."""

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_for
from workers import agent, hardware
from workers.hardware import Gpu
from workers.identity import Identity


@pytest.fixture(autouse=True)
def kept_logging() -> Iterator[None]:
    """A main program sets up its process's logging."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_an_invite_may_begin_with_a_dash() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--invite")
    parser.add_argument("--name")
    given = parser.parse_args(agent.bound_invite(["--invite", "-a_b-c", "--name", "pc"]))
    assert (given.invite, given.name) == ("-a_b-c", "pc")
    assert agent.bound_invite(["--invite"]) == ["--invite"]
    assert agent.bound_invite(["--invite=x", "--name", "y"]) == ["--invite=x", "--name", "y"]


def test_a_name_is_what_was_typed_also_in_a_plain_c_locale() -> None:
    typed = "砂防PC".encode().decode(sys.getfilesystemencoding(), "surrogateescape")
    assert agent._as_typed(typed) == "砂防PC"
    argv = [
        sys.executable,
        "-c",
        "import sys; from workers.agent import _as_typed; print(ascii(_as_typed(sys.argv[1])))",
    ]
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*argv, "砂防PC"], env=plain, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ascii("砂防PC")


def test_gpus_need_a_torch_that_can_use_them(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    gpu = Gpu("NVIDIA GeForce RTX 4060 Ti", "GPU-1", 2**34, 2**33)
    monkeypatch.setattr(hardware, "list_gpus", lambda: [gpu])
    monkeypatch.setattr(hardware, "torch_cuda", lambda: "12.8")
    assert agent.usable_gpus() == [gpu] and not caplog.messages
    monkeypatch.setattr(hardware, "torch_cuda", lambda: None)
    assert agent.usable_gpus() == []
    assert "RTX 4060 Ti: not used, because the installed torch is a CPU build" in caplog.text


@pytest.mark.parametrize(
    ("given", "variable", "invite"),
    [([], None, None), ([], "-secret", "-secret"), (["--invite", "given"], "-secret", "given")],
)
def test_an_invite_comes_as_an_argument_or_a_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: list[str], variable: str | None, invite: str | None
) -> None:
    seen: list[str | None] = []

    def start(home: Path, api: str, invite: str | None, name: str) -> int:
        seen.append(invite)
        assert agent.INVITE not in os.environ
        return 0

    monkeypatch.setattr(agent, "start", start)
    monkeypatch.setattr(sys, "argv", ["agent", "--home", str(tmp_path), "--api", "http://api", *given])
    if variable:
        monkeypatch.setenv(agent.INVITE, variable)
    assert agent.main() == 0
    assert seen == [invite]


def test_an_address_that_is_none_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "identity.json").write_text('{"worker": "a1b2c3d4", "token": "secret"}', encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["agent", "--home", str(tmp_path), "--api", "127.0.0.1:8080"])
    assert agent.main() == 3
    assert "'127.0.0.1:8080' is not an api's URL" in caplog.text


@pytest.mark.timeout(30)
def test_a_signal_in_the_middle_of_another_s_handler_waits_for_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(agent.broker, "stop_consuming", ended.append)
    worker = agent.Agent(tmp_path, Identity("a1b2c3d4", "token", api="http://127.0.0.1:9"))
    with vars(worker.board.leaving)["_cond"], vars(worker.board.news)["_cond"]:  # as `Event.set` holds them
        worker._on_signal()
    worker._on_signal()
    wait_for(lambda: ended == [0, 0], "the end")
    assert worker.board.leaving.is_set()
