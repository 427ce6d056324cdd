"""What to remove from a cache. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SHARE = 0.5  # of the space that is free or the cache's, where no limit is set


@dataclass(frozen=True)
class Entry:
    """Something that can be removed: a file or a folder, its size in bytes, when it was last used.

    `in_use`: it stays, whatever is needed.
    """

    path: Path
    size: int
    used_at: float
    in_use: bool = False


def evictions(entries: Iterable[Entry], limit: int) -> list[Path]:
    """What to remove, the longest unused first, so that the rest takes at most `limit` bytes."""
    oldest = sorted(entries, key=lambda entry: (entry.used_at, entry.path))
    excess = sum(entry.size for entry in oldest) - limit
    removed: list[Path] = []
    for entry in oldest:
        if excess <= 0:
            break
        if entry.in_use:
            continue
        removed.append(entry.path)
        excess -= entry.size
    return removed


def room(held: int, free: int, limit: int) -> int:
    """Bytes that a cache may take which takes `held` now, on a disk with `free` more; `limit` 0: its share."""
    return limit or int((held + free) * SHARE)
