"""Ctrl-C while a program's modules load."""

import signal
import subprocess
import sys

import pytest

INTERRUPTED = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests without
from jsm_queue.interrupts import end_at_once
{before}
with end_at_once():
    os.kill(os.getpid(), signal.SIGINT)
print("goes on")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal to oneself is none")
def test_ctrl_c_meanwhile_ends_the_process_without_a_word() -> None:
    done = run(INTERRUPTED.format(before=""))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_who_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    done = run(INTERRUPTED.format(before="signal.signal(signal.SIGINT, signal.SIG_IGN)"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


def test_afterwards_it_is_as_before() -> None:
    done = run(INTERRUPTED.format(before="").replace("    os.kill(os.getpid(), signal.SIGINT)", "    pass").strip())
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr


SWALLOWED = """
import time
from jsm_queue.interrupts import never_swallow
never_swallow()

class Left:
    def __del__(self):
        raise {error}

try:
    Left()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        time.sleep(0.01)
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_in_a_destructor_is_not_lost() -> None:
    done = run(SWALLOWED.format(error="KeyboardInterrupt"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


def test_other_errors_in_a_destructor_are_told_as_ever() -> None:
    code = SWALLOWED.format(error="ValueError('odd')").replace("+ 60", "+ 0")
    assert "Exception ignored in" in (done := run(code)).stderr and "odd" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("program", ["workers.__main__", "jsm_queue.cli.__main__"])
def test_a_program_loads_nothing_before_it_is_safe(program: str) -> None:
    done = run(f"import {program}, sys; print(sorted({{'celery', 'typer', 'httpx'}} & set(sys.modules)))")
    assert done.stdout == "[]\n", done.stderr
