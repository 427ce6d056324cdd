"""The pretraining loop: AdamW, cosine schedule, bfloat16 autocast on a GPU."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from examples.river.pretrain.rows import PADDING, Plan, Rows

WARMUP_STEPS = 100
LOG_EVERY = 50


@dataclass(frozen=True)
class Outcome:
    """tokens: real ones, without padding. losses: nats per token over the last LOG_EVERY steps, short and long rows."""

    steps: int
    tokens: int
    seconds: float
    short_loss: float
    long_loss: float


def pretrain(model: PreTrainedModel, rows: Iterator[Rows], plan: Plan, peak_rate: float, device: str) -> Outcome:
    """Train in place and return what it took. The model stays on `device` in float32."""
    torch.nn.Module.to(model, device)  # the override in transformers has no usable type
    model.train()
    optimizer = torch.optim.AdamW(_groups(model), lr=peak_rate, betas=(0.9, 0.95), fused=device == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan.steps))
    started, tokens, recent = time.perf_counter(), 0, torch.zeros(2, device=device)
    losses = [float("nan"), float("nan")]
    for step, batch in enumerate(rows, start=1):
        tokens += sum(int((part != PADDING).sum()) for part in batch)
        recent += _step(model, batch, optimizer, device)
        schedule.step()
        if step % LOG_EVERY == 0 or step == plan.steps:
            losses = (recent / ((step - 1) % LOG_EVERY + 1)).tolist()
            recent.zero_()
            rate = tokens / (time.perf_counter() - started)
            print(
                f"step {step}/{plan.steps}  short {losses[0]:.3f}  long {losses[1]:.3f}  {rate:,.0f} tokens/s",
                flush=True,
            )
    return Outcome(plan.steps, tokens, time.perf_counter() - started, *losses)


def _groups(model: PreTrainedModel) -> list[dict]:
    """Weight decay for matrices alone: norms and biases go without."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]


def _rate(step: int, steps: int) -> float:
    """Share of the peak rate: linear warm-up, then half a cosine to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)))


def _step(model: PreTrainedModel, batch: Rows, optimizer: torch.optim.Optimizer, device: str) -> Tensor:
    """One update. Returns the mean losses of the short and the long rows, (2,)."""
    parts = [torch.from_numpy(part).to(device, torch.long) for part in batch]  # (rows, length) each
    total = sum((part[:, 1:] != PADDING).sum() for part in parts)
    means = []
    for part in parts:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            summed = summed_loss(model, part)
            (summed / total).backward()
        means.append(summed.detach() / (part[:, 1:] != PADDING).sum())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return torch.stack(means)


def summed_loss(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over all real tokens but the first. The causal mask hides what pads them."""
    logits = model(input_ids=ids.clamp(min=0), use_cache=False).logits[:, :-1]  # (rows, length - 1, V)
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), ids[:, 1:].flatten(), ignore_index=PADDING, reduction="sum"
    )
