"""Waiting in tests: poll with a deadline, never a fixed sleep."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, seconds: float = 120.0) -> T:
    """The first true value of `condition`. Fails after `seconds`, naming what did not happen.

    The limit is for a machine that is busy with something else; a quick one never comes near it.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found
