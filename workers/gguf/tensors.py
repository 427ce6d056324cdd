"""Weights on their way from safetensors to GGUF: one tensor at a time, the LoRA adapter merged as they pass."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from jsm_queue.errors import ModelDamagedError, ModelUnsupportedError
from jsm_queue.kinds import ROLE_FILES
from jsm_queue.modelfiles.folder import read_json, weight_files
from workers.engine.folders import as_model_error, tensor_types

ROWS = 4096
"""Rows merged at once: bounds the working memory to a few hundred MB for the widest 8B projections."""

NOT_PLAIN = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias")
"""Keys of adapter_config.json that change what the matrices mean."""

ADAPTER_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Weights:
    """The tensors of a model folder: which open safetensors file holds each."""

    shards: dict[str, Any]

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, read from the file's header."""
        return tuple(self.shards[name].get_slice(name).get_shape())

    def load(self, name: str) -> torch.Tensor:
        """The tensor in the file's own dtype."""
        return self.shards[name].get_tensor(name)


@contextmanager
def open_weights(folder: Path) -> Iterator[Weights]:
    """Opens a checked folder's safetensors files; nothing is read before it is asked for. Raises ModelError."""
    with ExitStack() as stack:
        shards: dict[str, Any] = {}
        for path in weight_files(folder):
            with as_model_error(f"{path.name} cannot be read"):
                shard = stack.enter_context(safe_open(path, framework="pt"))
            shards.update(dict.fromkeys(shard.keys(), shard))
        yield Weights(shards)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in memory. `pairs`: weight name → (A (r, in), B (out, r)); `scale`: alpha / r."""

    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float


NO_ADAPTER = Adapter({}, 0.0)


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a PEFT folder. Raises ModelError for anything but plain LoRA on linear layers."""
    config = read_json(folder / ROLE_FILES["adapter_config"])
    extras = [key for key in NOT_PLAIN if config.get(key)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or extras:
        raise ModelUnsupportedError(
            f"the adapter is not plain LoRA ({', '.join(extras) or 'type or bias'})", "Train it without these"
        )
    scale = _scale(config)
    tensor_types(folder / ROLE_FILES["adapter_model"])
    with safe_open(folder / ROLE_FILES["adapter_model"], framework="pt") as file:
        tensors = {name.removeprefix(ADAPTER_PREFIX): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    modules = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    pairs = {}
    for module in sorted(modules):
        pair = [tensors.pop(f"{module}.lora_{side}.weight", None) for side in "AB"]
        if pair[0] is None or pair[1] is None:
            raise ModelDamagedError(f"the adapter holds one matrix alone of {module}")
        pairs[f"{module}.weight"] = (pair[0], pair[1])
    if tensors:
        raise ModelUnsupportedError(
            f"the adapter holds {min(tensors)}, which is no LoRA matrix", "Train it on linear layers only"
        )
    return Adapter(pairs, scale)


def _scale(config: dict[str, Any]) -> float:
    r, alpha = config.get("r"), config.get("lora_alpha")
    if type(r) is not int or r < 1 or not isinstance(alpha, int | float):
        raise ModelDamagedError(
            f"adapter_config.json: r is {r!r} and lora_alpha {alpha!r}", "Give a LoRA adapter of PEFT"
        )
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r)


def f16(weight: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor] | None, scale: float) -> np.ndarray:
    """W + scale·B·A, rounded once to float16, with the weight's own shape.

    The product is accumulated in float64, so that its last float32 bit, and with it the file's hash, does not depend on
    the machine's matrix library.
    """
    out = torch.empty(weight.shape, dtype=torch.float16)
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        block = weight[rows].float()
        if pair is not None:
            a, b = pair  # (r, in), (out, r)
            block = block + (scale * (b[rows].double() @ a.double())).float()
        out[rows] = block.half()
    return out.numpy()


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Reorders each head's rows from halves (i, i + d/2) to neighbours (2i, 2i+1). Shape (heads · d, …) stays."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))
