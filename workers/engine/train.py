"""Fine-tuning: one adapter, one set of examples, one loop."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from peft import PeftModel

from jsm_queue.errors import ModelError
from jsm_queue.spec import TrainingSpec
from workers.engine import checkpoint
from workers.engine.bases import Base
from workers.engine.batches import estimate_memory, passes
from workers.engine.lora import causal_model
from workers.engine.nll import answer_nll
from workers.engine.prompts import Encoded
from workers.work import Save, Work

CLIP = 1.0
"""Largest norm of a step's gradient."""


@dataclass(frozen=True)
class Step:
    """One line of the training log. `loss`: mean nats an answer token, before the step; `tokens`: without padding."""

    step: int
    loss: float
    lr: float
    tokens: int


class Fitted(NamedTuple):
    """What a training came to. `seconds` of the steps alone; `peak_bytes` of the device's memory."""

    steps: list[Step]
    seconds: float
    peak_bytes: int

    @property
    def tokens(self) -> int:
        """Real tokens that went through the model."""
        return sum(step.tokens for step in self.steps)

    def log(self) -> dict[str, list[dict[str, float]]]:
        """training_log.json."""
        return {"steps": [asdict(step) for step in self.steps]}


def fit(
    base: Base, model: PeftModel, examples: Sequence[Encoded], training: TrainingSpec, seed: int, work: Work
) -> Fitted:
    """Trains the adapter that `model` carries, from the start or from `work.resume`.

    A step takes `training.batch` examples; its loss is the mean over all answer tokens of its examples,
    whatever the passes they are computed in. AdamW without weight decay. The same seed and machine give the
    same adapter on a CPU, whatever was resumed. Raises ModelError when the loss is no longer a number.
    """
    order = schedule(len(examples), training.epochs, training.batch, seed)
    with _training_mode(base, model, recomputes(base, work.ooms)), torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout
        stepper = _Stepper(base, model, work.ooms)
        steps, spent = stepper.restore(work.resume)
        for batch in order[len(steps) :]:
            began = time.perf_counter()
            lr = training.lr * rate(len(steps), len(order), training.schedule, training.warmup)
            loss = stepper.step([examples[i] for i in batch], lr)
            steps.append(Step(len(steps) + 1, loss, lr, sum(len(examples[i].ids) for i in batch)))
            if not math.isfinite(loss):
                raise _no_number(loss, len(steps))
            spent += time.perf_counter() - began
            work.checkpoint(len(steps), partial(stepper.pack, steps, spent))
            speed = sum(step.tokens for step in steps) / spent
            work.progress(len(steps), len(order), {"loss": loss, "tokens_per_second": speed})
    return Fitted(steps, spent, stepper.peak_bytes)


def _no_number(loss: float, step: int) -> ModelError:
    if step == 1:  # nothing has been learned yet
        return ModelError(f"the loss is {loss} at the first step: the base's weights are no numbers that work")
    return ModelError(f"the loss is {loss} at step {step}", "Lower training.lr")


def schedule(n: int, epochs: int, batch: int, seed: int) -> list[list[int]]:
    """The examples' indices of each step: every epoch in an order of its own; an epoch's last step may be smaller."""
    steps: list[list[int]] = []
    for epoch in range(epochs):
        order = list(range(n))
        random.Random(f"{seed} {epoch}").shuffle(order)
        steps += [order[start : start + batch] for start in range(0, n, batch)]
    return steps


def rate(step: int, steps: int, shape: str, warmup: float) -> float:
    """The share of the peak learning rate at a step (from 0): a rising line, then the schedule's shape down to 0."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(steps - rising, 1)
    if shape == "constant":
        return 1.0
    return 1.0 - done if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def backward(base: Base, model: PeftModel, examples: Sequence[Encoded], groups: Sequence[Sequence[int]]) -> float:
    """Adds the gradient of the mean NLL over all answer tokens of `examples`, in passes of `groups`; returns that mean.

    Each pass adds its sum divided by the step's number of answer tokens, so the groups don't change the result.
    """
    answers = sum(each.answers for each in examples)
    total = 0.0
    for group in groups:
        loss = answer_nll(causal_model(model), [examples[i] for i in group], base.device).sum() / answers
        loss.backward()
        total += loss.item()
    return total


class _Stepper:
    """The optimizer with what it holds between two steps, and the most memory that a step took."""

    def __init__(self, base: Base, model: PeftModel, ooms: int) -> None:
        self.base, self.model = base, model
        self.named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.parameters = list(self.named.values())
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.0, fused=True)
        self.peak_bytes = 0
        self.memory = estimate_memory(base.model, base.device, True, recomputes(base, ooms), ooms)

    def step(self, examples: list[Encoded], lr: float) -> float:
        """Changes the adapter; returns the loss before."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = backward(self.base, self.model, examples, passes(examples, self.memory))
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.peak_bytes = max(self.peak_bytes, _used_memory(self.base.device))
        return loss

    def pack(self, steps: Sequence[Step], seconds: float) -> Save:
        """A checkpoint after those steps."""
        log = {"seconds": seconds, "steps": [asdict(step) for step in steps]}
        return checkpoint.pack(self.named, self.optimizer, self.base.device, log)

    def restore(self, resume: Path | None) -> tuple[list[Step], float]:
        """The steps that need not be done again, and the seconds that they took."""
        log = checkpoint.restore(resume, self.named, self.optimizer, self.base.device)
        return ([Step(**step) for step in log["steps"]], log["seconds"]) if log else ([], 0.0)


@contextmanager
def _training_mode(base: Base, model: PeftModel, recompute: bool) -> Iterator[None]:
    if base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(base.device)
    model.train()
    if recompute:
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        if recompute:
            base.model.gradient_checkpointing_disable()
        model.eval()


def recomputes(base: Base, ooms: int) -> bool:
    """Activations are recomputed backward where the base was quantized to fit a small card, and where passes of half
    the size ran out of memory as well.
    """
    return ooms >= 2 or (base.quantized and base.device.type == "cuda")


def _used_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU so far; what this process takes now on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss
