"""The owner's word that a worker shall give the machine back: a file in the worker's home, which needs no network.

<home>/yield.json       {"until": seconds of the clock, or null}; written by `jsm worker yield`, read by the worker
<home>/courtesy.json    {"slots": {"0": {"wish", "why"}}}; written by the worker: how it stands to its owner
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsm_queue.files import write_whole

LONGEST_S = 3650 * 86_400.0  # of a time that is said; what is longer is as good as for ever


@dataclass(frozen=True)
class Yield:
    """Give way until then, in seconds of the clock; None: until the owner says so."""

    until: float | None

    def holds(self, clock: float) -> bool:
        """Whether it still counts."""
        return self.until is None or clock < self.until


def ask(home: Path, seconds: float | None) -> Yield:
    """Tell the worker of that home to give way from now on, for so long or until `end`."""
    until = None if seconds is None else time.time() + seconds
    write_whole(home / "yield.json", json.dumps({"until": until}))
    return Yield(until)


def end(home: Path) -> bool:
    """Let it work again. Returns whether it had been told to give way."""
    held = read(home) is not None
    (home / "yield.json").unlink(missing_ok=True)
    return held


def read(home: Path) -> Yield | None:
    """What the owner asked for, if it still counts. A file that says nothing sensible counts until it is removed."""
    try:
        until = json.loads((home / "yield.json").read_text(encoding="utf-8"))["until"]
        asked = Yield(float(until) if until is not None and float(until) < time.time() + LONGEST_S else None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        asked = Yield(None)
    return asked if asked.holds(time.time()) else None


def note(home: Path, slots: dict[str, dict[str, Any]]) -> None:
    """The worker's part: how each of its slots stands to the owner."""
    write_whole(home / "courtesy.json", json.dumps({"slots": slots}))


def noted(home: Path) -> dict[str, dict[str, Any]]:
    """The same, for people. Empty where no worker has written it."""
    try:
        return dict(json.loads((home / "courtesy.json").read_text(encoding="utf-8"))["slots"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
