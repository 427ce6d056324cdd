"""An adapter that a spec gives → content: a PEFT LoRA folder, found to fit its base before anything is uploaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsm_queue.canonical import content_hash
from jsm_queue.cli.inputs import Missing, add
from jsm_queue.errors import (
    ModelDamagedError,
    ModelError,
    ModelMissingError,
    ModelUnsafeError,
    ModelUnsupportedError,
    located,
)
from jsm_queue.kinds import PICKLED, ROLE_FILES, BaseRef
from jsm_queue.modelfiles import folder as modelfolder
from jsm_queue.modelfiles import safetensors
from jsm_queue.spec import BaseSpec

CONFIG, WEIGHTS = ROLE_FILES["adapter_config"], ROLE_FILES["adapter_model"]
PREFIX = "base_model.model."  # what PEFT puts before the name that a module has in its base
PAIR = ("lora_A", "lora_B")
FIX = "Name the folder that PEFT's save_pretrained wrote; the path is relative to the spec's folder"

NOT_PLAIN = (
    *("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "lora_bias"),
    *("layer_replication", "trainable_token_indices", "target_parameters"),
)
"""Keys of adapter_config.json whose adapters hold, or mean, more than one pair of matrices a linear layer."""


def with_adapter(base: BaseSpec, ref: BaseRef, folder: Path, files: dict[str, Path], missing: Missing) -> BaseRef:
    """The base with the files of the adapter that its spec names, or as it is where it names none.

    `files`: sha → local file, to which the adapter's are added; the base's are among them already.
    Raises ModelError for what is no plain LoRA adapter of this base.
    """
    if base.adapter is None:
        return ref
    path = folder / Path(base.adapter).expanduser()
    where = f"bases.{base.name}.adapter: {path}"
    lost = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
    if lost:
        missing(_not_there(path, where, lost))
        return ref.model_copy(update={"adapter": {CONFIG: content_hash(base.adapter)}})
    with located(where):
        modelfolder.refuse_links(path, (CONFIG, WEIGHTS))
        check(path, _modules(ref, files))
    return ref.model_copy(update={"adapter": {name: add(path / name, files) for name in (CONFIG, WEIGHTS)}})


def check(path: Path, modules: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ModelError for a folder that is no plain LoRA adapter, or none of a base with these `modules`.

    `modules`: name → (out, in) of the base's matrices; empty where they are not known before the base is there.
    """
    config = modelfolder.read_json(path / CONFIG)
    _check_config(config)
    tensors = {name: tensor.shape for name, tensor in safetensors.read_header(path / WEIGHTS).items()}
    pairs = _pairs(tensors)
    for module, (a, b) in pairs.items():
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise ModelDamagedError(f"{WEIGHTS}: the matrices of {module} do not fit each other: {a} and {b}")
        if modules and modules.get(module) != (b[0], a[1]):
            theirs = f"is {modules[module]}" if module in modules else "is not there"
            raise ModelError(
                f"it changes {module} of {(b[0], a[1])}, which in the base {theirs}", "Name the base it was trained on"
            )


def _check_config(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelUnsupportedError(f"{CONFIG}: its peft_type is {kind!r}, not LORA", "Give a LoRA adapter of PEFT")
    extras = [key for key in NOT_PLAIN if config.get(key)]
    if config.get("bias", "none") != "none":
        extras.append("bias")
    if extras:
        raise ModelUnsupportedError(f"{CONFIG}: no plain LoRA ({', '.join(extras)})", "Train it without these")
    for key in ("r", "lora_alpha"):
        if isinstance(config.get(key), bool) or not isinstance(config.get(key), int | float) or config[key] <= 0:
            raise ModelDamagedError(f"{CONFIG}: {key} is {config.get(key)!r}, expected a number above 0")


def _pairs(tensors: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Module → shapes of its A and B. Raises ModelError where the file holds anything else, or nothing."""
    modules = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    expected = {f"{module}.{matrix}.weight" for module in modules for matrix in PAIR}
    if not modules or expected != tensors.keys():
        odd = min(expected ^ tensors.keys(), default="no matrices")
        raise ModelUnsupportedError(f"{WEIGHTS}: not pairs of LoRA matrices alone ({odd})", "Give a plain LoRA adapter")
    return {
        module.removeprefix(PREFIX): (tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"])
        for module in sorted(modules)
    }


def _modules(ref: BaseRef, local: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    """Name → shape of a local folder's matrices; none of a base whose tensors have other names or are not here."""
    if ref.form != "folder":
        return {}
    paths = [local[sha] for name, sha in ref.files.items() if name.endswith(".safetensors") and sha in local]
    headers = [safetensors.read_header(path) for path in paths]
    return {
        name.removesuffix(".weight"): tensor.shape
        for header in headers
        for name, tensor in header.items()
        if len(tensor.shape) == 2
    }


def _not_there(path: Path, where: str, lost: list[str]) -> ModelError:
    if not path.is_dir():
        return ModelMissingError(f"{where} is not a folder", FIX)
    pickled = [each.name for each in sorted(path.iterdir()) if each.suffix in PICKLED]
    if pickled and lost == [WEIGHTS]:
        return ModelUnsafeError(
            f"{where} has its weights only in pickled form ({pickled[0]})",
            "Save it again with save_pretrained(…, safe_serialization=True), where you trust its author",
        )
    return ModelMissingError(f"{where} has no {' and no '.join(lost)}", FIX)
