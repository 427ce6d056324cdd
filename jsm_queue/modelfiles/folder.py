"""A model in the Hugging Face layout: are its files there, whole, safe to load, and of a kind that is covered?"""

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jsm_queue.errors import ChatTemplateError, ModelDamagedError, ModelUnsafeError, ModelUnsupportedError
from jsm_queue.kinds import PICKLED
from jsm_queue.modelfiles import safetensors

SUPPORTED = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architecture → its `model_type`, of the bases that training and the GGUF export cover."""

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

NEEDED = {
    *(CONFIG, "generation_config.json", TEMPLATE, TEMPLATE_JSON, INDEX, TOKENIZER, TOKENIZER_CONFIG),
    *("tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt"),
}
"""Beside the weights, the files of a folder that are taken; all others are left where they are."""

COUNTS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings"),
)
"""Keys of a config that hold a number of at least 1, where they are given."""

LAYER = re.compile(r"model\.layers\.(\d{1,6})\.")
TOGETHER = f"Name a folder whose {CONFIG} and weights belong together"
SAVE_TOKENIZER = "Save it again with AutoTokenizer.from_pretrained(…).save_pretrained(…)"
SAVE_WEIGHTS = "Save it again with save_pretrained(…), where you trust its author; a pickle can run code"


def check(folder: Path) -> dict[str, Any]:
    """The model's config.json, once everything needed is there, whole, and safe to load. Raises ModelError."""
    config = read_json(folder / CONFIG)
    check_config(config)
    check_shapes(config, tensors(folder))
    check_tokenizer(folder)
    return config


def check_config(config: dict[str, Any]) -> None:
    """Raises ModelError for a model that needs code of its own, or that training and export do not cover."""
    names = config.get("architectures")
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ModelDamagedError(f"{CONFIG} names no architectures", "Name a causal language model's whole folder")
    family = config.get("model_type")
    if not any(name in SUPPORTED for name in names) or family not in SUPPORTED.values():
        what = f"{', '.join(names)} (model_type {family!r})"
        if "auto_map" in config:
            raise ModelUnsafeError(f"{what} needs Python code of its own, which is never run")
        raise ModelUnsupportedError(f"{what} is not covered", f"Supported are {', '.join(SUPPORTED)}")
    if config.get("quantization_config"):
        raise ModelUnsupportedError(
            "the base model is quantized already", "Choose the unquantized model: NF4 and GGUF formats are made of it"
        )
    for key in COUNTS:
        value = config.get(key)
        if value is not None and not (type(value) is int and value >= 1):
            raise ModelDamagedError(f"{CONFIG}: {key} is {value!r}, expected a number of at least 1")


def check_shapes(config: dict[str, Any], found: dict[str, safetensors.Tensor]) -> None:
    """Raises ModelDamagedError where a config.json contradicts the weights' own headers: such a base never loads."""
    shape = (config.get("vocab_size"), config.get("hidden_size"))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        theirs = found[name].shape if name in found else ()
        for key, said, real in zip(("vocab_size", "hidden_size"), shape, theirs, strict=False):
            if said not in (None, real):
                raise ModelDamagedError(f"{CONFIG}: {key} is {said}, but {name} is {list(theirs)}", TOGETHER)
    layers = {int(match[1]) for name in found if (match := LAYER.match(name))}
    said = config.get("num_hidden_layers")
    if layers and said not in (None, max(layers) + 1):
        raise ModelDamagedError(
            f"{CONFIG}: num_hidden_layers is {said}, but the weights have {max(layers) + 1}", TOGETHER
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model. Raises ModelError."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    present = [path.name for path in folder.iterdir() if path.is_file()]
    if INDEX not in present:
        raise no_weights(present)
    return [folder / name for name in shards(read_json(folder / INDEX), present)]


def shards(index: dict[str, Any], present: Collection[str]) -> list[str]:
    """The files that an index names. Raises ModelDamagedError when one is not among those present."""
    weight_map = index.get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) and _all_text(weight_map.values()) else set()
    if not names:
        raise ModelDamagedError(f"{INDEX} names no weights")
    # A name with a path in it is never present: nothing outside the folder is read.
    missing = sorted(names - set(present))
    if missing:
        raise ModelDamagedError(f"weights are missing: {', '.join(missing[:3])}{', …' if missing[3:] else ''}")
    return sorted(names)


