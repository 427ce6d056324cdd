"""Files that a reader never sees half of."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> Path:
    """A text file, whole or not there, also after a power cut."""
    return _write(path, text, 0o666)


def write_secret(path: Path, text: str) -> Path:
    """A text file that only its owner can read, from its first byte on."""
    return _write(path, text, 0o600)


def _write(path: Path, text: str, mode: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)  # what a crash left may have another mode
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return partial.replace(path)
