"""Base models in memory: loaded from a folder, an unpacked GGUF file or a hub snapshot, and kept for the next job."""

import gc
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from jsm_queue.errors import ModelError
from jsm_queue.kinds import BaseRef
from workers.engine.folders import as_model_error, check_folder, stored_in_bfloat16, unpack_gguf
from workers.engine.packing import use_packing
from workers.engine.prompts import ChatTemplate, chat_template, check_tokenizer
from workers.work import Device, Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A base model ready to compute, its weights frozen. `lossless_bfloat16`: its weights are kept in bfloat16."""

    ref: BaseRef
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: ChatTemplate
    device: torch.device
    quantized: bool
    lossless_bfloat16: bool


_loaded: dict[tuple[str, bool, str], Base] = {}
"""The last base by (BaseRef.key, quantized, device): at most one, because two may not fit."""

_unpacked: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""The last GGUF base's folder by BaseRef.key: at most one, removed when the process ends."""


def load(work: Work, quantized: bool) -> Base:
    """The base that the work's params name; not loaded again where the last job used the same.

    Quantized: NF4 with double quantization, computing in bfloat16 on CUDA and float32 on a CPU. Otherwise
    bfloat16 on CUDA, float32 on a CPU. Raises ModelError.
    """
    torch.set_num_threads(work.device.threads)
    ref: BaseRef = work.params.base
    key = (ref.key, quantized, work.device.name)
    if key not in _loaded:
        forget()
        _loaded[key] = _load(ref, base_folder(work), work.device, quantized)
    return _loaded[key]


def forget() -> None:
    """Drops the kept base and gives its memory back."""
    _loaded.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def base_folder(work: Work) -> Path:
    """The base's files in the transformers format; a GGUF base is unpacked once a process. Raises ModelError."""
    ref: BaseRef = work.params.base
    if ref.form != "gguf":
        return work.inputs / "base"
    if ref.key not in _unpacked:
        for folder in _unpacked.values():
            folder.cleanup()
        _unpacked.clear()
        _unpacked[ref.key] = tempfile.TemporaryDirectory(prefix="jsm-base-", ignore_cleanup_errors=True)
    return unpack_gguf(_gguf_file(work.inputs / "base"), Path(_unpacked[ref.key].name) / "base")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a base's folder. Raises ModelError."""
    with as_model_error("the base's tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # Some releases return False where the files name a class that is not installed.
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError("the base has no tokenizer", "Give a base model with a tokenizer.json")
    with as_model_error("the base's tokenizer reads no text"):  # some settings are not looked at before
        tokenizer("?")
    return tokenizer


@contextmanager
def training_precision(base: Base) -> Iterator[None]:
    """The parameters in bfloat16 while it lasts, where a CPU multiplies such numbers (at twice float32's rate) and
    nothing is lost on the way there and back, because the base is kept in bfloat16. Elsewhere nothing changes.

    Buffers (rotary frequencies) stay in float32.
    """
    changes = base.device.type == "cpu" and base.lossless_bfloat16 and _multiplies_bfloat16()
    if changes:
        _set_precision(base.model, torch.bfloat16)
    try:
        yield
    finally:
        if changes:
            _set_precision(base.model, torch.float32)


def _set_precision(model: PreTrainedModel, dtype: torch.dtype) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _multiplies_bfloat16() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _load(ref: BaseRef, folder: Path, device: Device, quantized: bool) -> Base:
    check_folder(folder)
    tokenizer = load_tokenizer(folder)
    check_tokenizer(tokenizer)
    template = chat_template(tokenizer, ref.chat_template)
    log.info("loading %s on %s%s", ref.repo or "the base", device.name, " as NF4" if quantized else "")
    model = _load_model(folder, torch.device(device.name), quantized)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Base(
        ref,
        model.eval(),
        tokenizer,
        template,
        torch.device(device.name),
        quantized,
        lossless_bfloat16=not quantized and stored_in_bfloat16(folder),
    )


def _load_model(folder: Path, device: torch.device, quantized: bool) -> PreTrainedModel:
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    options: dict[str, Any] = {}
    if quantized:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if cuda or quantized:
        options["device_map"] = {"": device}
    with as_model_error("the base model cannot be loaded"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # we name them
            **options,
        )
    model, info = loaded
    if unfit := sorted(info["missing_keys"]) + sorted(_mismatch(*each) for each in info["mismatched_keys"]):
        raise ModelError(
            f"the base's weights do not fit its config.json: {len(unfit)} tensors, such as {unfit[0]}",
            "Get the base model's files again, all from one revision",
        )
    use_packing(model)
    return model


def _mismatch(name: str, stored: Sequence[int], said: Sequence[int]) -> str:
    return f"{name} ({' × '.join(map(str, stored))}; by config.json {' × '.join(map(str, said))})"


def _gguf_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f"expected one GGUF file, found {len(files)}", "Give the path of one .gguf file as source")
    return files[0]
