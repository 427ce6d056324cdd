"""What api and workers say to each other, as JSON over HTTP. DESIGN: `docs/architecture.md`, "Protocol"."""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    FiniteFloat,
    StringConstraints,
    field_validator,
)

from jsm_queue.kinds import FileName, Sha

Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f][0-9a-f-]{7,63}$")]
Role = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,31}$")]
Name = Annotated[str, StringConstraints(max_length=128)]
Reason = Annotated[str, StringConstraints(max_length=200)]
Desired = Literal["run", "pause", "release", "stop"]
WorkerWish = Literal["run", "pause", "drain"]
EndReason = Literal["crashed", "stalled", "oom", "released", "disk", "cancelled", "error", "lost"]
Phase = Literal["running", "delivering"]


LARGEST = 2**53
"""Of a count, an offset or a number of bytes: every reader of JSON takes it for the number that it is."""

STORE_AWAY = "X-JSM-Store-Away"
"""Header of every answer while the api cannot use its store: what it says is old."""

MAX_RESULT = 256 * 2**20
"""Bytes of a result as JSON: a million records of a usual length. The api answers 413 to a longer one."""


class Message(BaseModel):
    """Unknown keys are ignored, so that yesterday's worker can talk to today's api."""

    model_config = ConfigDict(extra="ignore")


class JoinRequest(Message):
    """POST /v1/workers/join, authorized by an invite token.

    A worker that chooses its `token` may ask again where the answer was lost: it is the same worker then.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
    token: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43,128}$")] | None = None


class JoinReply(Message):
    """The worker's id and secrets, told once."""

    worker: Id
    token: str
    broker_url: str
    queue: str


