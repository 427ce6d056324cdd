"""What both halves of resolving share: the files to upload, and what happens to something missing."""

from collections.abc import Callable
from pathlib import Path

from jsm_queue.canonical import file_hash
from jsm_queue.errors import JsmError

Missing = Callable[[JsmError], None]
"""what happens to something that is not there: raise it, or note it and go on with a placeholder"""


def add(path: Path, files: dict[str, Path]) -> str:
    """Note a local file for upload. Returns its sha256."""
    sha = file_hash(path)
    files[sha] = path
    return sha
