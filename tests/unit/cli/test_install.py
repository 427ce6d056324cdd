"""The installer: what it refuses before anything slow begins, and what makes a second call cheap."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


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
        "install.STAMP = install.Path(sys.argv[2]) / 'stamp'; install.VENV = install.Path(sys.argv[2])\n"
        "checks.DISK_CPU_GB = 1e9; sys.exit(install.main(['api']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(SCRIPTS), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_a_native_build_is_named_by_its_options() -> None:
    assert checks.build_key("-DA=ON") == checks.build_key("-DA=ON")
    assert checks.build_key("-DA=ON") != checks.build_key("-DA=OFF")


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
