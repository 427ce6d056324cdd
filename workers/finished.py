"""The finished items of a job that works through a list, and the checkpoint that they make.

The file has a line of JSON that says what follows, then one an item, with the attempt that made it.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from workers.work import Work, saving

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of the file. One of another format is not read."""

Item = TypeVar("Item")


class Finished(Generic[Item]):
    """Items by their key. `form`: a pydantic model or a NamedTuple; `seconds` of work that they took, in all attempts.

    Begins with those of `work.resume`, or with none where that cannot be used.
    """

    def __init__(self, work: Work, form: type[Item]) -> None:
        self.seconds = 0.0
        self._work, self._name = work, form.__name__
        self._form: TypeAdapter[Item] = TypeAdapter(form)
        self._items: dict[str, Item] = {}
        self._lines: list[bytes] = []
        if work.resume:
            try:
                self._read(work.resume.read_bytes())
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("begins at the start: the checkpoint cannot be used: %s", error)
                work.resume.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: str) -> Item | None:
        """The item of that key, where it is finished."""
        return self._items.get(key)

    def add(self, key: str, item: Item) -> None:
        """This item is finished now."""
        self._items[key] = item
        value = json.loads(self._form.dump_json(item))
        self._lines.append(_line({"key": key, "attempt": self._work.attempt, "item": value}))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """The block is work: its time counts."""
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def tell(self, total: int, metrics: dict[str, float]) -> None:
        """A safe point: so many of `total` are finished."""
        self._work.checkpoint(len(self), lambda: saving(self._content()))
        self._work.progress(len(self), total, metrics)

    def _content(self) -> bytes:
        head = {"format": FORMAT, "items": self._name, "count": len(self), "seconds": self.seconds}
        return _line(head) + b"".join(self._lines)

    def _read(self, content: bytes) -> None:
        head, *lines = content.removesuffix(b"\n").split(b"\n")
        said = json.loads(head)
        if (said["format"], said["items"], said["count"]) != (FORMAT, self._name, len(lines)):
            raise ValueError(f"it says {head[:200]!r} of {len(lines)} lines")
        parsed = [json.loads(line) for line in lines]
        items = {str(each["key"]): self._form.validate_json(json.dumps(each["item"])) for each in parsed}
        self._items, self.seconds = items, float(said["seconds"])
        self._lines = [line + b"\n" for line in lines]


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
