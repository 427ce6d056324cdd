"""Bugs to plant in the real code: tables of them by name, and what plants have in common."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

Plant = Callable[[], AbstractContextManager[Any]]
"""Returns a context manager under which the bug is in force."""

Written = Callable[[], Iterator[None]]
"""A plant as it is written: a function that yields while the bug is in force."""


def into(bugs: dict[str, Plant]) -> Callable[[Written], Written]:
    """A decorator that enters a plant into the table, under its function's name in words."""

    def enter(plant: Written) -> Written:
        bugs[plant.__name__.replace("_", " ")] = contextmanager(plant)
        return plant

    return enter


def nothing(*_given: Any, **_named: Any) -> None:
    """What replaces a function that is forgotten."""
