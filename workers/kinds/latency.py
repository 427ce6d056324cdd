"""Timings of all GGUFs of a stage, interleaved on one machine: whatever slows it down slows all of them."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
import torch

from jsm_queue.data.examples import Example, read_examples
from jsm_queue.kinds import ROLE_FILES, LatencyParams
from jsm_queue.protocol import RecordIn
from workers.gguf.llama import Generation, Gguf, open_gguf, place
from workers.gguf.prompts import prompt_ids
from workers.work import Device, Outcome, Work

logger = logging.getLogger(__name__)

HEADROOM = 1.25
"""A loaded file needs this many times its size: KV cache, compute buffers, repacked weights."""


@dataclass(frozen=True)
class Turn:
    """One timed answer: which cell answers which question for the how many-th time."""

    cell: int
    question: int
    repeat: int


class Opener(Protocol):
    """Gives a cell's loaded GGUF."""

    def __call__(self, cell: int) -> AbstractContextManager[Gguf]: ...


def turns(cells: list[int], questions: int, repeats: int) -> list[Turn]:
    """Question by question all cells in turn; who comes first moves on by one each time."""
    rounds = [(repeat, question) for repeat in range(repeats) for question in range(questions)]
    return [
        Turn(cells[(index + shift) % len(cells)], question, repeat)
        for shift, (repeat, question) in enumerate(rounds)
        for index in range(len(cells))
    ]


def run(work: Work) -> Outcome:
    """Three records a turn, whose meta says what was timed and on what.

    A cell whose file alone does not fit into memory is left out and named in the log.
    """
    params: LatencyParams = work.params
    questions = read_examples(work.inputs / "dataset" / ROLE_FILES["bench"])[: params.questions]
    paths = [work.inputs / f"gguf.{index}" / ROLE_FILES["gguf"] for index in range(len(params.cells))]
    cells = _fitting(paths, params.cells, _free_bytes(work.device))
    plan = turns(cells, len(questions), params.repeats) if cells else []
    records: list[RecordIn] = []
    with _opener(paths, cells, work.device, params.decoding.context) as opened:
        for done, turn in enumerate(plan, 1):
            with opened(turn.cell) as gguf:
                records += _timed(gguf, turn, questions[turn.question], work)
            work.progress(done, len(plan), {})
    return Outcome(records, {"questions": len(questions)})


def _timed(gguf: Gguf, turn: Turn, question: Example, work: Work) -> list[RecordIn]:
    params: LatencyParams = work.params
    ids = prompt_ids(gguf, question, params.system_prompt)
    made = gguf.generate(ids, params.decoding.max_new_tokens)
    item = f"{turn.cell}|{turn.question}|{turn.repeat}"  # labels and ids may be long, or hold any sign
    timed = {"cell": params.cells[turn.cell], "question": question.id, "repeat": turn.repeat}
    meta = timed | {"device": place(work.device), "threads": work.device.threads}
    values = {"seconds": made.seconds, "ttft": made.ttft, "tokens_per_second": _rate(made)}
    return [RecordIn(item=item, name=name, value=value, meta=meta) for name, value in values.items()]


def _rate(made: Generation) -> float:
    """Tokens a second after the first one: prompt processing is the time to the first token."""
    spent = made.seconds - made.ttft
    return (len(made.ids) - 1) / spent if len(made.ids) > 1 and spent > 0 else 0.0


def _fitting(paths: list[Path], labels: list[str], free: int) -> list[int]:
    fits = [index for index, path in enumerate(paths) if path.stat().st_size * HEADROOM <= free]
    for index in sorted(set(range(len(paths))) - set(fits)):
        logger.warning(
            "%s is not timed: its file does not fit into the %.1f GB that are free", labels[index], free / 1e9
        )
    return fits


def _free_bytes(device: Device) -> int:
    if place(device) == "cuda":
        return torch.cuda.mem_get_info(device.name)[0]
    return psutil.virtual_memory().available


@contextmanager
def _opener(paths: list[Path], cells: list[int], device: Device, context: int) -> Iterator[Opener]:
    """Loads all cells at once, or each for its turn where they do not fit together. Every load is warmed up."""
    together = sum(paths[cell].stat().st_size for cell in cells) * HEADROOM <= _free_bytes(device)
    with ExitStack() as stack:
        if together:
            loaded = {cell: stack.enter_context(_warm(paths[cell], device, context)) for cell in cells}
            yield lambda cell: nullcontext(loaded[cell])
        else:
            yield lambda cell: _warm(paths[cell], device, context)


@contextmanager
def _warm(path: Path, device: Device, context: int) -> Iterator[Gguf]:
    with open_gguf(path, device, context) as gguf:
        gguf.generate(gguf.tokenize("1 2 3"), 4)
        yield gguf
