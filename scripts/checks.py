"""What the installer looks at before anything slow begins. Standard library only; old Pythons read it too."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

MIN_PYTHON = (3, 11)
COMPILERS = ("c++", "g++", "clang++")
DISK_CPU_GB = 4.0
"""free disk for the CPU build of torch: 2 GB of packages, room to unpack them and to compile llama.cpp"""
DISK_CUDA_GB = 14.0
"""the same with torch's CUDA libraries: about 8 GB of packages"""


NVIDIA_SMI_S = 20
"""how long a driver that is starting may take to name its GPUs"""


class Missing(Exception):
    """Something this machine lacks: one line that names what to install or free."""


def check_python(version: tuple[int, int]) -> None:
    """Raises Missing for a Python that is too old to run the project."""
    if version < MIN_PYTHON:
        found, wanted = ".".join(map(str, version)), ".".join(map(str, MIN_PYTHON))
        raise Missing(
            f"Python {wanted} or newer is needed, this is {found}: install python{wanted} (Debian, Ubuntu: "
            f"apt install python{wanted} python{wanted}-venv), then `make PYTHON=python{wanted} …`"
        )


def check_venv_module() -> None:
    """Raises Missing where the distribution left out what `python3 -m venv` needs."""
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        version = ".".join(map(str, sys.version_info[:2]))
        raise Missing(
            f"Python's venv module is missing: apt install python{version}-venv, or what your system calls it"
        )


def find_compiler() -> str:
    """The C++ compiler that builds llama.cpp. Raises Missing without one."""
    for name in (os.environ.get("CXX", ""), *COMPILERS):
        if name and shutil.which(name):
            return name
    raise Missing("a C++ compiler is missing (llama.cpp is compiled here): apt install g++, or dnf install gcc-c++")


def find_gpu() -> str:
    """The first NVIDIA GPU's name, "" where there is none or its driver does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    query = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, encoding="utf-8", timeout=NVIDIA_SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip().partition("\n")[0]


def check_disk(folder: Path, needed_gb: float) -> float:
    """Free disk at `folder` in GB (10^9 bytes). Raises Missing when it is less than needed."""
    free = shutil.disk_usage(existing(folder)).free / 1e9
    if free < needed_gb:
        raise Missing(f"{needed_gb:.0f} GB of free disk are needed at {folder}, {free:.1f} GB are there: free some")
    return free


def check_writable(folder: Path) -> None:
    """Raises Missing when nothing can be created in `folder`."""
    if not os.access(existing(folder), os.W_OK | os.X_OK):
        raise Missing(f"{folder} is not writable: use a folder of your own (or correct its owner)")


def existing(folder: Path) -> Path:
    """The folder itself, or its closest parent that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def cache_folder() -> Path:
    """Where built wheels are kept between clones: JSM_CACHE, or the user's cache folder."""
    own = os.environ.get("JSM_CACHE")
    if own:
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "jsm-queue" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jsm-queue"


def without_amx() -> str:
    """Compiler flags that leave a server CPU's matrix tiles alone; nothing where there are none.

    Virtual machines announce them and then fault on their first use, and no PC has them.
    """
    flags = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    if "amx_tile" not in cpu_flags().split():
        return ""
    command = [find_compiler(), *flags.split(), "-E", "-x", "c++", os.devnull]
    known = subprocess.run(command, capture_output=True, check=False)
    return flags if known.returncode == 0 else ""


def build_key(cmake_args: str) -> str:
    """Names a native build: 12 hexadecimal digits over what the compiled code depends on.

    llama.cpp compiles for the CPU it is built on, so a wheel may not travel to another kind of CPU, as it
    would through a home folder that machines share.
    """
    parts = (platform.system(), platform.machine(), cpu_flags(), cmake_args)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def cpu_flags() -> str:
    """The first CPU's feature list on Linux; elsewhere the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
