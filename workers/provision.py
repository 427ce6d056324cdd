"""`python -m workers.provision`: what a worker needs beside jsm-queue itself, into this environment.

The join scripts call it, so that it is one for all systems. What cannot be had on this machine is told and left out:
the worker then does the kinds that it can (`jsm worker doctor` says which).
"""

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence

from packaging.requirements import Requirement

from workers import hardware

LLAMA = "llama-cpp-python"
WITHOUT_LLAMA = "this worker cannot answer, convert, compare (parity), time (latency), or judge with a model"
CMAKE_ARGS = "-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_SERVER=OFF"
"""leaves out what the project does not use of llama.cpp: half of the build time"""
COMPILERS = ("c++", "g++", "clang++", "cl")


def needed(requirements: Iterable[str]) -> tuple[list[str], list[str]]:
    """What the extra `worker` asks for on this system: what is downloaded, and what is compiled here."""
    here = [Requirement(line) for line in requirements]
    wanted = [each for each in here if each.marker and "extra" in str(each.marker)]
    wanted = [each for each in wanted if each.marker and each.marker.evaluate({"extra": "worker"})]
    lines = {each.name: f"{each.name}{each.specifier}" for each in wanted}
    compiled = [lines.pop(name) for name in (LLAMA,) if name in lines]
    return list(lines.values()), compiled


def pip(constraints: str, wanted: Sequence[str], index: str | None = None) -> bool:
    """Install packages in their tested versions. Returns whether that went well; pip says what did not."""
    more = ["--extra-index-url", index] if index else []
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", "install"]
    return subprocess.run([*argv, "-c", constraints, *more, *wanted], check=False).returncode == 0


def compile_llama(constraints: str, wanted: Sequence[str]) -> None:
    """llama.cpp is compiled for this machine's CPU: a wheel of another machine may use what it has not."""
    if importlib.util.find_spec("llama_cpp"):
        return
    if not any(map(shutil.which, COMPILERS)):
        why = f"there is no C++ compiler, so {WITHOUT_LLAMA}"
        say(f"llama.cpp is left out: {why}. {compiler_help()}, then call this again")
        return
    say("compiling llama.cpp for this CPU, once: 4 to 8 minutes on 2 cores")
    os.environ["CMAKE_ARGS"] = f"{CMAKE_ARGS} {os.environ.get('CMAKE_ARGS', '')}".strip()
    os.environ.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    if not pip(constraints, wanted):
        say(f"llama.cpp could not be compiled, so {WITHOUT_LLAMA}; what pip said is above")


def compiler_help() -> str:
    """How to get a compiler here."""
    return {
        "win32": "Install the Visual Studio Build Tools with C++",
        "darwin": "Run xcode-select --install",
    }.get(sys.platform, "Install g++ (Debian, Ubuntu: sudo apt install g++)")


def say_torch() -> None:
    """Says so where the installed torch cannot use the GPU that is there."""
    gpus = hardware.list_gpus()
    if gpus and hardware.torch_cuda() is None:
        say(
            f"{gpus[0].name} is not used: the package index gave a CPU build of torch. Call this again with "
            "--torch-index and the address of an index of PyTorch's with CUDA builds; `jsm doctor` names one"
        )


def say(line: str) -> None:
    """One line to the user, at once also into a pipe."""
    print(f"▸ {line}", flush=True)


def main() -> int:
    """The command line. Returns the exit status."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a Windows console may not have the mark
    parser = argparse.ArgumentParser(prog="python -m workers.provision", description="Install what a worker needs.")
    parser.add_argument("--constraints", required=True, help="a file with the versions to install")
    parser.add_argument("--torch-index", help="a package index that has the right build of torch")
    parser.add_argument("--no-llama", action="store_true", help=f"no llama.cpp: {WITHOUT_LLAMA}")
    given = parser.parse_args()
    downloaded, compiled = needed(importlib.metadata.requires("jsm-queue") or [])
    say("installing torch and what else the worker needs: up to several GB")
    if not pip(given.constraints, downloaded, given.torch_index):
        print("error: not all could be installed; what pip said is above", file=sys.stderr)
        return 3
    if given.no_llama:
        say(f"llama.cpp is left out as told: {WITHOUT_LLAMA}")
    else:
        compile_llama(given.constraints, compiled)
    say_torch()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
