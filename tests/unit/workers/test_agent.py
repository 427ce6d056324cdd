"""The agent's command line."""

import argparse

import pytest

from workers import agent, hardware
from workers.hardware import Gpu


def test_an_invite_may_begin_with_a_dash() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--invite")
    parser.add_argument("--name")
    given = parser.parse_args(agent.joined(["--invite", "-a_b-c", "--name", "pc"]))
    assert (given.invite, given.name) == ("-a_b-c", "pc")
    assert agent.joined(["--invite"]) == ["--invite"]
    assert agent.joined(["--invite=x", "--name", "y"]) == ["--invite=x", "--name", "y"]


def test_gpus_need_a_torch_that_can_use_them(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    gpu = Gpu("NVIDIA GeForce RTX 4060 Ti", "GPU-1", 2**34, 2**33)
    monkeypatch.setattr(hardware, "list_gpus", lambda: [gpu])
    monkeypatch.setattr(hardware, "torch_cuda", lambda: "12.8")
    assert agent.usable_gpus() == [gpu] and not caplog.messages
    monkeypatch.setattr(hardware, "torch_cuda", lambda: None)
    assert agent.usable_gpus() == []
    assert "RTX 4060 Ti: not used, because the installed torch is a CPU build" in caplog.text
