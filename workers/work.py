"""What a kind's function gets and gives: the contract between the runner process and `workers/kinds/`.

Each `workers/kinds/<kind>.py` has one public function `run(work: Work) -> Outcome`. Input files lie in
`work.inputs/<need>/<file>` with the names of `jsm_queue.kinds.ROLE_FILES`; leaf files (the corpus, the bench,
a local base) in `work.inputs/source/`, `work.inputs/bench/` and `work.inputs/base/`. Output files go into
`work.folder`, under the same names; the runner hashes them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsm_queue.protocol import RecordIn

Progress = Callable[[int, int, dict[str, float]], None]
"""progress(position, total, metrics): called at least every few seconds of work; also the sign of life."""


@dataclass(frozen=True)
class Device:
    """Where to compute. `name` is "cpu" or "cuda:<i>"; `threads` is this slot's share of the CPU cores."""

    name: str
    threads: int


@dataclass(frozen=True)
class Work:
    """One attempt, as a kind sees it. `params` is the kind's own type from `jsm_queue.kinds`."""

    params: Any
    inputs: Path
    folder: Path
    device: Device
    progress: Progress


@dataclass
class Outcome:
    """A complete result: records and metrics; the files are already in `work.folder`."""

    records: list[RecordIn] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
