"""`make bench-gpu-release`: from the owner's wish to empty VRAM, on a real GPU with a real slot and runner.

A runner holds HOLD_BYTES and trains a small loop whose checkpoint is as large as that of a LoRA of rank 16 on an 8B
base. Each of TRIALS times the owner asks for the machine (`jsm worker yield`) at a random moment; the time ends when
NVML says that the GPU holds no more than before the runner started, within SLACK_BYTES. OTHERS times another program
takes memory on the GPU instead: from the moment at which it has it. With so few trials p99 is the longest.
"""

import contextlib
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.form import Row, report
from jsm_queue import processes, yielding
from jsm_queue.cli import console
from jsm_queue.errors import JsmError, SetupError
from jsm_queue.kinds import JudgeParams
from jsm_queue.spec import JudgeSpec
from workers import courtesy, nvml, slots
from workers.board import Board
from workers.courtesy import Rules, Watch
from workers.hardware import SlotPlan, list_gpus, torch_cuda
from workers.lines import EventLine, JobLine
from workers.slots import Slot
from workers.work import Outcome, Work

TRIALS, OTHERS = 20, 5
HOLD_BYTES = 6 * 2**30  # what an 8B base in NF4 takes with its activations
ADAPTER_FLOATS = 42_000_000  # of rank 16 on all linear layers of an 8B base; twice as many again for the optimizer
OTHER_BYTES = 2 * 2**30  # what another program takes
SLACK_BYTES = 200 * 2**20
QUIET_S = 0.5  # so that a trial follows the last one soon; no trial measures it
PATIENCE_S = 60.0
LOOK_S = 0.005  # between two looks at the GPU
LOOKS = 200  # of the courtesy thread, to see what one costs
SIDE = 4096  # of the matrices that keep the GPU busy


def main() -> int:
    """Returns the exit status: 3 where there is no GPU to measure."""
    if sys.argv[1:] == ["runner"]:
        return run_runner()
    if sys.argv[1:] == ["other"]:
        return run_other()
    try:
        with tempfile.TemporaryDirectory(prefix="jsm-release-") as folder:
            return report("gpu_release", list(measure(Path(folder), usable_gpu())))
    except JsmError as error:
        console.print_error(error.message, error.fix)
        return error.exit_code


def usable_gpu() -> str:
    """The UUID of the first GPU. Raises SetupError where nothing can be measured."""
    gpus = list_gpus()
    if not gpus or nvml.look(gpus[0].uuid) is None:
        raise SetupError(
            "No NVIDIA GPU that NVML can read: nothing can be released here", "Run it on a machine with one"
        )
    if torch_cuda() is None:
        raise SetupError(f"torch is a CPU build beside {gpus[0].name}", "`jsm worker doctor` says how to get the other")
    return gpus[0].uuid


def measure(folder: Path, uuid: str) -> Iterator[Row]:
    """All rows."""
    slots.RUNNER = ("-m", "benchmarks.gpu_release", "runner")
    bench = Bench(folder, uuid)
    try:
        asked = [bench.trial(i, bench.ask) for i in range(TRIALS)]
        others = [bench.trial(TRIALS + i, bench.start_other) for i in range(OTHERS if bench.sees_processes else 0)]
    finally:
        bench.close()
    yield Row("GPU release p50", statistics.median(asked), "s", bound=2.0)
    yield Row("GPU release p99", max(asked), "s", bound=5.0)
    if others:
        yield Row("GPU release p50, another program", statistics.median(others), "s", bound=2.0)
        yield Row("GPU release p99, another program", max(others), "s", bound=5.0)
    yield Row("courtesy, share of a core", bench.cost(), "", bound=0.01)


# ---- the runner, and the other program ---------------------------------------------------------------------


def run_runner() -> int:
    """The real runner process, whose one kind trains until it is stopped."""
    from workers import runner

    module: Any = types.ModuleType("workers.kinds.judge")
    module.run = train
    sys.modules["workers.kinds.judge"] = module
    with contextlib.suppress(BrokenPipeError):
        runner.main()
    return 0


def train(work: Work) -> Outcome:
    """Steps for ever, with AdamW's two states of an adapter, in a memory of HOLD_BYTES; each step may be saved."""
    import torch

    from workers.engine.checkpoint import saving

    state = {name: torch.zeros(ADAPTER_FLOATS, device=work.device.name) for name in ("adapter", "mean", "square")}
    left = torch.randn(SIDE, SIDE, device=work.device.name)
    taken = 4 * 3 * ADAPTER_FLOATS + left.nbytes
    rest = torch.empty(HOLD_BYTES - taken, dtype=torch.uint8, device=work.device.name)
    step = 0
    while True:
        step += 1
        state["adapter"] += torch.tanh(left @ left)[0, 0] * 1e-6
        if left.is_cuda:
            torch.cuda.synchronize()
        work.checkpoint(step, lambda: saving(state, {}))
        work.progress(step, 0, {"held": float(rest.nbytes)})


