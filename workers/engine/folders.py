"""A base model's files: found usable before anything is loaded, and a GGUF file unpacked into such files."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from jsm_queue.errors import JsmError, ModelDamagedError
from jsm_queue.modelfiles import folder as model_folder
from jsm_queue.modelfiles import gguf, safetensors


def check_folder(folder: Path) -> dict[str, Any]:
    """The folder's config.json, once everything needed is there, whole, and safe to load.

    `jsm submit` looked before; files may have changed since, and a submitter may be older. Raises ModelError.
    """
    return model_folder.check(folder)


def stored_in_bfloat16(folder: Path) -> bool:
    """Are all weights kept in bfloat16, so that nothing is lost by computing in it?"""
    return all(tensor.dtype == "BF16" for tensor in model_folder.tensors(folder).values())


def tensor_types(path: Path) -> dict[str, str]:
    """Name → type ("BF16", "F32", …) of a safetensors file's tensors. Raises ModelError when the file is cut off."""
    return {name: tensor.dtype for name, tensor in safetensors.read_header(path).items()}


@contextmanager
def as_model_error(what: str) -> Iterator[None]:
    """What a library says of a model's files becomes a ModelError; the trouble of this machine passes as it is:

    a package that is missing, memory that does not suffice, and what the system says with an error number.
    Libraries raise anything for a file that they do not understand, bare `Exception` too.
    """
    try:
        yield
    except Exception as error:
        if is_trouble(error):
            raise
        said = " ".join(str(error).split())[:500] or type(error).__name__
        raise ModelDamagedError(f"{what} ({said})", "Choose another base or revision") from error


def is_trouble(error: BaseException) -> bool:
    """Does an error speak of this machine, not of what it was asked to read?"""
    if isinstance(error, OSError):
        return error.errno is not None
    if isinstance(error, NotImplementedError) or "mismatched_sizes" in str(error):
        return False
    # Of a GPU and its libraries come RuntimeErrors: out of memory, no kernel for this card.
    return isinstance(error, JsmError | ImportError | MemoryError | RuntimeError)


def unpack_gguf(path: Path, folder: Path) -> Path:
    """A GGUF file as a transformers folder: weights dequantized to float16.

    Float16 keeps the products of a 16-bit scale and a small integer to 2^-11, far below the error of the
    quantization itself. Raises ModelError when transformers cannot read the file, or would read it wrongly.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if (folder / "config.json").is_file():
        return folder
    gguf.check(path, template=True)
    source: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    with as_model_error(f"{path.name}: cannot be unpacked"):
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float16, quantization_config=GgufConfig(dequantize=True), **source
        )
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
