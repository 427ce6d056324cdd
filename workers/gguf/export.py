"""A transformers folder, with or without a LoRA adapter, becomes one F16 GGUF file."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter, TensorNameMap, get_tensor_name_map

from jsm_queue.errors import ModelDamagedError, ModelUnsupportedError
from workers.engine.folders import check_folder
from workers.gguf import tensors
from workers.gguf.architecture import ModelShape, read_shape, rope_factors, write_shape
from workers.gguf.tokenizer import read_vocabulary, write_vocabulary

Progress = Callable[[int, int], None]
"""progress(tensors written, of how many)"""


@dataclass(frozen=True)
class Planned:
    """One tensor of the file to be. `source` names the folder's tensor, None for the rotary factors."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.float16] | type[np.float32]
    source: str | None


def export_f16(
    folder: Path,
    adapter: Path | None,
    out: Path,
    chat_template: str | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Planned]:
    """Writes `out`: matrices as F16, vectors (norms, biases) as F32, the vocabulary and the chat template.

    Returns the tensors that it holds. Streams tensor by tensor, so memory is bounded by the largest one.
    `chat_template` (Jinja) replaces the base's own. Raises ModelError for what the export does not cover, OSError for
    a full disk.
    """
    check_folder(folder)
    shape = read_shape(folder)
    lora = tensors.read_adapter(adapter) if adapter else tensors.NO_ADAPTER
    part = out.with_name(f"{out.name}.part")
    writer = GGUFWriter(part, shape.architecture.name)
    try:
        write_shape(writer, shape)
        write_vocabulary(writer, read_vocabulary(folder, shape.vocab, chat_template))
        with tensors.open_weights(folder) as weights:
            plan = plan_tensors(weights, shape, lora)
            _write_header(writer, plan)
            for done, planned in enumerate(plan, 1):
                _write(writer, _data(planned, weights, shape, lora))
                progress(done, len(plan))
        writer.close()
        part.replace(out)
        return plan
    finally:
        writer.close()
        part.unlink(missing_ok=True)


def plan_tensors(weights: tensors.Weights, shape: ModelShape, lora: tensors.Adapter) -> list[Planned]:
    """Which tensors the file will hold, in the order of their GGUF names. Raises ModelError for unknown ones."""
    names = get_tensor_name_map(shape.architecture.arch, shape.layers)
    plan = [_planned(source, weights.shape(source), names) for source in _sources(weights, shape)]
    if rope_factors(shape) is not None:
        plan.append(Planned("rope_freqs.weight", (shape.head_dim // 2,), np.float32, None))
    if lost := set(lora.pairs) - {planned.source for planned in plan}:
        raise ModelUnsupportedError(
            f"the adapter changes {min(lost)}, which the GGUF does not hold", "Train without that module"
        )
    for planned in plan:
        _require_fit(planned, lora.pairs.get(planned.source or ""))
    return sorted(plan, key=lambda planned: planned.name)


def _require_fit(planned: Planned, pair: tuple[torch.Tensor, torch.Tensor] | None) -> None:
    """Raises ModelDamagedError for LoRA matrices of another base: A is (r, in), B (out, r)."""
    if pair and (pair[1].shape[0], pair[0].shape[1], pair[1].shape[1]) != (*planned.shape, pair[0].shape[0]):
        raise ModelDamagedError(
            f"the adapter's {planned.source} does not fit this base", "Use the base that it was trained on"
        )


def _sources(weights: tensors.Weights, shape: ModelShape) -> Iterator[str]:
    for name in weights.shards:
        tied_output = shape.tied and name == "lm_head.weight"
        if not tied_output and not name.endswith("rotary_emb.inv_freq"):
            yield name


def _planned(source: str, shape: tuple[int, ...], names: TensorNameMap) -> Planned:
    name = names.get_name(source, try_suffixes=(".weight", ".bias"))
    if name is None:
        raise ModelUnsupportedError(
            f"the base holds a tensor {source} that its architecture does not have", "Use the original model"
        )
    return Planned(name, shape, np.float32 if len(shape) == 1 else np.float16, source)


def _write_header(writer: GGUFWriter, plan: list[Planned]) -> None:
    for planned in plan:
        dtype = np.dtype(planned.dtype)
        writer.add_tensor_info(planned.name, planned.shape, dtype, int(np.prod(planned.shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _write(writer: GGUFWriter, data: np.ndarray) -> None:
    try:
        writer.write_tensor_data(data)
    except OSError as error:
        if error.errno is not None:
            raise
        # numpy tells a short write only in words, and a short write is a full disk.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(writer.path)) from error


def _data(planned: Planned, weights: tensors.Weights, shape: ModelShape, lora: tensors.Adapter) -> np.ndarray:
    if planned.source is None:
        factors = rope_factors(shape)
        assert factors is not None
        return factors
    weight = weights.load(planned.source)
    if planned.dtype is np.float32:
        data = weight.float().numpy()
    else:
        data = tensors.f16(weight, lora.pairs.get(planned.source), lora.scale)
    if not np.isfinite(data).all():
        raise ModelUnsupportedError(
            f"{planned.source} holds values beyond F16's 65 504", "This base cannot be exported as F16"
        )
    heads = _rotated_heads(planned.source, shape)
    return tensors.interleave(data, heads) if heads else data


def _rotated_heads(source: str, shape: ModelShape) -> int:
    """How many heads of rotated rows the tensor has; 0: its rows stay."""
    if not shape.architecture.interleaved:
        return 0
    module = source.rsplit(".", 2)[-2]
    return {"q_proj": shape.heads, "k_proj": shape.kv_heads}.get(module, 0)