def run_other() -> int:
    """Takes memory on the GPU, says so, and holds it until standard input ends."""
    import torch

    held = torch.ones(OTHER_BYTES, dtype=torch.uint8, device="cuda")
    print(held.nbytes, flush=True)
    sys.stdin.read()
    return 0


# ---- the measurement ---------------------------------------------------------------------------------------


class Bench:
    """One slot on the GPU, with its board and the thread that watches the owner."""

    def __init__(self, folder: Path, uuid: str) -> None:
        self.folder, self.uuid = folder, uuid
        self.position = 0
        self.failure: JsmError | None = None
        self.sees_processes = False  # whether NVML names any: in some containers it does not, and no other is seen
        self.other: subprocess.Popen[bytes] | None = None
        self.plan = SlotPlan(0, "gpu", "cuda:0", max(1, processes.cores() // 2), uuid)
        self.home = folder / "home"
        self.slot, self.board = Slot(self.plan, self.home), Board([self.plan])
        self.rules = Rules(quiet_s=QUIET_S, hot=0)
        self.watch = Watch(self.home, [self.plan], self.board, self.rules, self.vacate)
        self.watch.start(self.fail)

    def close(self) -> None:
        """End all that was started."""
        self.board.leave()
        self.slot.kill()
        self.end_other()

    def fail(self, why: JsmError) -> None:
        """The watching thread ended."""
        self.failure = why

    def vacate(self, slot: int) -> None:
        """As the agent does."""
        if self.board.is_idle(slot):
            self.slot.kill()

    def used(self) -> int:
        """Bytes on the GPU now."""
        look = nvml.look(self.uuid)
        return look.used if look else 0

    def trial(self, number: int, trigger: Callable[[int], int]) -> float:
        """Seconds from the trigger until the GPU holds no more than the trigger says."""
        before = self.used()
        running = threading.Thread(target=self.run_job, args=(number,), daemon=True)
        running.start()
        self.wait(lambda: self.position > 0 and self.used() >= before + HOLD_BYTES, "the runner to hold its memory")
        self.sees_processes = bool((look := nvml.look(self.uuid)) and look.processes)
        time.sleep(random.Random(number).uniform(0.0, 2 * courtesy.POLL_S))  # any moment between two looks
        floor = trigger(before)
        began = time.monotonic()
        self.wait(lambda: self.used() <= floor, "the memory to be free")
        seconds = time.monotonic() - began
        running.join(PATIENCE_S)
        self.end_other()
        yielding.end(self.home)
        self.wait(lambda: self.board.slot_reports({})[0].free, "the slot to come back")
        print(f"trial {number}: {seconds:.2f} s", flush=True)
        return seconds

    def run_job(self, number: int) -> None:
        """One attempt, as the agent runs it, until the owner wants the GPU."""
        self.position = 0
        attempt, folder = f"a{number:07x}", self.folder / str(number)
        (folder / "inputs").mkdir(parents=True)
        (folder / "out").mkdir()
        self.board.occupy(0, f"b{number:07x}")
        held = self.board.begin(attempt, 0)
        assert held
        params = JudgeParams(judge=JudgeSpec(), split="bench").model_dump(mode="json")
        job = JobLine(
            attempt=attempt,
            kind="judge",
            params=params,
            inputs=folder / "inputs",
            folder=folder / "out",
            device="cuda:0",
            threads=self.plan.threads,
            checkpoints=folder / "checkpoints",
        )
        self.slot.run(job, "base", PATIENCE_S, held, self.note)
        self.board.forget(attempt)
        self.board.release(0, self.slot.warm_base)

    def note(self, event: EventLine) -> None:
        """What the runner says."""
        self.position = max(self.position, event.position)

    def ask(self, before: int) -> int:
        """As `jsm worker yield` does."""
        yielding.ask(self.home, None)
        return before + SLACK_BYTES

    def start_other(self, _: int) -> int:
        """A program that is not ours, as what started it is gone; returns when it has its memory."""
        argv = [sys.executable, "-m", "benchmarks.gpu_release", "other"]
        starter = [sys.executable, "-c", f"import subprocess; subprocess.Popen({argv!r})"]
        self.other = subprocess.Popen(starter, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.other.stdout
        self.other.stdout.readline()
        return self.used() - HOLD_BYTES

    def end_other(self) -> None:
        """It ends when its standard input does."""
        other, self.other = self.other, None
        if other:
            other.communicate()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Raises SetupError when it takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.failure:
                raise self.failure
            if time.monotonic() > deadline:
                raise SetupError(
                    f"waited {PATIENCE_S:.0f} s for {what}: {self.used() / 2**30:.1f} GiB used", "See above"
                )
            time.sleep(LOOK_S)

    def cost(self) -> float:
        """The share of a core that watching takes."""
        began = time.process_time()
        for _ in range(LOOKS):
            self.watch.look()
        return (time.process_time() - began) / LOOKS / courtesy.POLL_S


if __name__ == "__main__":
    raise SystemExit(main())
