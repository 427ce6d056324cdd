"""What we take from a model hub: which files of a repository, and how we know that they are right.

The hub lists each file with its git hash (sha1 of "blob <size>\\0" and the content), and large ones with their sha256.
"""

import hashlib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

ALLOWED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
"""Only what a safetensors model needs, never pickled weights or code. No folders: they hold other forms of a model."""

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
PIECE = 2**20  # bytes


class HubFile(BaseModel):
    """One file of a repository at a commit. `oid`: its git hash; `sha256` where the hub tells it."""

    path: str
    size: int = Field(ge=0)
    oid: str = ""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None

    @property
    def etag(self) -> str:
        """Names the content."""
        return self.sha256 or self.oid


def is_repository(name: str) -> bool:
    """May a repository be called so? `owner/name`, or the name alone; ".." and "--" are none's."""
    return REPOSITORY.fullmatch(name) is not None and ".." not in name and "--" not in name


def is_allowed(path: str) -> bool:
    """Is this a file that we take?"""
    return NAME.fullmatch(path) is not None and any(fnmatchcase(path, pattern) for pattern in ALLOWED)


def listed(entries: Iterable[Any]) -> list[HubFile]:
    """The files that we take, of a hub's list of a repository's tree. Raises ValueError for what is no such list."""
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or "path" not in entry:
            raise ValueError("the hub's list of files has another form")
        if entry.get("type") == "file" and is_allowed(entry["path"]):
            lfs = entry.get("lfs") or {}
            size = int(lfs.get("size", entry.get("size", -1)))
            found.append(HubFile(path=entry["path"], size=size, oid=entry.get("oid", ""), sha256=lfs.get("oid")))
    return found


def as_hub_lists(file: HubFile) -> dict[str, Any]:
    """The file as a hub lists it."""
    lfs = {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 0}} if file.sha256 else {}
    return {"type": "file", "path": file.path, "size": file.size, "oid": file.oid, **lfs}


def is_right(path: Path, file: HubFile) -> bool:
    """Are these the bytes that the hub lists? A file without any hash is known by its size alone."""
    if path.stat().st_size != file.size:
        return False
    if file.sha256:
        digest, wanted = hashlib.sha256(), file.sha256
    elif re.fullmatch(r"[0-9a-f]{40}", file.oid):
        digest, wanted = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False), file.oid
    else:
        return True
    with path.open("rb") as source:
        while piece := source.read(PIECE):
            digest.update(piece)
    return digest.hexdigest() == wanted
