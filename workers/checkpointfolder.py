"""The checkpoints of one job on this machine's disk: `<position>.<charges>.checkpoint`, the two newest.

`charges`: how many the job had when it was made. One that was made before a charge may be what broke the job.
"""

import contextlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

KEPT = 2
NAME = re.compile(r"([0-9]{1,18})\.([0-9]{1,9})\.checkpoint")


class Checkpoint(NamedTuple):
    """A file from which the job can be gone on with."""

    position: int
    charges: int
    path: Path


def path_of(folder: Path, position: int, charges: int) -> Path:
    """Where a checkpoint lies or would lie."""
    return folder / f"{position}.{charges}.checkpoint"


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """All in a job's folder, the newest last; none where there is no folder."""
    if not folder.is_dir():
        return []
    named = [(NAME.fullmatch(file.name), file) for file in folder.iterdir()]
    return sorted(Checkpoint(int(name[1]), int(name[2]), file) for name, file in named if name)


def keep_only(folder: Path, kept: Collection[Path]) -> None:
    """Remove the other checkpoints of a job."""
    for checkpoint in list_checkpoints(folder):
        if checkpoint.path not in kept:
            drop(checkpoint.path)


def drop(path: Path) -> None:
    """Remove a checkpoint. One that a program holds open on Windows stays until the next time."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
