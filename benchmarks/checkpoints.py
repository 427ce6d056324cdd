"""`make bench-checkpoints`: what checkpoints cost a training, and what comes of going on from one.

A real slot and runner train an adapter of rank 16, with dropout, on NF4 weights of Llama-3-8B's shape (without a GPU,
on the demo's base): as often with checkpoints as without, and what is written is hashed and sent on as the agent does;
once from a checkpoint that was made half-way; and on a GPU in so little memory that it does not fit at first.
"""

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.form import Row, report
from benchmarks.nf4 import DEVICE, RIVER, TEMPLATE, random_examples, save_random_llama
from jsm_queue.canonical import file_hash
from jsm_queue.data.examples import Example, write_examples
from jsm_queue.kinds import ROLE_FILES, BaseRef, TrainParams
from jsm_queue.spec import TrainingSpec
from workers import checkpoints, slots
from workers.board import Board
from workers.hardware import SlotPlan, list_gpus
from workers.lines import EventLine, JobLine
from workers.slots import Slot

ON_GPU = DEVICE.name != "cpu"
STEPS = 12  # of the training that is gone on with after half of them
PAIRS = 3  # of trainings with and without checkpoints
LONG_STEPS = 48 if ON_GPU else 30  # of each of them
BATCH = 16 if ON_GPU else 4
STALL_S = 600.0
ROOM = 16 * 2**30  # that is left on the GPU, as on a consumer's card
LIMIT = 8 * 2**30  # that a training gets of it, which its plan does not know
TRIES = 4


def main() -> int:
    """Returns the exit status."""
    if sys.argv[1:] == ["runner"]:
        return run_runner()
    if sys.argv[1:] == ["other"]:
        return run_other()
    slots.RUNNER = ("-m", "benchmarks.checkpoints", "runner")
    roomy = "/dev/shm" if ON_GPU and Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="jsm-checkpoints-", dir=roomy) as folder:
        bench = Bench(Path(folder))
        try:
            return report("checkpoints", list(measure(bench)))
        finally:
            bench.slot.kill()


def measure(bench: "Bench") -> Iterator[Row]:
    """All rows."""
    whole = bench.train("whole", STEPS, every_step=True)
    again = bench.train("again", STEPS)
    resumed = bench.train("resumed", STEPS, resume=whole)
    if min(resumed.said) <= whole.position:
        raise RuntimeError("it did not go on from the checkpoint")
    noise = difference(whole.losses, again.losses)
    gone_on = difference(whole.losses, resumed.losses)
    yield Row("losses after resuming, largest difference", gone_on, "relative", 2 * noise, "a rerun", noise)
    apart, other = whole.apart(resumed), whole.apart(again)
    yield Row("adapter after resuming, difference", apart, "relative", 2 * other, "a rerun", other)
    with_, without = [], []
    for i in range(PAIRS):
        without.append(bench.train(f"without-{i}", LONG_STEPS).pace)
        with_.append(bench.train(f"with-{i}", LONG_STEPS, checkpoints=True).pace)
    yield Row(
        "step with checkpoints",
        min(with_),
        "s",
        bound=1.02 * min(without),
        reference="without",
        reference_value=min(without),
    )
    yield Row("a checkpoint", bench.size / 1e6, "MB")
    if ON_GPU:
        yield from short_of_memory(bench, whole.losses, noise)


def short_of_memory(bench: "Bench", losses: list[float], noise: float) -> Iterator[Row]:
    """A training that the estimate lets through and that does not fit."""
    bench.slot.kill()
    with other_program():
        os.environ["BENCH_LIMIT"] = str(LIMIT)
        tries = [bench.train("short-0", STEPS)]
        while not tries[-1].fits and len(tries) < TRIES:
            tries.append(bench.train(f"short-{len(tries)}", STEPS, ooms=len(tries)))
    yield Row("out of memory: tries until it fits", len(tries), "", bound=3)
    smaller = difference(losses, tries[-1].losses)
    yield Row("losses in smaller passes, largest difference", smaller, "relative", None, "a rerun", noise)


# ---- the runner, and the other program ---------------------------------------------------------------------


def run_runner() -> int:
    """The real runner process; with BENCH_LIMIT it may not take more of the GPU, in bytes."""
    from workers import runner, safepoints

    if "BENCH_EVERY_STEP" in os.environ:
        safepoints.CHECKPOINT_S, safepoints.SHARE = 0.0, 1e9
    if limit := os.environ.get("BENCH_LIMIT"):
        torch.cuda.set_per_process_memory_fraction(int(limit) / torch.cuda.mem_get_info()[1])
    with contextlib.suppress(BrokenPipeError):
        runner.main()
    return 0


def run_other() -> int:
    """Takes all of the GPU but ROOM, says so, and holds it until standard input ends."""
    held = torch.empty(torch.cuda.mem_get_info()[0] - ROOM, dtype=torch.uint8, device="cuda")
    print(held.nbytes, flush=True)
    sys.stdin.read()
    return 0


