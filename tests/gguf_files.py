"""Small GGUF files for tests, written without any library: the bytes are what the format says."""

import struct
from pathlib import Path

Value = str | int | list[str]

VALUES: dict[str, Value] = {
    "general.architecture": "llama",
    "tokenizer.ggml.tokens": ["a", "b"],
    "tokenizer.chat_template": "{{ messages }}",
}
"""What a base model holds at least."""

F32 = 0


def write(path: Path, tensors: tuple[str, ...] = ("token_embd.weight",), **changes: Value | None) -> Path:
    """A GGUF file with a tensor of 4 × 2 numbers for each name. `changes`: metadata, `__` for a dot, None: left out."""
    values = VALUES | {name.replace("__", "."): value for name, value in changes.items()}
    kept = {name: value for name, value in values.items() if value is not None}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(kept))
    head += b"".join(_text(name) + _value(value) for name, value in kept.items())
    for place, name in enumerate(tensors):
        head += _text(name) + struct.pack("<IQQIQ", 2, 4, 2, F32, 32 * place)
    path.write_bytes(head + bytes(-len(head) % 32 + 32 * len(tensors)))
    return path


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
