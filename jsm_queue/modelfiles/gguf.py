"""The header of a GGUF file: its metadata and tensors, and whether the file is whole.

magic, version, how many tensors, how many values; the values (key, type, value); the tensors (name, dimensions, type,
offset); padding; the tensors' data, each at its offset.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsm_queue.errors import ChatTemplateError, ModelDamagedError, ModelUnsupportedError

HEADER_MAX = 64 * 2**20
"""Bytes that hold any file's header; a vocabulary of 128 000 tokens takes about 10 MB."""

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""`general.architecture` of the bases that can be unpacked and exported again (Mistral's is "llama")."""

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a metadata value → its `struct` form."""
TEXT, ARRAY = 8, 9

BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84)},
    **{11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 16: (256, 66), 17: (256, 74), 18: (256, 98)},
    **{19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4)},
    **{27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17)},
}
"""Type of a tensor → (numbers in a block, bytes of a block). Of others only the offset is checked."""


@dataclass(frozen=True)
class Header:
    """`values`: metadata; of a list only how many it holds. `tensors`: name → dimensions, the fastest first."""

    values: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]


def check(path: Path, template: bool) -> None:
    """Is this a base model that can be unpacked? `template`: the spec gives a chat template.

    Raises ModelError of the situation: damaged, not supported, without a chat template.
    """
    header = read_header(path)
    architecture = header.values.get("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelUnsupportedError(f"{path.name}: no GGUF export for {architecture!r}", f"Supported are {known}")
    if parts := header.values.get("split.count", 0):
        raise ModelUnsupportedError(f"{path.name}: one of {parts} parts of a model", "Merge them with llama-gguf-split")
    if "rope_freqs.weight" in header.tensors:
        raise ModelUnsupportedError(
            f"{path.name}: its rotary frequencies are scaled (Llama 3.1 and later), which transformers would ignore",
            "Give the base in its own format",
        )
    if not header.values.get("tokenizer.ggml.tokens"):
        raise ModelDamagedError(f"{path.name}: it holds no tokenizer", "Give a GGUF file of a whole model")
    if not template and not header.values.get("tokenizer.chat_template"):
        raise ChatTemplateError(f"{path.name}: it holds no chat template")


def positions(path: Path) -> int | None:
    """Tokens of the longest text that the model was made for; None where its header does not say. Raises as below."""
    values = read_header(path).values
    most = values.get(f"{values.get('general.architecture')}.context_length")
    return most if type(most) is int and most > 0 else None


def read_header(path: Path) -> Header:
    """Raises ModelDamagedError when the file is cut off or is none, OSError when it cannot be read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        cursor = _Cursor(file.read(HEADER_MAX))
    if cursor.data[:4] != b"GGUF":
        raise ModelDamagedError(f"{path.name}: not a GGUF file ({size} bytes)", "Give a .gguf file of a model")
    try:
        return _parse(path, cursor, size)
    except (struct.error, EOFError) as error:
        what = "is larger than any model's" if size > HEADER_MAX else "is cut off or damaged"
        raise ModelDamagedError(f"{path.name}: its header {what} ({size} bytes)") from error
    except UnicodeDecodeError as error:
        raise ModelDamagedError(f"{path.name}: its header holds text that is not UTF-8") from error


def _parse(path: Path, cursor: "_Cursor", size: int) -> Header:
    _, version, tensor_count, value_count = cursor.take("IIQQ")
    if version not in (2, 3):
        raise ModelDamagedError(f"{path.name}: GGUF version {version} is not known", "Convert the model again")
    values = dict(cursor.pair() for _ in range(value_count))
    tensors, ends = {}, [0]
    for _ in range(tensor_count):
        name, dimensions, kind, offset = cursor.tensor()
        numbers, byte_count = BLOCKS.get(kind, (1, 0))
        tensors[name] = dimensions
        ends.append(offset + math.prod(dimensions) // numbers * byte_count)
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise ModelDamagedError(f"{path.name}: its alignment is {alignment!r}")
    wanted = math.ceil(cursor.at / alignment) * alignment + max(ends)
    if not tensors or wanted > size:
        raise ModelDamagedError(
            f"{path.name}: {size} bytes where its header says {wanted if tensors else 'no tensors'}"
        )
    return Header(values, tensors)


class _Cursor:
    """Reads a header's parts one after the other.

    Raises struct.error or EOFError behind its end, and where a
    number names no type: what follows has no known length then.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found

    def skip(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise EOFError
        self.at += count
        return self.data[self.at - count : self.at]

    def text(self) -> str:
        return self.skip(*self.take("Q")).decode("utf-8")

    def pair(self) -> tuple[str, Any]:
        key = self.text()
        (kind,) = self.take("I")
        if kind == TEXT:
            return key, self.text()
        if kind == ARRAY:
            return key, self._pass_list()
        if kind not in SCALARS:
            raise EOFError
        return key, self.take(SCALARS[kind])[0]

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text()
        (rank,) = self.take("I")
        if rank > 4:
            raise EOFError
        dimensions = self.take(f"{rank}Q")
        kind, offset = self.take("IQ")
        return name, dimensions, kind, offset

    def _pass_list(self) -> int:
        kind, count = self.take("IQ")
        if kind == TEXT:
            for _ in range(count):
                self.skip(*self.take("Q"))
        elif kind in SCALARS:
            self.skip(count * struct.calcsize(f"<{SCALARS[kind]}"))
        else:
            raise EOFError
        return count