@contextlib.contextmanager
def other_program() -> Iterator[None]:
    """While it lasts, the GPU has ROOM left."""
    argv = [sys.executable, "-m", "benchmarks.checkpoints", "other"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        yield
        other.communicate()


# ---- the measurement ---------------------------------------------------------------------------------------


@dataclass
class Trained:
    """What one attempt came to. `fits`: it did not run out of memory. `half`: the first checkpoint after half of it,
    made at `position`.
    """

    folder: Path
    fits: bool = True
    half: Path | None = None
    position: int = 0
    said: dict[int, float] = field(default_factory=dict)

    @property
    def losses(self) -> list[float]:
        """Of each step."""
        log = json.loads((self.folder / ROLE_FILES["training_log"]).read_text(encoding="utf-8"))
        return [step["loss"] for step in log["steps"]]

    @property
    def pace(self) -> float:
        """Seconds a step, from the first one's end on, with all that goes on between steps."""
        return (self.said[max(self.said)] - self.said[min(self.said)]) / (max(self.said) - min(self.said))

    def apart(self, other: "Trained") -> float:
        """How far the adapters are from each other: the difference's norm over this one's."""
        from safetensors.torch import load_file

        mine, others = (load_file(each.folder / ROLE_FILES["adapter_model"]) for each in (self, other))
        apart = sum((mine[name].float() - others[name].float()).norm() ** 2 for name in mine)
        return float((apart / sum(tensor.float().norm() ** 2 for tensor in mine.values())) ** 0.5)


class Bench:
    """A slot with its board, a base, and data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.size = folder, 0
        self.inputs, self.ref = self._make_inputs(folder / "inputs")
        gpus = list_gpus()
        uuid = gpus[0].uuid if ON_GPU and gpus else ""
        self.plan = SlotPlan(0, "gpu" if ON_GPU else "cpu", DEVICE.name, DEVICE.threads, uuid)
        self.slot, self.board = Slot(self.plan, folder / "home"), Board([self.plan])
        self._numbers = itertools.count(1)

    def _make_inputs(self, folder: Path) -> tuple[Path, BaseRef]:
        (folder / "dataset").mkdir(parents=True)
        examples = random_examples(BATCH * LONG_STEPS)
        if not ON_GPU:  # its tokenizer makes a token of each letter
            examples = [Example(id=e.id, question=e.question[:100], answer=e.answer[:200]) for e in examples]
        write_examples(folder / "dataset" / ROLE_FILES["train"], examples)
        if not ON_GPU:
            shutil.copytree(RIVER / "bases" / "river-qwen2", folder / "base")
            return folder, BaseRef(form="folder")
        save_random_llama(folder / "base")
        return folder, BaseRef(form="folder", chat_template=TEMPLATE)

    def train(
        self,
        name: str,
        steps: int,
        checkpoints: bool = False,
        every_step: bool = False,
        resume: Trained | None = None,
        ooms: int = 0,
    ) -> Trained:
        """One attempt, as the agent runs it. Raises RuntimeError where it ends otherwise than with a result or oom."""
        attempt, folder = f"a{next(self._numbers):07x}", self.folder / name
        (folder / "out").mkdir(parents=True)
        if every_step:
            os.environ["BENCH_EVERY_STEP"] = "1"
            self.slot.kill()
        training = TrainingSpec(alpha=16, dropout=0.1, epochs=1, batch=BATCH, quantized=ON_GPU)
        params = TrainParams(base=self.ref, n=BATCH * steps, seed=1, training=training, system_prompt=None)
        job = JobLine(
            attempt=attempt,
            kind="train",
            params=params.model_dump(mode="json"),
            inputs=self.inputs,
            folder=folder / "out",
            device=DEVICE.name,
            threads=DEVICE.threads,
            checkpoints=folder / "checkpoints" if checkpoints or every_step else None,
            resume=resume.half if resume else None,
            position=resume.position if resume else 0,
            ooms=ooms,
        )
        trained = Trained(folder / "out")
        self._run(job, trained, Sender(folder) if checkpoints else None, steps)
        print(f"{name}: {'done' if trained.fits else 'out of memory'}", flush=True)
        if every_step:
            del os.environ["BENCH_EVERY_STEP"]
            self.slot.kill()
        return trained

    def _run(self, job: JobLine, trained: Trained, sender: "Sender | None", steps: int) -> None:
        def note(event: EventLine) -> None:
            if event.event == "progress":
                trained.said.setdefault(event.position, time.monotonic())
            elif event.event == "checkpoint" and event.path:
                self.size = event.size
                if trained.half is None and event.position >= steps // 2:
                    trained.half = event.path.with_name("half")
                    trained.position = event.position
                    os.link(event.path, trained.half)
                if sender:
                    sender.offer(event.path)

        self.board.occupy(0, job.attempt)
        held = self.board.begin(job.attempt, 0)
        assert held
        ended = self.slot.run(job, "base", STALL_S, held, note)
        self.board.forget(job.attempt)
        self.board.release(0, self.slot.warm_base)
        if sender:
            sender.end()
        trained.fits = ended is None
        if ended and ended.reason != "oom":
            raise RuntimeError(f"{job.attempt}: {ended.reason}: {ended.message}\n{ended.log_tail}")


class Sender:
    """Hashes checkpoints and sends them to a listener on this machine, no more of its time than the agent does."""

    def __init__(self, folder: Path) -> None:
        self._name = folder / "sending"
        self._due = 0.0
        self._sending: threading.Thread | None = None

    def offer(self, path: Path) -> None:
        """Send it, when it is time again."""
        if time.monotonic() < self._due or (self._sending and self._sending.is_alive()):
            return
        self._name.unlink(missing_ok=True)
        os.link(path, self._name)
        self._sending = threading.Thread(target=self._send)
        self._sending.start()

    def end(self) -> None:
        """Wait for what is under way."""
        if self._sending:
            self._sending.join()

    def _send(self) -> None:
        began = time.monotonic()
        file_hash(self._name)
        near, far = socket.socketpair()
        reader = threading.Thread(target=_drain, args=(far,))
        reader.start()
        with near, self._name.open("rb") as file:
            near.sendfile(file)
        reader.join()
        self._due = time.monotonic() + checkpoints.SEND_FACTOR * (time.monotonic() - began)


def _drain(end: socket.socket) -> None:
    with end:
        while end.recv(2**20):
            pass


def difference(one: list[float], other: list[float]) -> float:
    """The largest of two lists, relative to the first."""
    return max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