def _refuse_twice(what: str, keys: Iterable[Any]) -> None:
    twice = next((key for key, count in Counter(keys).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{what} {twice!r} comes more than once")


class SlotReport(Message):
    """One slot. `kind` is "gpu" or "cpu"; `vram_free` in bytes (system memory for a CPU slot).

    `run` is the run that occupies the slot or, when it is free, the last one that did: the api closes that run only, so
    a report that was written before a claim cannot close the claimed run. `hold`: why its owner keeps it, for people;
    such a slot is not free.
    """

    idx: int = Field(ge=0, le=63)
    kind: Literal["gpu", "cpu"]
    device: Name = Field(description='"cpu", "cuda:0"')
    vram_free: int = Field(ge=0, le=LARGEST)
    vram_total: int = Field(default=0, ge=0, le=LARGEST)
    free: bool
    hold: Reason | None = None
    run: Id | None = None
    warm_base: Name | None = None


def _each_once(slots: list[SlotReport]) -> list[SlotReport]:
    _refuse_twice("slot", (slot.idx for slot in slots))
    return slots


Slots = Annotated[list[SlotReport], Field(min_length=1, max_length=64), AfterValidator(_each_once)]
"""All that the worker has."""


class Hardware(Message):
    """What the machine has. `hardware_class` groups machines whose timings compare, e.g. "RTX 4060 Ti 16GB".

    `lacks`: kind → why this machine cannot do it and how to change that; it is offered the others only. `fuses`: how
    many trainings of one base its engine trains at once.
    """

    hardware_class: Name
    os: str = Field(max_length=64)
    cpu: Name
    cores: int = Field(ge=0, le=LARGEST)
    memory_bytes: int = Field(ge=0, le=LARGEST)
    gpus: list[Name] = Field(default_factory=list, max_length=64)
    packages: dict[Name, Name] = Field(default_factory=dict, max_length=100)
    driver: str | None = Field(default=None, max_length=64)
    lacks: dict[Name, Annotated[str, StringConstraints(max_length=500)]] = Field(default_factory=dict, max_length=32)
    fuses: int = Field(default=1, ge=1, le=64)


class HelloRequest(Message):
    """POST /v1/worker/hello: a new boot_id ends the old session.

    Live attempts that are neither in `undelivered` nor in `running` end lost.
    """

    boot_id: Id
    hardware: Hardware
    slots: Slots
    undelivered: Annotated[list[Id], Field(max_length=1000)] = []
    """attempts whose results are whole on the worker's disk"""
    running: Annotated[list[Id], Field(max_length=1000)] = []
    """attempts that go on, as it is the store that changed and not the worker; those in `drop` are in vain"""
    holds: Annotated[list[Sha], Field(max_length=4096)] = []
    """artifacts in the worker's cache: a job that needs them goes there rather than elsewhere"""


class HelloReply(Message):
    """`drop`: attempts whose results the api would not take. `lease_s`, `heartbeat_s` in seconds."""

    drop: list[Id]
    lease_s: float
    heartbeat_s: float


class AttemptReport(Message):
    """Where one attempt is. `position` of `total` units (steps, examples); `metrics` for people (loss, tokens/s).

    `paused`: why it stands still, for people; its memory stays taken.
    """

    attempt: Id
    phase: Phase
    position: int = Field(default=0, ge=0, le=LARGEST)
    total: int = Field(default=0, ge=0, le=LARGEST)
    metrics: Annotated[dict[Name, FiniteFloat], Field(max_length=16)] = {}
    paused: Reason | None = None


class HeartbeatRequest(Message):
    """POST /v1/worker/heartbeat: all slots and attempts at once."""

    boot_id: Id
    slots: Slots
    attempts: Annotated[list[AttemptReport], Field(max_length=1064)] = []
    disk_free: int | None = Field(default=None, ge=0, le=LARGEST, description="bytes that the worker can still write")


class LeaveRequest(Message):
    """POST /v1/worker/leave: the session ends here. All that this worker had to say is said."""

    boot_id: Id


class HeartbeatReply(Message):
    """`control_rev` grows whenever a desired state of this worker's attempts changed.

    `unclaimed`: how many of this session's offers in a row, up to the last, nobody claimed.
    """

    control_rev: int
    unclaimed: int = 0


class ControlReply(Message):
    """GET /v1/worker/control?boot_id=&rev=: answered when the revision differs from `rev`, or after 25 s.

    What is desired, not what to do: the same answer twice changes nothing. `worker` is for the whole machine: a paused
    or drained one takes nothing new.
    """

    control_rev: int
    worker: WorkerWish = "run"
    desired: dict[Id, Desired]


class InputFile(Message):
    """One file that an attempt needs: where it lies in the input folder, and its content.

    `folder` is "" or the need's name ("dataset", "adapter", "gguf", "gguf.0", "base", …).
    """

    folder: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]*(\.[0-9]{1,3})?$")]
    name: FileName
    sha: Sha
    size: int


class CheckpointFile(Message):
    """What an attempt goes on from: a file of an earlier attempt, made at `position`."""

    sha: Sha
    size: int
    position: int


class Grant(Message):
    """One attempt that the worker may start. `ooms`: how often the job ran out of memory before.

    `checkpoint`: where to go on. A newer one on the worker's own disk counts too where it was made when the job had as
    many `charges`: another may be what broke it.
    """

    attempt: Id
    job: Id
    kind: str
    params: dict[str, Any]
    inputs: list[InputFile]
    ooms: int = 0
    charges: int = 0
    checkpoint: CheckpointFile | None = None


class ClaimRequest(Message):
    """POST /v1/runs/{id}/claim. The same delivery gets the same answer; another delivery of a claimed run gets 409."""

    boot_id: Id
    delivery: Id


class ClaimReply(Message):
    """What to run on slot `slot`."""

    slot: int
    attempts: list[Grant]


class RecordIn(Message):
    """One measured example."""

    item: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    value: FiniteFloat
    meta: dict[str, Any] | None = None


class ArtifactIn(Message):
    """One delivered file, uploaded before the result is posted."""

    role: Role
    sha: Sha
    size: int = Field(ge=0, le=LARGEST)


class ResultRequest(Message):
    """POST /v1/attempts/{id}/result: the whole result. A replay gets the first answer.

    A record is named by its item and name, an artifact by its role: twice the same is refused.
    """

    records: Annotated[list[RecordIn], Field(max_length=1_000_000), FailFast()] = []
    metrics: Annotated[dict[Name, FiniteFloat], Field(max_length=200)] = {}
    artifacts: Annotated[list[ArtifactIn], Field(max_length=64)] = []
    provenance: dict[str, Any] = {}

    @field_validator("records")
    @classmethod
    def _one_value_each(cls, records: list[RecordIn]) -> list[RecordIn]:
        _refuse_twice("record", ((record.item, record.name) for record in records))
        return records

    @field_validator("artifacts")
    @classmethod
    def _one_file_a_role(cls, artifacts: list[ArtifactIn]) -> list[ArtifactIn]:
        _refuse_twice("artifact", (artifact.role for artifact in artifacts))
        return artifacts


class ResultReply(Message):
    """The result counts; the worker may delete its copy."""

    accepted: bool


class CheckpointRequest(Message):
    """POST /v1/attempts/{id}/checkpoint: where the attempt can be gone on with; its file was uploaded before."""

    sha: Sha
    position: int = Field(ge=1, le=LARGEST)


class EndRequest(Message):
    """POST /v1/attempts/{id}/end: the attempt ended without a result."""

    reason: EndReason
    message: Annotated[str, StringConstraints(max_length=4000)] = ""
    log_tail: Annotated[str, StringConstraints(max_length=20000)] = ""


class LogRequest(Message):
    """POST /v1/attempts/{id}/log: what a running attempt's log says from byte `offset` on, in whole lines."""

    offset: int = Field(ge=0, le=LARGEST)
    text: Annotated[str, StringConstraints(max_length=2**18)]


class LogSize(Message):
    """How many bytes of the attempt's log the api has; the next text begins there."""

    size: int


class ArtifactOffer(Message):
    """POST /v1/artifacts: may I send this file?"""

    sha: Sha
    size: int = Field(ge=0, le=LARGEST)


class ArtifactState(Message):
    """`have`: nothing to send. Otherwise PATCH /v1/artifacts/{sha} from byte `offset` on.

    Its headers are Upload-Offset and Upload-Length, the whole file's size.
    """

    have: bool
    offset: int


class SubmitRequest(Message):
    """POST /v1/studies."""

    spec: dict[str, Any]
    inputs: dict[str, Any]


class Bell(Message):
    """The Celery message: a doorbell, never a payload."""

    v: Literal[1] = 1
    run: Id
    attempts: list[Id]
    study: str
    label: str


class Place(Message):
    """GET /v1/join, which needs no token: where the api is, and by what it is known.

    `ca`: PEM text of its authority, without one the system's. `fingerprint` of its key, `certificate`: sha256 of it; as
    `jsm_queue/tls.py` says. None where it speaks no TLS.
    """

    version: str
    api_url: str | None = None
    ca: str | None = None
    fingerprint: str | None = None
    certificate: str | None = None


class BrokerRequest(Message):
    """POST /v1/worker/broker, at every start: the worker chose a password for its own user at the broker.

    `secret_hash`: its sha256; nobody else knows the password itself.
    """

    secret_hash: Sha


class BrokerReply(Message):
    """Where the worker's messages come from.

    `user`: its own there, whose password it chose; without one the URL is complete. `ca`: PEM text of the authority by
    which the broker is known, without one the system's.
    """

    broker_url: str
    queue: str
    user: str | None = None
    ca: str | None = None
