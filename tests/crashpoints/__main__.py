"""`python -m tests.crashpoints [POINT …]`: a death at every point of the toy study, or at those that are named.

A name may be a pattern: `python -m tests.crashpoints 'runner * event *'`. `--list` only says what there is.
"""

import argparse
import shutil
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path

from tests.crashpoints import toy
from tests.crashpoints.sweep import SIDE_BY_SIDE, sample, sweep
from tests.crashpoints.trial import Point, Trial, run_calmly

EVERY = 10  # trials a line of progress


def main() -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints", description=__doc__)
    parser.add_argument("points", nargs="*", help="names or patterns; without one all points")
    parser.add_argument("--list", action="store_true", help="say the names of all points")
    parser.add_argument("--sample", type=int, metavar="SEED", help="one point of each kind")
    parser.add_argument("--pools", type=int, default=SIDE_BY_SIDE, help="how many at once")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="jsm-crashpoints-"))
    code = run(given, folder)
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def run(given: argparse.Namespace, folder: Path) -> int:
    """What the command line says. Returns the exit code."""
    began = time.monotonic()
    (folder / "study").mkdir()
    study = toy.make(folder / "study")
    calm = run_calmly(study, folder / "calm")
    chosen = choose(calm.points, given.points)
    chosen = chosen if given.sample is None else sample(chosen, given.sample)
    if given.list:
        print("\n".join(point.name for point in chosen))
        return 0
    print(f"crashpoints: {len(chosen)} points, {given.pools} pools at once", flush=True)
    trials: list[Trial] = []
    for trial in sweep(study, calm, chosen, folder, given.pools):
        trials.append(trial)
        tell(trials, len(chosen), time.monotonic() - began)
    return conclude(trials, time.monotonic() - began)


def choose(points: list[Point], patterns: list[str]) -> list[Point]:
    """The points that are named; all without a name. Ends the program where a name is nobody's."""
    unknown = [pattern for pattern in patterns if not any(is_named(point, pattern) for point in points)]
    if unknown:
        sys.exit(f"no point is called {unknown[0]!r}; --list says all names")
    return [point for point in points if not patterns or any(is_named(point, pattern) for pattern in patterns)]


def is_named(point: Point, pattern: str) -> bool:
    """Whether a pattern, or the name itself, which may hold a `*`, names the point."""
    return point.name == pattern or fnmatchcase(point.name, pattern)


def tell(trials: list[Trial], total: int, seconds: float) -> None:
    """Progress, and at once what did not hold."""
    last, done = trials[-1], len(trials)
    if last.wrong:
        print(f"NOT HELD {last.point.name}: {'; '.join(last.wrong)[:1000]}\n    see {last.home}", flush=True)
    if done % EVERY == 0 or done == total:
        left = seconds / done * (total - done)
        print(f"{done}/{total}, {sum(not t.wrong for t in trials)} held, {minutes(left)} left", flush=True)


def conclude(trials: list[Trial], seconds: float) -> int:
    """The last words. Returns the exit code."""
    lost = [trial for trial in trials if trial.wrong]
    for trial in lost:
        print(f"not held: {trial.point.name}\n    its logs: {trial.home}")
        print(f"    again:    python -m tests.crashpoints '{trial.point.name}'")
    print(f"crashpoints: {len(trials)} points, {len(trials) - len(lost)} held ({minutes(seconds)})")
    return 1 if lost else 0


def minutes(seconds: float) -> str:
    """ "19 min 40 s"."""
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


if __name__ == "__main__":
    raise SystemExit(main())
