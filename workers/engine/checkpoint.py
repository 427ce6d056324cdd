"""A training between two steps, as one safetensors file: what the next step depends on, and the log so far.

adapter/<parameter>, optimizer/<what>/<parameter>: weights and AdamW's state. rng/cpu, rng/cuda: the generators that
dropout draws from. The metadata's `training` is JSON: the format, the seconds that the steps took, and the steps.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from workers.work import Save

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of the file. One of another format is not read."""

STATE = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter."""

Parameters = Mapping[str, torch.nn.Parameter]


def pack(parameters: Parameters, optimizer: torch.optim.Optimizer, device: torch.device, log: dict[str, Any]) -> Save:
    """The training as it is now. `log` is plain JSON."""
    tensors = {f"adapter/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})  # none where a parameter never had a gradient
        tensors |= {f"optimizer/{key}/{name}": state[key] for key in STATE if state}
    tensors["rng/cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["rng/cuda"] = torch.cuda.get_rng_state(device)
    metadata = {"training": json.dumps({"format": FORMAT} | log)}
    return saving(tensors, metadata)


def saving(tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> Save:
    """Of a checkpoint with these tensors as they are now. Writing them lets other threads go on meanwhile."""
    taken = {
        name: tensor.to("cpu", copy=True, memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }

    def save(path: Path) -> None:
        try:
            save_file(taken, path, metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from error

    return save


def restore(
    path: Path | None, parameters: Parameters, optimizer: torch.optim.Optimizer, device: torch.device
) -> dict[str, Any] | None:
    """Set weights, optimizer and random numbers as they were. Returns the log.

    None, with nothing changed, where there is no checkpoint or it cannot be used: the training begins at the start.
    """
    if path is None:
        return None
    try:
        log, tensors = _read(path)
        _require_fit(tensors, parameters)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        logger.warning("begins at the start: the checkpoint cannot be used: %s", error)
        path.unlink(missing_ok=True)
        return None
    _set_state(tensors, parameters, optimizer)
    torch.set_rng_state(tensors["rng/cpu"])
    if device.type == "cuda" and "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"], device)
    return log


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        log = json.loads(file.metadata()["training"])
        if log["format"] != FORMAT:
            raise ValueError(f"it has format {log['format']}, this worker reads {FORMAT}")
        return log, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (no mapping)


def _require_fit(tensors: Mapping[str, torch.Tensor], parameters: Parameters) -> None:
    shapes = {"rng/cpu": torch.get_rng_state().shape}
    for name, parameter in parameters.items():
        shapes[f"adapter/{name}"] = parameter.shape
        if f"optimizer/step/{name}" in tensors:
            moments = dict.fromkeys((f"optimizer/exp_avg/{name}", f"optimizer/exp_avg_sq/{name}"), parameter.shape)
            shapes |= moments | {f"optimizer/step/{name}": torch.Size()}
    found = {name: tensor.shape for name, tensor in tensors.items() if name != "rng/cuda"}
    if found != shapes:
        differ = sorted(name for name in found.keys() | shapes.keys() if found.get(name) != shapes.get(name))
        raise ValueError(f"{len(differ)} tensors do not fit, such as {differ[0]}")


@torch.no_grad()
def _set_state(tensors: Mapping[str, torch.Tensor], parameters: Parameters, optimizer: torch.optim.Optimizer) -> None:
    places = {id(parameter): name for name, parameter in parameters.items()}
    ordered = [places[id(each)] for group in optimizer.param_groups for each in group["params"]]
    for name, parameter in parameters.items():
        parameter.copy_(tensors[f"adapter/{name}"])
    state = {
        i: {key: tensors[f"optimizer/{key}/{name}"] for key in STATE}
        for i, name in enumerate(ordered)
        if f"optimizer/step/{name}" in tensors
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
