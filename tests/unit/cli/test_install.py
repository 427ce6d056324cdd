"""The installer: what it refuses before anything slow begins, and what makes a second call cheap."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.waiting import wait_for

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


SLOW_INSTALL = """
import sys
sys.path.insert(0, sys.argv[1])
import install
install.VENV = install.LOGS = install.Path(sys.argv[2])
install.STAMP, install.LOCK = install.VENV / "stamp", install.VENV / "lock"
sleeper = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
install.install = lambda extras: install.step("slow", sleeper, "slow.log")
sys.exit(install.main(["api"]))
"""
"""The real program with one step, which says in slow.log who it is and then takes ten minutes."""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


checks = load("checks")
install = load("install")


@pytest.mark.parametrize("version", [(3, 8), (3, 10), (2, 7)])
def test_an_old_python_is_refused_with_what_to_install(version: tuple[int, int]) -> None:
    with pytest.raises(checks.Missing, match=r"install python3\.11"):
        checks.check_python(version)


def test_this_python_is_good_enough() -> None:
    checks.check_python(sys.version_info[:2])
    checks.check_venv_module()


def test_without_a_compiler_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(checks.Missing, match=r"apt install g\+\+"):
        checks.find_compiler()


def test_too_little_disk_is_refused_in_numbers(tmp_path: Path) -> None:
    with pytest.raises(checks.Missing, match="1000000 GB of free disk are needed"):
        checks.check_disk(tmp_path / "not" / "there" / "yet", 1e6)


def test_a_refusal_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    """The real command, with a disk check that cannot pass and no stamp to shortcut it."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import checks, install\n"
        "install.VENV = install.Path(sys.argv[2]); install.STAMP = install.VENV / 'stamp'\n"
        "install.LOCK = install.VENV / 'lock'\n"
        "checks.DISK_CPU_GB = 1e9; sys.exit(install.main(['api']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(SCRIPTS), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_a_native_build_is_named_by_its_options() -> None:
    assert checks.build_key("-DA=ON") == checks.build_key("-DA=ON")
    assert checks.build_key("-DA=ON") != checks.build_key("-DA=OFF")


def test_matrix_tiles_of_a_server_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "cpu_flags", lambda: "flags : fpu avx2")
    assert checks.without_amx() == ""
    monkeypatch.setattr(checks, "cpu_flags", lambda: "flags : fpu avx2 amx_tile amx_int8")
    asked = [checks.find_compiler(), "-march=native", *checks.without_amx().split(), "-dM", "-E", "-x", "c++"]
    macros = subprocess.run([*asked, os.devnull], capture_output=True, text=True, check=False).stdout
    assert "AMX" not in macros


def test_llama_cpp_is_never_left_to_the_plain_resolution() -> None:
    """pip would compile all of llama.cpp, twice as long, in the middle of the packages."""
    wanted = install.requirements(["api", "embedded", "worker", "demo", "dev"])
    assert any(line.startswith("torch") for line in wanted)
    assert not any("llama" in line for line in wanted)


def test_an_unknown_extra_is_named() -> None:
    with pytest.raises(checks.Missing, match="no such extra: gpu"):
        install.requirements(["gpu"])


def test_torch_is_always_pinned() -> None:
    """A bare torch lets the index choose another version, with gigabytes of CUDA."""
    assert install.pinned("torch").startswith("torch==")
    lines = (install.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def test_a_torch_that_is_there_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "LOGS", tmp_path)
    _, path = install.constraint("2.11.0+cu128")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("torch==")] == ["torch==2.11.0+cu128"]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (("2.13.0+cpu", "", ""), "CPU slots only"),
        (("2.13.0", "12.8", ""), "no usable GPU"),
        (("2.13.0", "12.8", "RTX 4060 Ti"), "has a GPU slot"),
    ],
)
def test_what_a_build_of_torch_means_is_said(build: tuple[str, str, str], said: str) -> None:
    assert said in install.torch_line(*build)


