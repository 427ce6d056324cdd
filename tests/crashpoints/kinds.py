"""Toy kinds: what the real ones deliver, made in milliseconds of the inputs alone, the same every time."""

import hashlib
from pathlib import Path

from jsm_queue.kinds import ROLE_FILES, Params, PrepareParams, TrainParams
from jsm_queue.protocol import RecordIn
from workers.work import Outcome, Work, saving

PIECE = 600
"""Bytes of a toy agent's upload piece; each file is a bit longer than one."""
ITEMS = 12
GAIN = {0: 3.0, 8: 2.0, 16: 1.0}
"""NLL by training size; 0 is the untrained base. So n* is 16."""


def run(work: Work) -> Outcome:
    """Any kind of the toy study: it looks at every byte of its inputs."""
    seen = _seen(work.inputs)
    work.progress(0, 2, {})
    work.checkpoint(1, lambda: saving(seen.encode()))
    work.progress(1, 2, {})
    if isinstance(work.params, PrepareParams):
        _write(work.folder, seen, "train", "validation", "test", "bench", "data_report")
    elif isinstance(work.params, TrainParams):
        _write(work.folder, f"{seen} {work.params.n}", "adapter_config", "adapter_model", "training_log")
        (work.folder / "adapter_config.json").write_text(f"{work.params.n} {_filler(seen)}", encoding="utf-8")
    records = _records(work.inputs, seen, work.params) if hasattr(work.params, "split") else []
    work.progress(2, 2, {"seen": int(seen[:6], 16)})
    return Outcome(records, {"seen": int(seen[:12], 16)})


def _seen(inputs: Path) -> str:
    """What is in the input folder, as one hash."""
    files = sorted(file for file in inputs.rglob("*") if file.is_file())
    parts = [f"{file.relative_to(inputs).as_posix()} {file.read_text(encoding='utf-8')}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _filler(text: str) -> str:
    return (hashlib.sha256(text.encode()).hexdigest() * 20)[: PIECE + 100]


def _write(folder: Path, text: str, *roles: str) -> None:
    for role in roles:
        (folder / ROLE_FILES[role]).write_text(f"{role} {_filler(f'{role} {text}')}", encoding="utf-8")


def _records(inputs: Path, seen: str, params: Params) -> list[RecordIn]:
    config = inputs / "adapter" / ROLE_FILES["adapter_config"]
    n = int(config.read_text(encoding="utf-8").split()[0]) if config.exists() else 0
    noise = [int(seen[i], 16) / 10_000 for i in range(ITEMS)]
    nll = [RecordIn(item=f"q{i}", name="nll", value=GAIN[n] + i / 100 + noise[i]) for i in range(ITEMS)]
    return nll + [RecordIn(item=f"q{i}", name="tokens", value=10) for i in range(ITEMS)]
