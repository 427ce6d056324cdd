"""Many trials, some side by side."""

import random
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path

from tests import stores
from tests.crashpoints.toy import Toy
from tests.crashpoints.trial import Calm, Point, Trial, try_point

SIDE_BY_SIDE = 3
"""Pools at once on two cores: one of them mostly waits."""


def sweep(toy: Toy, calm: Calm, points: Sequence[Point], folder: Path, pools: int = SIDE_BY_SIDE) -> Iterator[Trial]:
    """A trial a point, as they come. What a pool wrote is kept in `folder` where its point did not hold."""
    if any(point.database == "postgres" for point in points):
        stores.postgres()  # one thread starts it
    with ThreadPoolExecutor(pools) as threads:
        tasks = [
            threads.submit(
                try_point, toy, calm, point, folder / f"{i:03}-{re.sub(r'[^a-z0-9]+', '-', point.name.lower())}"
            )
            for i, point in enumerate(points, 1)
        ]
        for task in as_completed(tasks):
            yield task.result()


def sample(points: Sequence[Point], seed: int) -> list[Point]:
    """One point of each group, so every process and every kind of point."""
    choose = random.Random(seed)
    grouped = groupby(sorted(points, key=lambda point: (point.group, point.name)), key=lambda point: point.group)
    return [choose.choice(list(group)) for _, group in grouped]
