"""What is known of a base model without loading it: family, heads, parameters, size."""

import json
import math
import struct
from pathlib import Path
from typing import Any

from jsm_queue.kinds import BaseFacts

MAX_HEADER = 100_000_000  # bytes; the format's own limit for a safetensors header


def of_folder(folder: Path) -> BaseFacts:
    """Facts of a local base in the Hugging Face layout. What its files do not say stays None."""
    weights = sorted(folder.glob("*.safetensors"))
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        parameters = sum(_parameters(path) for path in weights)
    except (OSError, ValueError, struct.error):
        return BaseFacts()
    if not isinstance(config, dict):
        return BaseFacts()
    return of_config(config, parameters or None, sum(path.stat().st_size for path in weights) or None)


def of_hub(info: Any) -> BaseFacts:
    """Facts of a hub repository, from what `HfApi.model_info` answers."""
    tensors = getattr(info, "safetensors", None)
    sizes = [
        getattr(file, "size", None) or 0 for file in info.siblings or [] if file.rfilename.endswith(".safetensors")
    ]
    return of_config(getattr(info, "config", None) or {}, getattr(tensors, "total", None), sum(sizes) or None)


def of_config(config: dict[str, Any], parameters: int | None, byte_count: int | None) -> BaseFacts:
    """Facts from a model's config.json."""
    return BaseFacts(
        family=config.get("model_type"),
        parameters=parameters,
        kv_heads=config.get("num_key_value_heads", config.get("num_attention_heads")),
        heads=config.get("num_attention_heads"),
        bytes=byte_count,
    )


def _parameters(path: Path) -> int:
    """How many numbers a safetensors file holds, from its header. Raises ValueError when it has none."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER:
            raise ValueError(f"{path}: not a safetensors file")
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
