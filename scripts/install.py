"""Installs the project into `.venv`: `python3 scripts/install.py EXTRA…`. Standard library only.

What could fail late is looked at first. A stamp in `.venv` makes a second call a matter of milliseconds. The
slow part, compiling llama.cpp, runs beside the downloads, and its wheel is kept for the machine's next clone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import checks

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "jsm-installed.json"
LOCK = VENV / "jsm-installing.lock"
"""an SQLite file that a running installation holds locked; the system lets go when it dies"""
LOGS = VENV / "logs"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

BUILD_TOOLS = ("pip", "setuptools", "hatchling", "editables")
"""from constraints.txt, so that the project itself installs without a build environment of pip's own"""
NEED_LLAMA = ("demo",)
"""extras whose packages depend on llama.cpp: pip would compile it a second time, in its own way"""
CMAKE_ARGS = "-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_SERVER=OFF"
"""leaves out what the project does not use of llama.cpp: half of the build time"""
SAY_EVERY_S = 30
"""between two signs of life of a slow step where the output is no terminal"""


def main(extras: list[str]) -> int:
    """Installs what is missing. Returns the exit status."""
    end_like_ctrl_c()
    try:
        checks.check_python(sys.version_info[:2])
        stamp = read_stamp()
        if stamp and set(extras) <= set(stamp["extras"]):
            say(f"✔ installed (cached)    {stamp['torch']}")
            return 0
        with locked():
            install(sorted(set(extras) | set(stamp["extras"] if stamp else ())))
    except checks.Missing as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("\nstopped; the next call goes on from here", file=sys.stderr)
        return 130
    return 0


def end_like_ctrl_c() -> None:
    """SIGTERM and a closed terminal leave nothing behind that was started here; `nohup` still works."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


@contextmanager
def locked() -> Iterator[None]:
    """Holds `.venv`. Raises Missing when another installation does."""
    checks.check_writable(VENV)
    VENV.mkdir(exist_ok=True)
    with closing(sqlite3.connect(LOCK, timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise checks.Missing(f"another installation runs in {VENV}: wait until it has ended") from error
        yield


def install(extras: list[str]) -> None:
    """Checks, then everything in order. Raises Missing with the end of the log when a step fails."""
    started = time.monotonic()
    needs_build = "worker" in extras and not built_wheel()
    check_machine(needs_build)
    STAMP.unlink(missing_ok=True)
    make_venv()
    step("build tools", pip("install", *constraint(), *BUILD_TOOLS), "tools.log")
    torch = choose_torch() if "worker" in extras else None
    if needs_build:
        install_beside_the_build(extras, torch)
    step("packages", pip_packages(extras, torch), "packages.log")
    step("jsm-queue", pip("install", "--no-build-isolation", "--no-deps", "-e", str(ROOT)), "project.log")
    torch_line = describe_torch() if "worker" in extras else ""
    write_stamp(extras, torch_line)
    say(f"✔ installed in {minutes(time.monotonic() - started)}    {torch_line}")
    gpu = checks.find_gpu()
    if gpu and "worker" in extras:
        say(f"▸ llama.cpp is built for the CPU: this version answers and times there; a build for {gpu} comes later")


def install_beside_the_build(extras: list[str], torch: str | None) -> None:
    """Compiles llama.cpp and, meanwhile, installs everything that does not depend on it."""
    build, started = start_llama_build(), time.monotonic()
    try:
        others = [extra for extra in extras if extra not in NEED_LLAMA]
        step("packages, while llama.cpp is compiled", pip_packages(others, torch), "packages-early.log")
        wait_for_llama(build, started)
    except BaseException:
        stop(build)
        raise


def check_machine(needs_build: bool) -> None:
    """Looks at everything that would fail late. Raises Missing."""
    checks.check_venv_module()
    checks.check_writable(ROOT)
    checks.check_writable(checks.cache_folder())
    compiler = checks.find_compiler() if needs_build else "no compiling"
    free = checks.check_disk(ROOT, 1.0 if STAMP.exists() or has_torch() else checks.DISK_CPU_GB)
    version = ".".join(map(str, sys.version_info[:3]))
    say(f"▸ this machine: Python {version} · {compiler} · {free:.0f} GB free · {os.cpu_count()} cores")


def make_venv() -> None:
    """Creates `.venv` where it is missing, anew where its Python is gone."""
    if not PYTHON.exists():
        for path in VENV.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != LOCK:
                path.unlink()
        step("virtual environment .venv", [sys.executable, "-m", "venv", str(VENV)], None)
    LOGS.mkdir(exist_ok=True)


def has_torch() -> bool:
    """Is any torch in `.venv`?"""
    return any(VENV.glob("[Ll]ib/**/site-packages/torch/version.py"))


def pip(*arguments: str) -> list[str]:
    """A pip command line for `.venv`."""
    return [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]


def constraint(torch: str | None = None) -> list[str]:
    """pip's options that pin every package to its tested version; `torch` replaces that pin."""
    path = ROOT / "constraints.txt"
    if torch:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("torch==")]
        path = LOGS / "constraints.txt"
        path.write_text("\n".join([*lines, f"torch=={torch}", ""]), encoding="utf-8")
    return ["-c", str(path)]


