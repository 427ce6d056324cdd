"""An F16 GGUF becomes a smaller one, by llama.cpp's own quantizer in this process."""

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from jsm_queue.errors import ModelError
from jsm_queue.spec import Format
from workers.gguf import llama
from workers.gguf.export import Planned
from workers.gguf.llama import lib

SPARE = 1 << 20
"""Bytes: less free space than this after a failure means that the disk was full."""

SUPERBLOCK = 256
"""Weights in one block of a k-quant: llama.cpp gives another type to matrices whose rows do not divide by it."""

LOOK_S = 1.0
"""Seconds between two looks at how far the file has grown."""

Progress = Callable[[int], None]
"""progress(bytes written), called whenever there are more"""


def quantize(f16: Path, out: Path, format: Format, threads: int, progress: Progress = lambda written: None) -> None:
    """Writes `out`, whole or not at all. Raises OSError for a full disk, ModelError when llama.cpp refuses."""
    part = out.with_name(f"{out.name}.part")
    try:
        with ThreadPoolExecutor(1) as pool:
            code = _watched(pool.submit(_run, f16, part, format, threads), part, progress)
        if code != 0:
            _raise_disk_full(out.parent)
            raise ModelError(f"llama.cpp cannot quantize to {format}: {llama.last_log()}", "Choose another format")
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def fallback_tensors(plan: Iterable[Planned], format: Format) -> list[str]:
    """The matrices that cannot have the format's own k-quant type."""
    if "_K" not in format:
        return []
    return [planned.name for planned in plan if len(planned.shape) > 1 and planned.shape[-1] % SUPERBLOCK]


def _run(f16: Path, out: Path, format: Format, threads: int) -> int:
    llama.start_library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = llama.FILE_TYPES[format]
    params.nthread = threads
    return lib.llama_model_quantize(str(f16).encode("utf-8"), str(out).encode("utf-8"), ctypes.byref(params))


def _watched(future: Future[int], part: Path, progress: Progress) -> int:
    """The future's result. llama.cpp says nothing until it is done, so the growing file is the sign of life."""
    seen = 0
    while not wait([future], timeout=LOOK_S).done:
        size = part.stat().st_size if part.exists() else 0
        if size > seen:
            seen = size
            progress(size)
    return future.result()


def _raise_disk_full(folder: Path) -> None:
    # llama.cpp reports a failed write like any other failure.
    if shutil.disk_usage(folder).free < SPARE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
