"""LoRA adapters on a base: made, trained ones put on, taken off again, saved as a PEFT folder."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save
from torch.nn import functional
from transformers import PreTrainedModel

from jsm_queue.errors import ModelError, SpecError
from jsm_queue.files import write_whole
from jsm_queue.kinds import ROLE_FILES, BaseRef
from jsm_queue.spec import TrainingSpec
from workers.engine.bases import Base
from workers.engine.folders import tensor_types

ADAPTER = "default"
"""PEFT's name for a model's only adapter."""

TARGETS_FIX = "Name linear layers of the base (q_proj, down_proj, …), or all-linear"


@contextmanager
def fresh(base: Base, training: TrainingSpec, seed: int) -> Iterator[PeftModel]:
    """The base with a new adapter (float32, drawn with `seed`; B is 0), taken off again at the end.

    Raises SpecError when the base has no layers of the names in `training.targets`, or when one of them cannot carry
    an adapter that the GGUF would hold.
    """
    if not isinstance(training.targets, str):
        _require_linear(base.model, training.targets)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=training.r,
        lora_alpha=training.alpha,  # pyright: ignore[reportArgumentType]  (PEFT divides it by r: any number will do)
        lora_dropout=training.dropout,
        target_modules=training.targets,
    )
    with _wrapped(base, config, seed) as model:
        yield model


@contextmanager
def trained(base: Base, folder: Path | None) -> Iterator[PreTrainedModel]:
    """The base with a saved adapter, or as it is when there is none; the adapter is taken off again at the end.

    Raises ModelError when the adapter's files are missing, cut off, or belong to another base.
    """
    if folder is None:
        yield base.model
        return
    config, weights = _read(folder)
    with _wrapped(base, config, 0) as model:
        expected = {name: value.shape for name, value in get_peft_model_state_dict(model).items()}
        if expected != {name: value.shape for name, value in weights.items()}:
            raise ModelError("the adapter's weights do not fit this base", "Use the base that it was trained on")
        set_peft_model_state_dict(model, weights)
        yield causal_model(model).eval()


def causal_model(model: PeftModel) -> PreTrainedModel:
    """The transformers model inside, whose linear layers carry the adapter."""
    inner: Any = model.get_base_model()
    return inner


def save_adapter(model: PeftModel, ref: BaseRef, folder: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors: equal bytes for equal weights and settings.

    The base's name is its hub repository or "": a path would be this machine's.
    """
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    content = save({name: value.contiguous().cpu() for name, value in tensors.items()}, {"format": "pt"})
    write_whole(folder / ROLE_FILES["adapter_model"], content)
    settings: dict[str, Any] = model.peft_config[ADAPTER].to_dict()
    settings |= {"base_model_name_or_path": ref.repo or "", "revision": ref.revision, "inference_mode": True}
    text = json.dumps(settings, ensure_ascii=False, indent=2, sort_keys=True, default=sorted)
    write_whole(folder / ROLE_FILES["adapter_config"], f"{text}\n".encode())


def _require_linear(model: PreTrainedModel, targets: list[str]) -> None:
    """Refuses what PEFT would adapt and `_forward` or the export would not."""
    embeddings = model.get_input_embeddings()
    for name, module in model.named_modules():
        if not any(f".{name}".endswith(f".{target}") for target in targets):
            continue
        if not isinstance(module, torch.nn.Linear):
            raise SpecError(f"training.targets: {name} is not a linear layer", TARGETS_FIX)
        if module.weight is embeddings.weight:
            raise SpecError(f"training.targets: {name} shares its weights with the embeddings", TARGETS_FIX)


@contextmanager
def _wrapped(base: Base, config: LoraConfig, seed: int) -> Iterator[PeftModel]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = get_peft_model(base.model, config)
        except ValueError as error:
            raise SpecError(f"training.targets: {error}", TARGETS_FIX) from error
    assert isinstance(model, PeftModel)
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and not layer.lora_variant:
            layer.forward = partial(_forward, layer)
    try:
        yield model
    finally:
        model.unload()


def _forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A linear layer with its adapter: the same sum as PEFT's own, scaled where it is small (on B), and added
    within the product, which saves three passes over the output.
    """
    y = layer.get_base_layer()(x)  # (…, out)
    rows = layer.lora_dropout[ADAPTER](x).flatten(0, -2)  # (N, in)
    h = functional.linear(rows, layer.lora_A[ADAPTER].weight.to(x.dtype))  # (N, r)
    b = (layer.lora_B[ADAPTER].weight * layer.scaling[ADAPTER]).to(x.dtype)  # (out, r)
    return torch.addmm(y.flatten(0, -2), h, b.t()).view_as(y)


def _read(folder: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    for role in ("adapter_config", "adapter_model"):
        if not (folder / ROLE_FILES[role]).is_file():
            raise ModelError(f"the adapter has no {ROLE_FILES[role]}", "Give a PEFT folder with safetensors")
    tensor_types(folder / ROLE_FILES["adapter_model"])
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"adapter_config.json cannot be used ({error})", "Give a LoRA adapter of PEFT") from error
    if not isinstance(config, LoraConfig):
        raise ModelError("adapter_config.json is not LoRA's", "Give a LoRA adapter of PEFT")
    config.inference_mode = True
    config.base_model_name_or_path = None  # it may name another copy of the base, and PEFT would warn
    return config, load_file(folder / ROLE_FILES["adapter_model"])
