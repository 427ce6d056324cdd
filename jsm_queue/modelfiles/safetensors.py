"""The header of a safetensors file: its tensors, and whether the file is whole."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsm_queue.errors import ModelDamagedError

HEADER_MAX = 100_000_000
"""Bytes of a header: the format's own limit."""

BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""Bytes of one number, by type. A tensor of another type is taken at its header's word."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: its type ("BF16", "F32", …) and shape, and the bytes of the data that hold it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Tensor]:
    """Name → tensor. Raises ModelDamagedError when the file is cut off or is none, OSError when it is not readable."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(size - 8, HEADER_MAX):
            raise ModelDamagedError(f"{path.name}: not a whole safetensors file ({size} bytes)")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ModelDamagedError(f"{path.name}: its header is not valid JSON") from error
    if not isinstance(header, dict):
        raise ModelDamagedError(f"{path.name}: its header names no tensors")
    tensors = {name: _tensor(path, name, value) for name, value in header.items() if name != "__metadata__"}
    _require_whole(path, tensors, size - 8 - length)
    return tensors


def _tensor(path: Path, name: str, value: Any) -> Tensor:
    try:
        begin, end = value["data_offsets"]
        tensor = Tensor(str(value["dtype"]), tuple(value["shape"]), begin, end)
        whole = all(type(number) is int and number >= 0 for number in (*tensor.shape, begin, end))
        unit = BYTES.get(tensor.dtype)
        fits = whole and (unit is None or unit * math.prod(tensor.shape) == end - begin)
    except (KeyError, TypeError, ValueError):
        tensor, fits = None, False
    if tensor is None or not fits:
        raise ModelDamagedError(f"{path.name}: its header says of {name} what cannot be")
    return tensor


def _require_whole(path: Path, tensors: dict[str, Tensor], data: int) -> None:
    """The tensors fill the `data` bytes behind the header, without gaps."""
    place = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != place:
            raise ModelDamagedError(f"{path.name}: its header places {name} at {tensor.begin}, expected {place}")
        place = tensor.end
    if place != data:
        header = path.stat().st_size - data
        raise ModelDamagedError(f"{path.name}: {header + data} bytes where its header says {header + place}")
