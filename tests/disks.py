"""Disks that get full."""

from contextlib import suppress
from pathlib import Path

PAGE = 4096


def fill(disk: Path, leave: int = 0) -> Path:
    """A file that takes all of a disk but `leave` bytes, in pages."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(2**20))
        file.truncate(max(0, file.tell() // PAGE * PAGE - leave // PAGE * PAGE))
    return filler
