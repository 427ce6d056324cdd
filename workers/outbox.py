"""Complete results that the api does not have yet, on the worker's disk, where no crash or outage loses them.

<home>/outbox/<attempt>/   a result's files; it got here by one rename, so `result.json` is in it and whole
<home>/work/<attempt>/     an attempt under way: `inputs/`, and `out/`, which becomes the former
"""

import contextlib
import shutil
from pathlib import Path

from jsm_queue.crashpoints import around
from jsm_queue.protocol import ResultRequest
from workers.runner import RESULT


class Outbox:
    """The folder `outbox` of a worker's home, and `work` beside it."""

    def __init__(self, home: Path) -> None:
        self.work = home / "work"
        self.root = home / "outbox"
        self.root.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)

    def recover(self) -> None:
        """After a crash: what was finished is kept, what was not is removed, what was being removed goes."""
        for folder in self.root.iterdir():
            if not (folder / RESULT).exists():
                self.drop(folder.name)
        for folder in self.work.iterdir():
            if self.is_finished(folder.name):
                self.put(folder.name)
            else:
                self.clear(folder.name)

    def begin(self, attempt: str) -> Path:
        """An empty folder for an attempt, with `out` in it."""
        self.clear(attempt)
        folder = self.work / attempt
        (folder / "out").mkdir(parents=True)
        return folder

    def is_finished(self, attempt: str) -> bool:
        """Whether an attempt in `work` has its whole result."""
        return (self.work / attempt / "out" / RESULT).exists()

    def put(self, attempt: str) -> None:
        """The attempt's result is complete: it moves here, its inputs are removed. Raises OSError; do it again then."""
        target = self.root / attempt
        if not target.exists():
            with around("rename outbox"):
                (self.work / attempt / "out").rename(target)
        self.clear(attempt)

    def clear(self, attempt: str) -> None:
        """Remove what an attempt left in `work`."""
        shutil.rmtree(self.work / attempt, ignore_errors=True)

    def attempts(self) -> list[str]:
        """The attempts whose results wait, the oldest first."""
        folders = [folder for folder in self.root.iterdir() if (folder / RESULT).exists()]
        return [folder.name for folder in sorted(folders, key=lambda f: (f.stat().st_mtime, f.name))]

    def read(self, attempt: str) -> ResultRequest:
        """A waiting result. Raises ValueError when its file is damaged."""
        return ResultRequest.model_validate_json((self.root / attempt / RESULT).read_bytes())

    def drop(self, attempt: str) -> None:
        """The api has it, or nobody wants it:

        the marker goes first, so that no half-removed result is ever sent.
        """
        with contextlib.suppress(FileNotFoundError):
            (self.root / attempt / RESULT).unlink()
        shutil.rmtree(self.root / attempt, ignore_errors=True)


def count_results(home: Path) -> int:
    """How many results wait in a worker's home, those of a death just after a job's end too."""
    return sum(len(list(home.glob(where))) for where in (f"outbox/*/{RESULT}", f"work/*/out/{RESULT}"))
