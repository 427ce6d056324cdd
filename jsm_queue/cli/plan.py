"""`jsm plan`: the job grid of a spec, without an api and without downloading anything."""

from collections import Counter
from pathlib import Path
from typing import Any

from jsm_queue import planner
from jsm_queue.cli import console, resolve
from jsm_queue.kinds import KINDS
from jsm_queue.spec import StudySpec, read_spec

ASSUMED = "assumed: n* is the largest size and the first trained base is chosen; the verdicts may choose otherwise"


def run(path: Path, dry_run: bool, as_json: bool) -> None:
    """Prints the grid. With `dry_run` missing files and hub revisions get placeholders instead of errors."""
    spec = read_spec(path)
    warnings: list[str] = []
    if dry_run:
        resolved, warnings = resolve.sketch(spec, path.parent)
    else:
        resolved = resolve.resolve(spec, path.parent)
    grid = summary(spec, planner.preview(spec, resolved.inputs)) | {"warnings": warnings}
    if as_json:
        console.print_json(grid)
        return
    for warning in warnings:
        console.err.print(f"[yellow]warning:[/] {console.escape(warning)}", soft_wrap=True)
    show(grid)


def summary(spec: StudySpec, wanted: list[planner.Wanted]) -> dict[str, Any]:
    """The grid as JSON: per stage its cells and how many jobs of each kind it adds to the stages before it."""
    stages, seen = [], set()
    for stage in ("scale", "bases", "quantization"):
        listed = [w for w in wanted if w.stage == stage]
        if not listed:
            continue
        new = {w.job.id: w.job.kind for w in listed if w.job.id not in seen}
        seen |= new.keys()
        cells = list(dict.fromkeys(w.cell.label for w in listed if w.cell))
        stages.append({"stage": stage, "cells": cells, "jobs": dict(Counter(new.values())), "total": len(new)})
    return {"study": spec.name, "total": len(seen), "stages": stages, "assumed": ASSUMED, "minutes": None}


def show(grid: dict[str, Any]) -> None:
    """The grid as a table: kinds of job across, stages down."""
    kinds = [kind for kind in KINDS if any(kind in stage["jobs"] for stage in grid["stages"])]
    console.out.print(f"[bold]PLAN {grid['study']}[/]   {grid['total']} jobs, minutes: unknown until first jobs ran\n")
    rows = [_row(stage["stage"], str(len(stage["cells"])), stage, kinds) for stage in grid["stages"]]
    total = {"jobs": dict(sum((Counter(s["jobs"]) for s in grid["stages"]), Counter())), "total": grid["total"]}
    headings = {"stage": "left", "cells": "right"} | dict.fromkeys([*kinds, "jobs"], "right")
    console.print_table(headings, [*rows, _row("all", "", total, kinds)], "no jobs")
    for stage in grid["stages"]:
        console.out.print(f"\n[bold]{stage['stage']}[/]")
        for line in cell_lines(stage["cells"]):
            console.out.print(f"  {console.escape(line)}")
    console.out.print(f"\n{grid['assumed']}")


def _row(name: str, cells: str, stage: dict[str, Any], kinds: list[str]) -> list[str]:
    return [name, cells, *(str(stage["jobs"].get(kind, "·")) for kind in kinds), str(stage["total"])]


def cell_lines(labels: list[str]) -> list[str]:
    """Cell labels in a few lines, one a base: what varies is listed behind it."""
    by_base: dict[str, list[str]] = {}
    for label in labels:
        base, _, rest = label.partition(" ")
        by_base.setdefault(base, []).append(rest)
    return [f"{base}: {', '.join(_compact(rests))}" for base, rests in by_base.items()]


def _compact(rests: list[str]) -> list[str]:
    """ "n=125 seed=1", "n=125 seed=2" → "n=125 × seeds 1, 2"; other labels stay."""
    groups: dict[tuple[str, str], list[str]] = {}
    for rest in rests:
        head, _, tail = rest.partition(" seed=")
        seed, _, fmt = tail.partition(" ")
        groups.setdefault((head, fmt), []).append(seed)
    return [_words(head, fmt, [seed for seed in seeds if seed]) for (head, fmt), seeds in groups.items()]


def _words(head: str, fmt: str, seeds: list[str]) -> str:
    seeded = f" × seed{'s' if len(seeds) > 1 else ''} {' '.join(seeds)}" if seeds else ""
    return f"{head}{seeded}{' ' + fmt if fmt else ''}"