def refuse_links(folder: Path, names: Collection[str] = ()) -> None:
    """Raises ModelUnsafeError for a needed file that is a link out of the folder: it would be read and uploaded.

    `names`: the files that are needed, where they are not a base's. A snapshot in the hub's cache is made of links into
    the `blobs` beside it.
    """
    home = folder.resolve()
    places = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    for path in sorted(folder.iterdir()):
        if not path.is_symlink() or not (path.name in names if names else is_needed(path.name)):
            continue
        target = Path(os.path.realpath(path))  # resolve() raises for a link to itself
        if not any(target.is_relative_to(place) for place in places):
            raise ModelUnsafeError(
                f"{path.name} is a link that leads outside the folder", "Put the file itself there, or take it out"
            )


def is_needed(name: str) -> bool:
    """Is a file of that name part of a model: its config, tokenizer, weights or chat template?"""
    return name in NEEDED or name.endswith(".safetensors")


def no_weights(present: Collection[str]) -> ModelUnsafeError | ModelDamagedError:
    """Why a model with these files has no weights that may be read."""
    pickled = sorted(name for name in present if Path(name).suffix in PICKLED)
    if pickled:
        return ModelUnsafeError(
            f"its weights are pickled ({pickled[0]}), and reading a pickle can run any code", SAVE_WEIGHTS
        )
    return ModelDamagedError(f"it has no {WEIGHTS}", "Name a folder that holds the whole model")


def tensors(folder: Path) -> dict[str, safetensors.Tensor]:
    """Name → tensor, of all the model's weights, from their headers. Raises ModelError."""
    found: dict[str, safetensors.Tensor] = {}
    for path in weight_files(folder):
        found |= safetensors.read_header(path)
    if not (folder / WEIGHTS).is_file():
        lost = sorted(read_json(folder / INDEX)["weight_map"].keys() - found.keys())
        if lost:
            raise ModelDamagedError(f"weights are missing: no file holds {lost[0]}")
    return found


def check_tokenizer(folder: Path) -> None:
    """Raises ModelError when the model has no tokenizer that can be exported."""
    if not (folder / TOKENIZER).is_file():
        raise ModelDamagedError(f"the base has no tokenizer: {TOKENIZER} is missing", SAVE_TOKENIZER)
    model = read_json(folder / TOKENIZER).get("model")
    if not isinstance(model, dict) or not model.get("vocab"):
        raise ModelDamagedError(f"{TOKENIZER} holds no vocabulary", SAVE_TOKENIZER)
    if model.get("type", "BPE") != "BPE":
        raise ModelUnsupportedError(
            f"no GGUF export for a {model['type']} vocabulary", "Use a base with a BPE tokenizer"
        )
    if (folder / TOKENIZER_CONFIG).is_file():
        read_json(folder / TOKENIZER_CONFIG)


def check_template(folder: Path) -> None:
    """Raises ChatTemplateError when the model brings no chat template."""
    if (folder / TEMPLATE).is_file() and (folder / TEMPLATE).stat().st_size:
        return
    for name in (TOKENIZER_CONFIG, TEMPLATE_JSON):
        if (folder / name).is_file() and has_template(read_json(folder / name)):
            return
    raise no_template()


def no_template() -> ChatTemplateError:
    """What a model without a chat template is told."""
    return ChatTemplateError("the base model has no chat template")


def has_template(config: dict[str, Any]) -> bool:
    """Does a tokenizer_config.json hold a chat template: its text, or several by name with a "default"?"""
    template = config.get("chat_template")
    if isinstance(template, list):
        template = any(isinstance(each, dict) and each.get("name") == "default" for each in template)
    return bool(template)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelDamagedError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelDamagedError(
            f"it has no {path.name}", "Name a folder in the Hugging Face layout that holds the whole model"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelDamagedError(f"{path.name} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelDamagedError(f"{path.name} does not hold an object")
    return value


def _all_text(values: Collection[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
