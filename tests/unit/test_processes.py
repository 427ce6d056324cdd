"""Children that end with their parent, leftovers that are recognized, ports that are free."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from jsm_queue import processes
from jsm_queue.errors import SetupError
from tests.waiting import wait_for

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
READY = """
import signal, sys, time
signal.signal(signal.SIGTERM, {})
print('ready', flush=True)
time.sleep(600)
"""
PARENT = """
import sys, time
from pathlib import Path
from jsm_queue import processes
child = processes.spawn([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2]))
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent death signal")
def test_a_child_that_never_looks_dies_with_its_killed_parent(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PARENT, "import time; time.sleep(600)", str(tmp_path / "log")]
    parent = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    wait_for(lambda: "time.sleep" in " ".join(child.cmdline()), "the child's own program")
    parent.kill()
    parent.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child's death")


def test_our_own_child_notices_that_its_input_closed(tmp_path: Path) -> None:
    program = "import time; from jsm_queue import processes; processes.exit_with_parent(); time.sleep(600)"
    child = processes.spawn([sys.executable, "-c", program], tmp_path / "log")
    assert child.stdin and child.poll() is None
    child.stdin.close()
    assert child.wait(20) == 1


def test_a_process_started_by_hand_ignores_its_input() -> None:
    program = (
        "from jsm_queue import processes; processes.exit_with_parent(); import time; time.sleep(0.3); print('alive')"
    )
    environment = {name: value for name, value in os.environ.items() if name != processes.LIFELINE}
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout == "alive\n"


def test_output_environment_and_exit_code(tmp_path: Path) -> None:
    program = "import os, sys; print('out', os.environ['COLOUR']); print('err', file=sys.stderr); sys.exit(7)"
    child = processes.spawn([sys.executable, "-c", program], tmp_path / "new" / "log", {"COLOUR": "red"})
    assert child.wait(20) == 7
    assert sorted((tmp_path / "new" / "log").read_text(encoding="utf-8").split()) == ["err", "out", "red"]


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no-such-program"):
        processes.spawn(["no-such-program"], tmp_path / "log")


def test_a_child_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    program = READY.format("signal.SIG_IGN")
    child = processes.spawn([sys.executable, "-c", program], tmp_path / "log")
    wait_for(lambda: "ready" in (tmp_path / "log").read_text(encoding="utf-8"), "the child")
    assert processes.terminate_then_kill(child, grace_s=0.2) != 0


def test_a_child_that_obeys_is_not_killed(tmp_path: Path) -> None:
    program = READY.format("lambda *_: sys.exit(5)")
    child = processes.spawn([sys.executable, "-c", program], tmp_path / "log")
    wait_for(lambda: "ready" in (tmp_path / "log").read_text(encoding="utf-8"), "the child")
    assert processes.terminate_then_kill(child, grace_s=20) == 5


def test_killing_reaches_grandchildren(tmp_path: Path) -> None:
    inner = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    program = f"import subprocess, sys, time; print({inner}.pid, flush=True); time.sleep(600)"
    child = processes.spawn([sys.executable, "-c", program], tmp_path / "log", stdout=subprocess.PIPE)
    assert child.stdout
    grandchild = psutil.Process(int(child.stdout.readline()))
    processes.kill_tree(child.pid)
    child.wait()
    wait_for(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE, "its death")
    processes.kill_tree(child.pid)  # nothing to do


def test_a_leftover_is_recognized_and_ended(tmp_path: Path) -> None:
    child = processes.spawn(SLEEPER, tmp_path / "log")
    processes.write_pid_file(tmp_path / "part.pid", child.pid)
    assert processes.find_leftover(tmp_path / "part.pid") is not None
    shutil.copyfile(tmp_path / "part.pid", tmp_path / "copy.pid")
    assert processes.find_leftover(tmp_path / "copy.pid") is None, "of a copied folder it is no process"
    assert processes.end_leftover(tmp_path / "part.pid")
    child.wait(20)
    assert not (tmp_path / "part.pid").exists()
    assert not processes.end_leftover(tmp_path / "part.pid")


def test_a_foreign_process_with_a_leftovers_id_is_not_touched(tmp_path: Path) -> None:
    child = processes.spawn(SLEEPER, tmp_path / "log")
    noted = {"pid": child.pid, "create_time": psutil.Process(child.pid).create_time() - 3600}
    (tmp_path / "part.pid").write_text(json.dumps(noted), encoding="utf-8")
    assert not processes.end_leftover(tmp_path / "part.pid")
    assert child.poll() is None
    processes.kill_tree(child.pid)
    child.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": -1, "create_time": 0}'])
def test_a_damaged_pid_file_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "part.pid").write_text(text, encoding="utf-8")
    assert processes.find_leftover(tmp_path / "part.pid") is None


def test_a_taken_port_gives_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert processes.free_port(taken) != taken
    assert processes.free_port(taken) == taken


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::", "::1"])
def test_a_port_of_an_ipv6_address(host: str) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6) as server:
        taken = server.getsockname()[1]
        assert processes.free_port(taken, host) not in (0, taken)
    assert processes.free_port(taken, host) == taken


def test_a_name_that_is_no_address_is_told() -> None:
    with pytest.raises(SetupError, match=r"no\.such\.host\.invalid"):
        processes.free_port(0, "no.such.host.invalid")


def test_a_child_imports_nothing_from_the_folder_it_starts_in(tmp_path: Path) -> None:
    (tmp_path / "secrets.py").write_text("raise SystemExit(3)", encoding="utf-8")
    child = processes.spawn([sys.executable, "-m", "secrets"], tmp_path / "log", cwd=tmp_path)
    assert child.wait(60) == 0, (tmp_path / "log").read_text(encoding="utf-8")
