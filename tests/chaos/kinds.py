"""Deterministic kinds for the faults: what they deliver follows from the inputs alone, step after step.

Each step makes the next state of the last one, so a step that is missing, done twice, or gone on with from another
job's checkpoint changes everything that comes of it.

CHAOS_STEP_S    what a step takes on average: each job has a pace of its own, so that they do not all end at once
CHAOS_TIMES     when a result is to tell its times: then no two are equal
"""

import hashlib
import json
import os
import time
from pathlib import Path

from jsm_queue.kinds import KINDS, ROLE_FILES, Params, PrepareParams, TrainParams
from jsm_queue.protocol import RecordIn
from workers.work import Outcome, Work, saving

STEPS = 20
ITEMS = 40
GAIN = {0: 3.0, 8: 2.0, 16: 1.5, 24: 1.0, 32: 1.0}
"""NLL by training size; 0 is the untrained base. So n* is 24."""


def run(work: Work) -> Outcome:
    """Any kind of the study, in STEPS steps, going on where an earlier attempt was."""
    began = time.time()
    state = _steps(work, _seen(work.inputs, work.params))
    kind = next(name for name, kind in KINDS.items() if isinstance(work.params, kind.params))
    for role in KINDS[kind].outputs:
        text = hashlib.sha256(f"{role} {state}".encode()).hexdigest() * 40
        (work.folder / ROLE_FILES[role]).write_text(f"{_n(work.inputs, work.params)} {text}", encoding="utf-8")
    times = {"began": began, "ended": time.time()} if "CHAOS_TIMES" in os.environ else {}
    return Outcome(_records(kind, work, state), {"seen": int(state[:12], 16)} | times)


def _steps(work: Work, seen: str) -> str:
    at = {"position": 0, "state": seen}
    if work.resume:
        at = json.loads(work.resume.read_text(encoding="utf-8"))
    pace = 0.75 + int(seen[:4], 16) / 2**17
    pause = pace * float(os.environ.get("CHAOS_STEP_S", "0"))
    while at["position"] < STEPS:
        next_state = hashlib.sha256(f"{at['state']} {at['position']}".encode()).hexdigest()
        at["position"] += 1
        time.sleep(pause)  # the work itself, which takes time and no CPU; in the midst of it no checkpoint is whole
        at["state"] = next_state
        work.checkpoint(at["position"], lambda: saving(json.dumps(at).encode()))
        work.progress(at["position"], STEPS, {"loss": 1 / at["position"]})
    return at["state"]


def _seen(inputs: Path, params: Params) -> str:
    """What is in the input folder and the parameters, as one hash."""
    files = sorted(file for file in inputs.rglob("*") if file.is_file())
    parts = [f"{file.relative_to(inputs).as_posix()} {file.read_text(encoding='utf-8')}" for file in files]
    return hashlib.sha256("\n".join([params.model_dump_json(), *parts]).encode()).hexdigest()


def _n(inputs: Path, params: Params) -> int:
    """The training size that an input is of, or one's own."""
    if isinstance(params, TrainParams):
        return params.n
    if isinstance(params, PrepareParams):
        return 0
    trained = [*inputs.glob("adapter/adapter_config.json"), *inputs.glob("gguf*/model.gguf"), *inputs.glob("answers/*")]
    return int(trained[0].read_text(encoding="utf-8").split()[0]) if trained else 0


def _records(kind: str, work: Work, state: str) -> list[RecordIn]:
    noise = [int(state[i % 60 : i % 60 + 4], 16) / 1e6 for i in range(ITEMS)]
    n = _n(work.inputs, work.params)
    if kind == "score":
        nll = [RecordIn(item=f"q{i}", name="nll", value=GAIN[n] + i / 100 + noise[i]) for i in range(ITEMS)]
        return nll + [RecordIn(item=f"q{i}", name=name, value=10) for i in range(ITEMS) for name in ("tokens", "bytes")]
    if kind == "judge":
        return [RecordIn(item=f"q{i}", name="score", value=(i + n) % 4) for i in range(ITEMS)]
    return [RecordIn(item=f"q{i}", name=kind, value=noise[i]) for i in range(ITEMS)]
