"""`make bench-demo`: what a newcomer meets. A fresh clone of HEAD with empty caches, then the README's commands.

Measures `make install`, `make demo` after it, and `make demo` once more: minutes, memory, disk. Takes a quarter of
an hour on two cores. What the package index sends is part of the first figure.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.form import ROOT, Row, report

DEMO_MINUTES = 10.0
DEMO_GB = 6.0
AGAIN_SECONDS = 15.0
LOOK_S = 0.5  # between two looks at the memory


@dataclass(frozen=True)
class Ran:
    """One command: how long it took, and the most memory that it and its children held at once, in bytes."""

    seconds: float
    memory: int


def main() -> int:
    """Returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="jsm-bench-") as folder:
        clone, cache = Path(folder) / "clone", Path(folder) / "cache"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        installing = run("make install", clone, cache)
        installed = used_disk(clone) + used_disk(cache)
        demo = run("make demo", clone, cache)
        with_study = used_disk(clone) + used_disk(cache)
        again = run("make demo", clone, cache)
    return report(
        "demo",
        [
            Row("install", installing.seconds / 60, "minutes"),
            Row("install, disk", installed / 1e9, "GB"),
            Row("demo", demo.seconds / 60, "minutes", DEMO_MINUTES),
            Row("demo, memory", demo.memory / 1e9, "GB", DEMO_GB),
            Row("demo, disk", (with_study - installed) / 1e9, "GB"),
            Row("demo again", again.seconds, "s", AGAIN_SECONDS),
        ],
    )


def run(command: str, folder: Path, cache: Path) -> Ran:
    """Run a command of the README there, with caches of its own. Raises SystemExit when it fails."""
    private = {"XDG_CACHE_HOME": str(cache), "JSM_HOME": "", "JSM_CACHE": ""}
    environment = {k: v for k, v in (os.environ | private).items() if v}
    started = time.monotonic()
    process = psutil.Popen(command.split(), cwd=folder, env=environment, stdin=subprocess.DEVNULL)
    memory = 0
    while process.poll() is None:
        memory = max(memory, used_memory(process))
        time.sleep(LOOK_S)
    if process.returncode:
        raise SystemExit(f"`{command}` ended with exit status {process.returncode}")
    return Ran(time.monotonic() - started, memory)


def used_memory(parent: psutil.Process) -> int:
    """Bytes of a process and its children; pages that several share are counted once (Linux) or in each."""
    total = 0
    try:
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            found = process.memory_full_info() if sys.platform == "linux" else process.memory_info()
            total += getattr(found, "pss", found.rss)
        except psutil.Error:
            continue  # it has just ended
    return total


def used_disk(folder: Path) -> int:
    """Bytes of all files below a folder; a hard link counts once."""
    files = [path.lstat() for path in folder.rglob("*") if not path.is_dir()]
    return sum({(file.st_dev, file.st_ino): file.st_size for file in files}.values())


if __name__ == "__main__":
    raise SystemExit(main())
