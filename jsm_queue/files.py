"""Files that a reader never sees half of, also after a power cut."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from jsm_queue.crashpoints import around


def write_whole(path: Path, content: str | bytes) -> Path:
    """A file (text as UTF-8), whole or not there."""
    return _write(path, content, 0o666)


def write_secret(path: Path, text: str) -> Path:
    """A text file that only its owner can read, from its first byte on."""
    return _write(path, text, 0o600)


def save_whole(path: Path, save: Callable[[Path], object]) -> Path:
    """The same of a file that `save` writes at the path that it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}.part")  # its own name: two may write the same file
    try:
        save(partial)
        return publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def publish(partial: Path, path: Path) -> Path:
    """Give a file that is complete, and closed, the name by which readers find it; what had that name is replaced.

    Its bytes are on the disk before it has the name, the name before this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as file:  # for writing: Windows flushes no file that was opened for reading
        os.fsync(file.fileno())
    with around(f"rename {path.name}"):
        partial.replace(path)
    _sync_folder(path.parent)
    return path


def _write(path: Path, content: str | bytes, mode: int) -> Path:
    def save(partial: Path) -> None:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)

    return save_whole(path, save)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows opens no folders, some network file systems flush none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