def test_the_stamp_counts_only_for_the_same_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "STAMP", tmp_path / "stamp.json")
    monkeypatch.setattr(install, "PYTHON", Path(sys.executable))
    assert install.read_stamp() is None
    install.write_stamp(["api"], "torch 1")
    assert install.read_stamp()["extras"] == ["api"]
    stamp = json.loads((tmp_path / "stamp.json").read_text(encoding="utf-8"))
    (tmp_path / "stamp.json").write_text(json.dumps(stamp | {"fingerprint": "other"}), encoding="utf-8")
    assert install.read_stamp() is None


def test_how_far_a_build_is() -> None:
    assert install.llama_progress("Collecting\n  [7/196] Building CXX\n  [112/196] Building C\n") == "112/196 files"
    assert install.llama_progress("Collecting llama") == "preparing"


def test_a_failed_step_shows_the_end_of_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "LOGS", tmp_path)
    with pytest.raises(checks.Missing, match=r"(?s)step failed \(exit status 3\).*what went wrong"):
        install.step("step", [sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"], "step.log")


def start_slow_install(folder: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """A running installation in `folder`, and its step."""
    argv = [sys.executable, "-c", SLOW_INSTALL, str(SCRIPTS), str(folder)]
    installing = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = folder / "slow.log"
    wait_for(lambda: log.is_file() and log.read_text(encoding="utf-8").endswith("\n"), "the step's start")
    return installing, psutil.Process(int(log.read_text(encoding="utf-8")))


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_an_installation_that_is_ended_leaves_nothing_running(tmp_path: Path, name: str) -> None:
    installing, step = start_slow_install(tmp_path)
    installing.send_signal(getattr(signal, name))
    _, said = installing.communicate(timeout=60)
    assert installing.returncode == 130
    assert "the next call goes on from here" in said
    wait_for(lambda: not step.is_running(), "the step's end")


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_nohup_keeps_an_installation_running(tmp_path: Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]);"
    code += "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); import install; install.end_like_ctrl_c();"
    code += "import os; os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    done = subprocess.run([sys.executable, "-c", code, str(SCRIPTS)], capture_output=True, text=True)
    assert done.stdout == "alive\n", done.stderr


def test_two_installations_in_one_environment_are_refused(tmp_path: Path) -> None:
    installing, step = start_slow_install(tmp_path)
    argv = [sys.executable, "-c", SLOW_INSTALL, str(SCRIPTS), str(tmp_path)]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert second.returncode == 3
    assert second.stderr == f"error: another installation runs in {tmp_path}: wait until it has ended\n"
    installing.kill()
    installing.communicate()
    step.kill()
    (tmp_path / "slow.log").unlink()
    third, _ = start_slow_install(tmp_path)  # the dead one's lock does not count
    third.terminate()
    third.communicate(timeout=60)


def test_a_broken_environment_is_made_anew_without_losing_the_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "VENV", tmp_path)
    monkeypatch.setattr(install, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(install, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(install, "PYTHON", tmp_path / "gone")
    monkeypatch.setattr(install, "step", lambda *_: None)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "old.py").touch()
    (tmp_path / "lock").touch()
    install.make_venv()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "logs"]


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands in for the driver's program")
@pytest.mark.parametrize(("body", "found"), [("echo 'RTX 4060 Ti'; echo other", "RTX 4060 Ti"), ("exit 9", "")])
def test_a_gpu_is_found_by_its_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, found: str) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    assert checks.find_gpu() == found


@pytest.mark.parametrize(("gpu", "said"), [("RTX 4060 Ti", 1), ("", 0)])
def test_where_there_is_a_gpu_it_is_said_what_stays_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gpu: str, said: int
) -> None:
    for name in ("check_machine", "make_venv", "step", "pip_packages", "write_stamp"):
        monkeypatch.setattr(install, name, lambda *_: None)
    monkeypatch.setattr(install, "STAMP", Path("no-stamp"))
    monkeypatch.setattr(install, "built_wheel", lambda: Path("kept.whl"))
    monkeypatch.setattr(install, "choose_torch", lambda: None)
    monkeypatch.setattr(install, "describe_torch", lambda: "torch 1")
    monkeypatch.setattr(checks, "find_gpu", lambda: gpu)
    install.install(["worker"])
    assert capsys.readouterr().out.count("llama.cpp is built for the CPU") == said
