"""What the agent and its runner say to each other: one JSON object a line."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

Failure = Literal["error", "crashed", "oom", "disk"]
Command = Literal["pause", "resume", "save"]


class JobLine(BaseModel):
    """One attempt. `provenance` is what the agent knows about the machine; it becomes part of the result.

    `job`, `study`: what its log is about. `checkpoints`: the folder that its checkpoints go into, made while the job
    had so many `charges`; without one it makes none. `resume`: the checkpoint to go on from, made at `position`.
    `ooms`: how often the job ran out of memory before.
    """

    attempt: str
    job: str = ""
    study: str = ""
    kind: str
    params: dict[str, Any]
    inputs: Path
    folder: Path
    device: str
    threads: int
    provenance: dict[str, Any] = {}
    checkpoints: Path | None = None
    charges: int = 0
    resume: Path | None = None
    position: int = 0
    ooms: int = 0


class CommandLine(BaseModel):
    """What the attempt under way is to do at its next safe point: stand still, go on, or save a checkpoint at once."""

    attempt: str
    command: Command


class EventLine(BaseModel):
    """What happened: progress (position of total, metrics), done, or failed with its reason.

    checkpoint: there is one at `position`, whole in the file `path`. saved: the answer to the command; what could be
    saved is on the disk. paused: the attempt stands still, until the next progress is said.
    """

    event: Literal["progress", "checkpoint", "saved", "paused", "done", "failed"]
    attempt: str
    position: int = 0
    total: int = 0
    metrics: dict[str, float] = {}
    path: Path | None = None
    size: int = 0
    reason: Failure = "crashed"
    message: str = ""


LINES: TypeAdapter[CommandLine | JobLine] = TypeAdapter(
    Annotated[CommandLine | JobLine, Field(union_mode="left_to_right")]
)
"""What the agent writes: only a command has the key `command`."""
