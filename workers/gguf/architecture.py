"""What llama.cpp must know of a model besides its weights: its shape, and how positions are rotated."""

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, LlamaFileType, RopeScalingType
from transformers import AutoConfig

from jsm_queue.errors import ModelUnsupportedError
from workers.engine.folders import as_model_error


@dataclass(frozen=True)
class Architecture:
    """One architecture as llama.cpp names it.

    `interleaved`: its rotary pairs are neighbours (2i, 2i+1) in llama.cpp and halves (i, i + d/2) in transformers, so
    the rows of the query and key projections change places.
    """

    arch: MODEL_ARCH
    interleaved: bool

    @property
    def name(self) -> str:
        """The value of `general.architecture`, e.g. "qwen2"."""
        return MODEL_ARCH_NAMES[self.arch]


ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture(MODEL_ARCH.LLAMA, interleaved=True),
    "MistralForCausalLM": Architecture(MODEL_ARCH.LLAMA, interleaved=True),
    "Qwen2ForCausalLM": Architecture(MODEL_ARCH.QWEN2, interleaved=False),
    "Qwen3ForCausalLM": Architecture(MODEL_ARCH.QWEN3, interleaved=False),
}


@dataclass(frozen=True)
class ModelShape:
    """The figures of a config that the export uses. `rope` holds transformers' `rope_parameters`."""

    architecture: Architecture
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    eps: float
    tied: bool
    rope: dict[str, Any]


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in a transformers folder. Raises ModelError where the export does not cover it."""
    with as_model_error("the base's config.json is not usable"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    names = config.architectures or []
    known = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if known is None:
        what = ", ".join(names) or "a config that names no architecture"
        raise ModelUnsupportedError(f"no GGUF export for {what}", f"Supported are {', '.join(sorted(ARCHITECTURES))}")
    _refuse_unsupported(config)
    heads = config.num_attention_heads
    return ModelShape(
        architecture=known,
        vocab=config.vocab_size,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        # llama.cpp knows no sliding window for these architectures; up to its length full attention is the same.
        context=min(config.max_position_embeddings, getattr(config, "sliding_window", None) or sys.maxsize),
        eps=config.rms_norm_eps,
        tied=bool(config.tie_word_embeddings),
        rope=dict(config.rope_parameters),
    )


def _refuse_unsupported(config: Any) -> None:
    if getattr(config, "quantization_config", None):
        raise ModelUnsupportedError("the base's weights are already quantized", "Use the base's original safetensors")
    if config.hidden_act != "silu":
        raise ModelUnsupportedError(f"no GGUF export for the activation {config.hidden_act!r}", "Use a base with silu")
    kind = config.rope_parameters.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise ModelUnsupportedError(
            f"no GGUF export for rotary scaling {kind!r}", "Use a base with default, linear or llama3"
        )


def write_shape(writer: GGUFWriter, shape: ModelShape) -> None:
    """Adds the architecture's keys to a GGUF that will hold F16 weights."""
    writer.add_type("model")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope.get("rope_theta", 10_000.0))
    if shape.rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(shape.rope["factor"])


def rope_factors(shape: ModelShape) -> np.ndarray | None:
    """Divisors of the rotary frequencies, (head_dim / 2,) float32; None where llama.cpp needs none.

    Llama 3.1's rule: wavelengths shorter than context / high_freq_factor stay, those longer than
    context / low_freq_factor are stretched by `factor`, and between them the frequency is interpolated linearly in
    context / wavelength (The Llama 3 Herd of Models, arXiv 2407.21783; transformers' `llama3` rope type).
    """
    if shape.rope.get("rope_type") != "llama3":
        return None
    rope = shape.rope
    exponents = np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim
    turns = rope["original_max_position_embeddings"] / (2 * math.pi * rope["rope_theta"] ** exponents)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
