"""A base model's files: found usable before anything is loaded, and a GGUF file unpacked into such files."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any
from uuid import uuid4

from jsm_queue.errors import ModelError
from jsm_queue.kinds import PICKLED

HEADER_MAX = 100_000_000
"""Bytes of a safetensors header: the format's own limit."""

GGUF_HEADER = 64 * 2**20
"""Bytes that hold any GGUF file's metadata and tensor names; a vocabulary of 128 000 tokens takes about 10 MB."""

AGAIN = "Get the base model's files again: they are damaged or not complete"


def check_folder(folder: Path) -> dict[str, Any]:
    """The folder's config.json, once everything needed is there, whole, and safe to load.

    Raises ModelError: no config.json, a model that needs code of its own, a quantized one, weights that are
    pickled, cut off or missing.
    """
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = _json(folder / "config.json", "Give a folder that a model was saved to in the transformers format")
    family = config.get("model_type")
    if family not in CONFIG_MAPPING:
        own = " and brings Python code of its own, which is never run" if "auto_map" in config else ""
        raise ModelError(
            f"transformers does not know the base model's type {family!r}{own}",
            "Choose a base that transformers supports (trust_remote_code is always off)",
        )
    if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(f"a {family!r} model does not generate text", "Choose a causal language model")
    if "quantization_config" in config:
        raise ModelError(
            "the base model is quantized already", "Choose the unquantized model: NF4 and GGUF formats are made of it"
        )
    for path in _weights(folder):
        tensor_types(path)
    return config


def stored_in_bfloat16(folder: Path) -> bool:
    """Are all weights kept in bfloat16, so that nothing is lost by computing in it?"""
    return all(kind == "BF16" for path in _weights(folder) for kind in tensor_types(path).values())


def tensor_types(path: Path) -> dict[str, str]:
    """Name → type ("BF16", "F32", …) of a safetensors file's tensors. Raises ModelError when the file is cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(size - 8, HEADER_MAX):
            raise ModelError(f"{path.name}: not a whole safetensors file ({size} bytes)", AGAIN)
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError as error:
            raise ModelError(f"{path.name}: its header is not valid JSON", AGAIN) from error
    header.pop("__metadata__", None)
    wanted = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if wanted != size:
        raise ModelError(f"{path.name}: {size} bytes where its header says {wanted}", AGAIN)
    return {name: tensor["dtype"] for name, tensor in header.items()}


def unpack_gguf(path: Path, folder: Path) -> Path:
    """A GGUF file as a transformers folder: weights dequantized to float16.

    Float16 keeps the products of a 16-bit scale and a small integer to 2^-11, far below the error of the
    quantization itself. Raises ModelError when transformers cannot read the file, or would read it wrongly.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if (folder / "config.json").is_file():
        return folder
    _refuse_rope_factors(path)
    source: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float16, quantization_config=GgufConfig(dequantize=True), **source
        )
    except (ValueError, KeyError, NotImplementedError, ImportError) as error:
        raise ModelError(f"{path.name}: cannot be unpacked ({error})", "Give the base in its own format") from error
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _refuse_rope_factors(path: Path) -> None:
    with path.open("rb") as file:
        header = file.read(GGUF_HEADER)
    if b"rope_freqs.weight" in header:
        raise ModelError(
            f"{path.name}: its rotary frequencies are scaled (Llama 3.1 and later), which transformers would ignore",
            "Give the base in its own format",
        )


def _weights(folder: Path) -> list[Path]:
    """The safetensors files that make up the model."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        raise _no_weights(folder)
    names = sorted(set(_json(index, AGAIN).get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ModelError(f"weights are missing: {', '.join(missing) or 'the index names none'}", AGAIN)
    return [folder / name for name in names]


def _no_weights(folder: Path) -> ModelError:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        return ModelError(
            f"the base model's weights are pickled ({pickled[0]}), and reading a pickle can run any code",
            "Choose a revision with safetensors, or convert them where you trust their author",
        )
    return ModelError("the base model has no model.safetensors", AGAIN)


def _json(path: Path, fix: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"the base model has no {path.name}", fix) from error
    except ValueError as error:
        raise ModelError(f"{path.name} is not valid JSON ({error})", fix) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} does not hold an object", fix)
    return value
