"""A kind for tests of the runner and its slot: the real runner process, whose `judge` does what its input says."""

import textwrap
from pathlib import Path

from jsm_queue.kinds import JudgeParams
from jsm_queue.protocol import AttemptReport
from jsm_queue.spec import JudgeSpec
from workers.board import Held
from workers.lines import JobLine

PROGRAM = textwrap.dedent(
    """
    import os, sys, tempfile, time, types
    from jsm_queue.errors import DataError, SetupError
    from jsm_queue.protocol import RecordIn
    from workers import runner, safepoints
    from workers.work import Outcome, saving

    safepoints.CHECKPOINT_S = 0.01

    def steps(work):
        "Steps from where it was, until there is enough."
        begun = int(work.resume.read_text(encoding="utf-8")) if work.resume else 0
        for step in range(begun + 1, 2001):
            time.sleep(0.005)
            work.checkpoint(step, lambda: saving(str(step).encode()))
            work.progress(step, 2000, {"begun": begun})
            if (work.inputs / "enough").exists():
                return Outcome([], {"begun": begun, "steps": step, "ooms": work.ooms})

    def run(work):
        wish = (work.inputs / "wish").read_text(encoding="utf-8")
        print("the kind says:", wish)
        if wish == "steps": return steps(work)
        work.progress(1, 2, {"loss": 2.5, "bad": float("nan")})
        if wish.startswith("keep"): tempfile.mkdtemp()
        if wish in ("sleep", "keep and sleep"): time.sleep(600)
        if wish == "die": os._exit(9)
        if wish == "kill": os.kill(os.getpid(), 9)
        if wish == "oom": raise MemoryError("no room")
        if wish == "torch oom": raise RuntimeError("CUDA error: out of memory")
        if wish == "disk": raise OSError(28, "No space left on device")
        if wish == "data": raise DataError("line 3 is empty", "Remove it")
        if wish == "setup": raise SetupError("no compiler", "Install one")
        if wish == "import": import not_installed
        if wish == "cuda": raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")
        if wish == "long": RecordIn(item=201 * "x", name="score", value=1.0)
        if wish == "bug": raise KeyError("x")
        if wish == "exit": sys.exit(3)
        if wish == "pid": return Outcome([], {"pid": os.getpid(), "threads": work.device.threads})
        if wish == "nan": return Outcome([RecordIn(item="q1", name="score", value=float("nan"))])
        if wish == "meta": return scored(meta={"x": float("inf")})
        return scored(meta={"文": ["値"]})

    def scored(meta):
        return Outcome([RecordIn(item="q1", name="score", value=1.5, meta=meta)], {"seconds": 0.5})

    module = types.ModuleType("workers.kinds.judge")
    module.run = run
    sys.modules["workers.kinds.judge"] = module
    runner.main()
    """
)
PARAMS = JudgeParams(judge=JudgeSpec(), split="bench").model_dump(mode="json")


def held(attempt: str = "a1b2c3d4") -> Held:
    """An attempt of which nothing is wished but that it runs."""
    return Held(AttemptReport(attempt=attempt, phase="running"))


def job(folder: Path, wish: str, attempt: str = "a1b2c3d4") -> JobLine:
    """A job that does what `wish` says. Its checkpoints go beside its inputs."""
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    (folder / "inputs" / "wish").write_text(wish, encoding="utf-8")
    return JobLine(
        attempt=attempt,
        kind="judge",
        params=PARAMS,
        inputs=folder / "inputs",
        folder=folder / "out",
        device="cpu",
        threads=1,
        provenance={"worker": "test"},
        checkpoints=folder / "checkpoints",
    )
