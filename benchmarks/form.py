"""The one form of all benchmarks: a table on the terminal, and the same rows as benchmarks/results/NAME.json.

`make bench-NAME` runs benchmarks/NAME.py; its results are committed with the change that they measure.
"""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from workers import hardware

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One measured figure.

    `bound`: what `value` must not exceed, in the same unit, or with `at_least` not fall below. `reference`: whose
    figure `reference_value` is, taken in the same run.
    """

    case: str
    value: float
    unit: str
    bound: float | None = None
    reference: str | None = None
    reference_value: float | None = None
    at_least: bool = False

    @property
    def ratio(self) -> float | None:
        """The value over the reference's."""
        return self.value / self.reference_value if self.reference_value else None

    @property
    def ok(self) -> bool | None:
        """Whether the bound holds; None without one."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def report(name: str, rows: Sequence[Row]) -> int:
    """Print the rows and write them. Returns the exit status: 1 when a bound does not hold."""
    machine = describe_machine()
    _print(name, machine, rows)
    found = {
        "name": name,
        "commit": commit(),
        "machine": machine,
        "command": f"make bench-{name.replace('_', '-')}",
        "rows": [_as_json(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(found, ensure_ascii=False, indent=2)
    (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    return 1 if any(row.ok is False for row in rows) else 0


def _as_json(row: Row) -> dict[str, object]:
    given = asdict(row)
    del given["at_least"]
    return given | {"ratio": row.ratio, "ok": row.ok}


def describe_machine() -> str:
    """The GPUs or the CPU, the cores and the memory that timings depend on, and the versions of Python and torch."""
    gpus = hardware.list_gpus()
    found = hardware.describe(gpus)
    parts = [found.hardware_class, f"{found.cores} cores" if gpus else "", f"{found.memory_bytes / 2**30:.0f} GiB"]
    versions = f"{platform.system()}, Python {platform.python_version()}, torch {found.packages.get('torch', 'none')}"
    return ", ".join([*filter(None, parts), versions])


def commit() -> str:
    """The commit that is measured, "+" when files differ from it. BENCH_COMMIT names it where git cannot."""
    if named := os.environ.get("BENCH_COMMIT"):
        return named
    head, changed = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--", ":!benchmarks/results")
    return f"{head}+" if changed else head


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _print(name: str, machine: str, rows: Sequence[Row]) -> None:
    table = Table("case", "value", "unit", "bound", "reference", "ratio", "", title=f"{name} on {machine}")
    for row in rows:
        bound = "" if row.bound is None else f"{'≥' if row.at_least else '≤'} {row.bound:g}"
        reference = "" if row.reference is None else f"{row.reference}: {row.reference_value:.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        table.add_row(row.case, f"{row.value:.4g}", row.unit, bound, reference, ratio, _MARKS[row.ok])
    Console(width=None if os.isatty(1) else 160).print(table)


_MARKS = {None: "", True: "✔", False: "✘"}