def pinned(package: str) -> str:
    """`package==version` as constraints.txt has it."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.replace("_", "-").lower().startswith(f"{package}=="))


def requirements(extras: list[str]) -> list[str]:
    """What pyproject.toml asks for with these extras, without llama.cpp, which is built apart."""
    import tomllib  # Python 3.11; this file must load in older ones to say that they are too old

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    unknown = set(extras) - set(optional)
    if unknown:
        raise checks.Missing(f"no such extra: {', '.join(sorted(unknown))} (there are {', '.join(sorted(optional))})")
    wanted = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    return [line for line in wanted if not line.startswith("llama-cpp-python")]


def pip_packages(extras: list[str], torch: str | None) -> list[str]:
    """The command that installs all dependencies in one resolution."""
    wanted = requirements(extras)
    wheel = built_wheel()
    if "worker" in extras and wheel:
        wanted.append(str(wheel))
    return pip("install", *constraint(torch), *wanted)


def choose_torch() -> str | None:
    """Says which torch will be used. Returns the version to keep where `.venv` has one, else None.

    Raises Missing when the build that the package index offers does not fit on the disk.
    """
    have = run([str(PYTHON), "-c", "import importlib.metadata as m; print(m.version('torch'))"])
    if have.returncode == 0:
        version = have.stdout.strip()
        say(f"▸ torch {version} is in .venv and stays")
        return version
    found = run(
        pip(
            "install",
            "--dry-run",
            "--quiet",
            "--no-deps",
            "--ignore-installed",
            "--report",
            "-",
            pinned("torch"),
        )
    )
    if found.returncode != 0:
        raise checks.Missing(f"the package index does not offer {pinned('torch')}: {last_line(found.stderr)}")
    metadata = json.loads(found.stdout)["install"][0]["metadata"]
    cuda = any(line.startswith(("nvidia-", "cuda-")) for line in metadata.get("requires_dist", []))
    if cuda:
        checks.check_disk(ROOT, checks.DISK_CUDA_GB)
    say(f"▸ torch {metadata['version']}: {CUDA_OFFER if cuda else CPU_OFFER}")
    return None


CUDA_OFFER = "your package index offers the CUDA build: several GB, and it also runs without a GPU"
CPU_OFFER = "your package index offers the CPU build: enough for the demo, no GPU slots"


def describe_torch() -> str:
    """One line: which build of torch is installed and what it means. Raises Missing when it does not load."""
    code = (
        "import torch as t; gpu = t.cuda.get_device_name(0) if t.cuda.is_available() else '';"
        "print(t.__version__, t.version.cuda or '', gpu, sep='|')"
    )
    probe = run([str(PYTHON), "-c", code])
    if probe.returncode != 0:
        raise checks.Missing(f"torch was installed but does not load: {last_line(probe.stderr)}")
    return torch_line(*probe.stdout.strip().split("|"))


def torch_line(version: str, cuda: str, gpu: str) -> str:
    """What a build of torch means for this machine."""
    if not cuda:
        return f"torch {version}, CPU build: this machine's worker has CPU slots only"
    if not gpu:
        return f"torch {version}, CUDA {cuda} build, no usable GPU: this machine's worker has CPU slots only"
    return f"torch {version}, CUDA {cuda} build on {gpu}: this machine's worker has a GPU slot"


# llama.cpp


def cmake_args() -> str:
    """What llama.cpp is configured with; CMAKE_ARGS of the environment comes last and wins."""
    flags = checks.without_amx()
    quiet = f"'-DCMAKE_C_FLAGS={flags}' '-DCMAKE_CXX_FLAGS={flags}'" if flags else ""
    return " ".join(filter(None, [CMAKE_ARGS, quiet, os.environ.get("CMAKE_ARGS", "")]))


def wheel_folder() -> Path:
    """Where this machine's llama.cpp wheel is kept."""
    return checks.cache_folder() / "wheels" / checks.build_key(cmake_args())


def built_wheel() -> Path | None:
    """The kept wheel of the pinned version, if there is one."""
    version = pinned("llama-cpp-python").split("==")[1]
    return next(iter(wheel_folder().glob(f"llama_cpp_python-{version}-*.whl")), None)


