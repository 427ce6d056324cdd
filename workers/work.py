"""What a kind's function gets and gives: the contract between the runner process and `workers/kinds/`.

Each `workers/kinds/<kind>.py` has one public function `run(work: Work) -> Outcome`. Input files lie in
`work.inputs/<need>/<file>` with the names of `jsm_queue.kinds.ROLE_FILES`; leaf files (the corpus, the bench,
a local base) in `work.inputs/source/`, `work.inputs/bench/` and `work.inputs/base/`. Output files go into
`work.folder`, under the same names; the runner hashes them.

A call of `work.progress` is a *safe point*: the attempt may stand still in it for hours. A kind that can be gone on
with calls `work.checkpoint` just before, and looks at `work.resume` when it begins.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsm_queue.protocol import RecordIn

Progress = Callable[[int, int, dict[str, float]], None]
"""progress(position, total, metrics): called at least every few seconds of work; also the sign of life."""

Save = Callable[[Path], object]
"""Writes a checkpoint's file at that path: all that going on from there needs. It is never pickled.

Called from another thread while the job goes on. Raises OSError.
"""

Take = Callable[[], Save]
"""The state as it is now: what the job changes later is not in it."""

Offer = Callable[[int, Take], None]
"""checkpoint(position, take): called just before the progress of that position. `take` is called within that progress,
if at all: the runner decides by time whether a checkpoint is due.
"""


@dataclass(frozen=True)
class Device:
    """Where to compute. `name` is "cpu" or "cuda:<i>"; `threads` is this slot's share of the CPU cores."""

    name: str
    threads: int


def saving(content: bytes) -> Save:
    """Of a checkpoint that is these bytes."""
    return lambda path: path.write_bytes(content)


def _offer_nothing(position: int, take: Take) -> None:
    """Where no checkpoints are kept."""


@dataclass(frozen=True)
class Work:
    """One attempt, as a kind sees it. `params` is the kind's own type from `jsm_queue.kinds`.

    `resume`: a checkpoint of this kind to go on from. One that cannot be used is no reason to fail: the kind begins at
    the start. `ooms`: how often the job ran out of memory before; each time it is to take less.
    """

    params: Any
    inputs: Path
    folder: Path
    device: Device
    progress: Progress
    checkpoint: Offer = _offer_nothing
    resume: Path | None = None
    ooms: int = 0
    attempt: str = ""


@dataclass
class Outcome:
    """A complete result: records and metrics; the files are already in `work.folder`."""

    records: list[RecordIn] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
