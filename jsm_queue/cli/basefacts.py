"""What is known of a base model without loading it: family, heads, parameters, size."""

import math
from pathlib import Path
from typing import Any

from jsm_queue.kinds import BaseFacts
from jsm_queue.modelfiles import folder as model_folder


def of_folder(folder: Path) -> BaseFacts:
    """Facts of a checked local base in the Hugging Face layout. Raises ModelError."""
    parameters = sum(math.prod(tensor.shape) for tensor in model_folder.tensors(folder).values())
    byte_count = sum(path.stat().st_size for path in model_folder.weight_files(folder))
    return of_config(model_folder.read_json(folder / model_folder.CONFIG), parameters, byte_count)


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
        positions=positions(config),
    )


def positions(config: dict[str, Any]) -> int | None:
    """Tokens that a model's rotary positions reach, stretched ones too; None where its config.json does not say."""
    most = config.get("max_position_embeddings")
    if type(most) is not int:
        return None
    stretched = config.get("rope_scaling") or config.get("rope_parameters") or {}
    factor = stretched.get("factor", 1) if isinstance(stretched, dict) else 1
    return int(most * factor) if isinstance(factor, int | float) and 1 <= factor <= 2**20 else most
