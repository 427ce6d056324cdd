"""`make bench-checkpoints`: what checkpoints cost a training, and what comes of going on from one.

A real slot and runner train an adapter of rank 16, with dropout, on NF4 weights of Llama-3-8B's shape (without a GPU,
on the demo's base): from a checkpoint that was made half-way; with checkpoints, each hashed and sent on as the agent
does; and on a GPU in so little memory that it does not fit at first.

What checkpoints cost is measured within one training whose steps are all the same work: what the steps take longer
during which one is taken, written, hashed or sent. They are made more often there than else; the cost of one is then
spread over the time that passes between two.
"""

import contextlib
import itertools
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.form import Row, report
from benchmarks.nf4 import DEVICE, RIVER, TEMPLATE, random_examples, save_random_llama
from jsm_queue.canonical import file_hash
from jsm_queue.data.examples import Example, write_examples
from jsm_queue.kinds import ROLE_FILES, BaseRef, TrainParams
from jsm_queue.spec import TrainingSpec
from workers import safepoints, slots
from workers.board import Board
from workers.hardware import SlotPlan, list_gpus
from workers.lines import EventLine, JobLine
from workers.slots import Slot

ON_GPU = DEVICE.name != "cpu"
STEPS = 12  # of the training that is gone on with after half of them
LONG_STEPS = 80 if ON_GPU else 400  # of the training with checkpoints
OFTEN = 0.1  # of its time may go into writing them
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
    whole = bench.train("whole", STEPS, share=math.inf)
    again = bench.train("again", STEPS)
    resumed = bench.train("resumed", STEPS, resume=whole)
    if min(resumed.course.said) <= whole.position:
        raise RuntimeError("it did not go on from the checkpoint")
    noise = difference(whole.losses, again.losses)
    gone_on = difference(whole.losses, resumed.losses)
    yield Row("losses after resuming, largest difference", gone_on, "relative", 2 * noise, "a rerun", noise)
    apart, other = whole.apart(resumed), whole.apart(again)
    yield Row("adapter after resuming, difference", apart, "relative", 2 * other, "a rerun", other)
    yield from cost(bench.train("often", LONG_STEPS, share=OFTEN).course, bench.size)
    if ON_GPU:
        yield from short_of_memory(bench, whole.losses, noise)


def cost(course: "Course", size: int) -> Iterator[Row]:
    """What checkpoints of so many bytes take of a training's time."""
    for each in course.kept:
        ago = [moment - each.taken for moment in (each.written, each.sent)]
        print(f"checkpoint at {each.position}: written after {ago[0]:.2f} s, sent after {ago[1]:.2f} s")
    print("seconds a step:", *(f"{span.pace:.3f}" for span in course.spans()))
    usual, longer = course.usual(), course.longer() / len(course.kept)
    written = statistics.mean(each.written - each.taken for each in course.kept)
    between = written + safepoints.pause_after(written)
    step = usual * (1 + longer / between)
    yield Row("step with checkpoints", step, "s", bound=1.02 * usual, reference="without", reference_value=usual)
    yield Row("what a checkpoint takes of the training", longer, "s")
    yield Row("until it is written", written, "s")
    yield Row("between two checkpoints", between, "s")
    yield Row("a checkpoint", size / 1e6, "MB")


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
    from workers import runner

    if share := os.environ.get("BENCH_SHARE"):
        safepoints.SHARE = float(share)
        safepoints.CHECKPOINT_S *= math.isfinite(safepoints.SHARE)
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


class Kept(NamedTuple):
    """When a checkpoint was taken, and was on the disk; when it was sent, inf where it is still to be."""

    position: int
    taken: float
    written: float
    sent: float = math.inf


class Span(NamedTuple):
    """From one progress to the next: so many steps, in so many seconds."""

    steps: int
    began: float
    ended: float

    @property
    def pace(self) -> float:
        """Seconds a step."""
        return (self.ended - self.began) / self.steps


@dataclass
class Course:
    """When each step's end was told, and what became of its checkpoints."""

    said: dict[int, float] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)

    def spans(self) -> list[Span]:
        """In their order."""
        return [Span(b - a, self.said[a], self.said[b]) for a, b in itertools.pairwise(sorted(self.said))]

    def usual(self) -> float:
        """Seconds of a step beside which nothing is done for a checkpoint: the median."""
        return statistics.median(span.pace for span in self.spans() if not self._touches(span))

    def longer(self) -> float:
        """Seconds that the other steps take more than usual, all together."""
        usual = self.usual()
        return sum((span.pace - usual) * span.steps for span in self.spans() if self._touches(span))

    def _touches(self, span: Span) -> bool:
        return any(span.began < each.sent and each.taken < span.ended for each in self.kept)