def start_llama_build() -> subprocess.Popen[bytes]:
    """Starts to compile llama.cpp beside the other steps."""
    cores = os.cpu_count() or 1
    say(f"▸ llama.cpp is compiled for this CPU, once per machine: 4 to 8 minutes on 2 cores (here: {cores})")
    target = VENV / "llama-wheel"
    shutil.rmtree(target, ignore_errors=True)
    environment = {**os.environ, "CMAKE_ARGS": cmake_args(), "CMAKE_BUILD_PARALLEL_LEVEL": str(cores)}
    # pip's own cache would give back a wheel that was built with other options or on another CPU
    command = pip("wheel", "--no-cache-dir", "--verbose", "--no-deps", "-w", str(target), pinned("llama-cpp-python"))
    return start(command, LOGS / "llama-build.log", environment)


def wait_for_llama(build: subprocess.Popen[bytes], started: float) -> None:
    """Waits for the build and keeps its wheel. Raises Missing with the end of its log when it failed."""
    follow("llama.cpp", build, LOGS / "llama-build.log", llama_progress, started)
    wheel = next((VENV / "llama-wheel").glob("*.whl"))
    folder = wheel_folder()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{wheel.name}.part"
    shutil.move(str(wheel), partial)
    partial.rename(folder / wheel.name)
    say(f"  kept in {folder}")


def llama_progress(log_text: str) -> str:
    """How far a ninja build is, from its log: "112/196 files"."""
    lines = [line.strip() for line in log_text.splitlines()]
    counts = [line[1:].split("]")[0] for line in lines if line.startswith("[") and "/" in line.split("]")[0]]
    return f"{counts[-1]} files" if counts else "preparing"


# Running and saying


def step(label: str, command: list[str], log_name: str | None) -> None:
    """Runs one command with its output in a log. Raises Missing with the log's end when it fails."""
    log = LOGS / log_name if log_name else Path(os.devnull)
    follow(label, start(command, log, dict(os.environ)), log, pip_progress, time.monotonic())


def start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Starts a command with its output in a log, in a session of its own: `stop` reaches its children too."""
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )


def follow(
    label: str, process: subprocess.Popen[bytes], log: Path, progress: Callable[[str], str], started: float
) -> None:
    """Waits for a process, with signs of life from its log. Raises Missing when it fails."""
    try:
        code = poll(process)
        while code is None:
            text = log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.is_file() else ""
            sign_of_life(label, progress(text), time.monotonic() - started)
            code = poll(process)
    except BaseException:
        stop(process)
        raise
    clear_line()
    if code != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:] if log.is_file() else []
        raise checks.Missing("\n".join([f"{label} failed (exit status {code}); the end of {log}:", *tail]))
    say(f"✔ {label} ({minutes(time.monotonic() - started)})")


def poll(process: subprocess.Popen[bytes]) -> int | None:
    """Waits up to a second for the process. Returns its exit status, or None while it runs."""
    try:
        return process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return None


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that is not wanted any more, with its compilers."""
    if process.poll() is None:
        if sys.platform == "win32":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def pip_progress(log_text: str) -> str:
    """What pip does now, from its log."""
    words = [
        line.split() for line in log_text.splitlines() if line.startswith(("Collecting", "Downloading", "Installing"))
    ]
    return " ".join(words[-1][:2]).rstrip(":") if words else ""


said_at = 0.0


def sign_of_life(label: str, detail: str, seconds: float) -> None:
    """A line that is overwritten on a terminal, and one every SAY_EVERY_S elsewhere."""
    global said_at
    line = f"  {label}: {minutes(seconds)} {detail}"
    if sys.stdout.isatty():
        print(f"\r{line[:100]:<100}", end="", flush=True)
    elif time.monotonic() - said_at > SAY_EVERY_S and seconds > SAY_EVERY_S:
        said_at = time.monotonic()
        say(line)


def clear_line() -> None:
    """Removes the sign of life from a terminal."""
    if sys.stdout.isatty():
        print(f"\r{'':<100}\r", end="")


def say(line: str) -> None:
    """One line to the user, at once also into a pipe."""
    print(line, flush=True)


def minutes(seconds: float) -> str:
    """ "8 s" or "3 min 20 s"."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"


def last_line(text: str) -> str:
    """The last line with something in it."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a short command and keeps what it says."""
    return subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", cwd=ROOT, check=False)


# The stamp


def fingerprint() -> str:
    """sha256 over what decides what is installed."""
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt", Path(__file__), Path(checks.__file__)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def read_stamp() -> dict | None:
    """The last complete installation, if it is still what the files ask for."""
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stamp if stamp["fingerprint"] == fingerprint() and PYTHON.exists() else None


def write_stamp(extras: list[str], torch: str) -> None:
    """Marks the installation as complete, last of all."""
    partial = STAMP.with_suffix(".part")
    partial.write_text(json.dumps({"fingerprint": fingerprint(), "extras": extras, "torch": torch}), encoding="utf-8")
    partial.replace(STAMP)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