@dataclass
class Trained:
    """What one attempt came to. `fits`: it did not run out of memory. `half`: the first checkpoint after half of it,
    made at `position`.
    """

    folder: Path
    fits: bool = True
    half: Path | None = None
    position: int = 0
    course: Course = field(default_factory=Course)

    @property
    def losses(self) -> list[float]:
        """Of each step."""
        log = json.loads((self.folder / ROLE_FILES["training_log"]).read_text(encoding="utf-8"))
        return [step["loss"] for step in log["steps"]]

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
        share: float | None = None,
        resume: Trained | None = None,
        ooms: int = 0,
    ) -> Trained:
        """One attempt, as the agent runs it. `share`: of its time that checkpoints may take; None: there are none. Inf:
        each step makes one; else each is sent on, and all steps train on the same examples.

        Raises RuntimeError where it ends otherwise than with a result or oom.
        """
        attempt, folder = f"a{next(self._numbers):07x}", self.folder / name
        (folder / "out").mkdir(parents=True)
        if share:
            os.environ["BENCH_SHARE"] = str(share)
            self.slot.kill()
        same = share not in (None, math.inf)
        epochs = steps if same else 1
        training = TrainingSpec(alpha=16, dropout=0.1, epochs=epochs, batch=BATCH, quantized=ON_GPU)
        n = BATCH if same else BATCH * steps
        params = TrainParams(base=self.ref, n=n, seed=1, training=training, system_prompt=None)
        job = JobLine(
            attempt=attempt,
            kind="train",
            params=params.model_dump(mode="json"),
            inputs=self.inputs,
            folder=folder / "out",
            device=DEVICE.name,
            threads=DEVICE.threads,
            checkpoints=folder / "checkpoints" if share else None,
            resume=resume.half if resume else None,
            position=resume.position if resume else 0,
            ooms=ooms,
        )
        trained = Trained(folder / "out")
        self._run(job, trained, Sender(folder, trained.course) if same else None, steps)
        print(f"{name}: {'done' if trained.fits else 'out of memory'}", flush=True)
        if share:
            del os.environ["BENCH_SHARE"]
            self.slot.kill()
        return trained

    def _run(self, job: JobLine, trained: Trained, sender: "Sender | None", steps: int) -> None:
        def note(event: EventLine) -> None:
            if event.event == "progress":
                trained.course.said.setdefault(event.position, time.monotonic())
            elif event.event == "checkpoint" and event.path:
                self.size = event.size
                if trained.half is None and event.position >= steps // 2:
                    trained.half = event.path.with_name("half")
                    trained.position = event.position
                    os.link(event.path, trained.half)
                if sender:
                    sender.offer(event.path, event.position)

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
    """Hashes checkpoints and sends them to a listener on this machine, as the agent does with some of them."""

    def __init__(self, folder: Path, course: Course) -> None:
        self._folder, self._course = folder, course
        self._sending = ThreadPoolExecutor(1)

    def offer(self, path: Path, position: int) -> None:
        """Send it when the last one is sent."""
        held = self._folder / f"{position}.sending"  # the runner keeps two
        os.link(path, held)
        said = self._course.said
        taken = said[max(each for each in said if each <= position)]
        self._course.kept.append(Kept(position, taken, time.monotonic()))
        self._sending.submit(self._send, held, len(self._course.kept) - 1)

    def end(self) -> None:
        """Wait for what is under way."""
        self._sending.shutdown()

    def _send(self, held: Path, place: int) -> None:
        file_hash(held)
        near, far = socket.socketpair()
        reader = threading.Thread(target=_drain, args=(far,))
        reader.start()
        with near, held.open("rb") as file:
            near.sendfile(file)
        reader.join()
        held.unlink()
        self._course.kept[place] = self._course.kept[place]._replace(sent=time.monotonic())


def _drain(end: socket.socket) -> None:
    with end:
        while end.recv(2**20):
            pass


def difference(one: list[float], other: list[float]) -> float:
    """The largest of two lists, relative to the first."""
    return max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
