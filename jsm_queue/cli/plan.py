"""`jsm plan`: the job grid of a spec, without an api and without downloading anything."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from jsm_queue import costs, planner, processes
from jsm_queue.cli import client, console, probe, resolve
from jsm_queue.errors import JsmError
from jsm_queue.kinds import KINDS, BaseFacts
from jsm_queue.settings import settings
from jsm_queue.spec import StudySpec, read_spec

LAST = "quantization"  # its cells are formats: a training that it needs first is no cell


def run(path: Path, dry_run: bool, as_json: bool) -> None:
    """Prints the grid. With `dry_run` missing files and hub revisions get placeholders instead of errors."""
    spec = read_spec(path)
    warnings: list[str] = []
    if dry_run:
        resolved, warnings = resolve.sketch(spec, path.parent)
    else:
        resolved = resolve.resolve(spec, path.parent)
    wanted = planner.preview(spec, resolved.inputs)
    pool = ask_pool()
    machine = machine_for(spec, resolved.inputs.facts, pool)
    estimate = costs.estimate(wanted, spec, resolved.inputs.facts, machine, pool.learned)
    grid = summary(spec, wanted) | {"seconds": asdict(estimate), "machine": machine.name, "warnings": warnings}
    if as_json:
        console.print_json(grid)
        return
    for warning in warnings:
        console.err.print(f"[yellow]warning:[/] {console.escape(warning)}")
    show(grid, about(estimate, machine))


@dataclass(frozen=True)
class PoolFacts:
    """The pool's GPUs by name and what it learnt; nothing where no api answers."""

    gpus: tuple[str, ...] = ()
    learned: costs.Costs = costs.PRIOR


def ask_pool() -> PoolFacts:
    """What the running api tells of its pool. A plan needs none."""
    try:
        with client.connect() as api:
            answer = client.call(api, "GET", "/v1/costs")
    except JsmError:
        return PoolFacts()
    gpus = [each["hardware"] for each in answer["speeds"] if each["kind"] == "gpu" for _ in range(each["slots"])]
    return PoolFacts(tuple(gpus), costs.learn(costs.Sample(**sample) for sample in answer["samples"]))


def machine_for(spec: StudySpec, facts: Mapping[str, BaseFacts], pool: PoolFacts | None = None) -> costs.Machine:
    """What the time is estimated for: the pool's GPUs, or this machine's; one that is assumed where a base needs it;
    else this machine's CPU slots.
    """
    here = costs.cpu_slots(processes.cores(), psutil.virtual_memory().total)
    gpus = (pool.gpus if pool else ()) or tuple(probe.gpus())
    return costs.machine_for(spec, facts, settings().cpu_slots or here, gpus)


def about(estimate: costs.Estimate, machine: costs.Machine) -> str:
    """ "about 6 min (4–7) on 2 CPU slots"; from two hours on in hours."""
    unit, scale = ("h", 3600) if estimate.middle >= 7200 else ("min", 60)
    low, middle, high = (max(1, round(each / scale)) for each in (estimate.low, estimate.middle, estimate.high))
    return f"about {middle} {unit} ({low}–{high}) on {machine.name}"


def summary(spec: StudySpec, wanted: list[planner.Wanted]) -> dict[str, Any]:
    """The grid as JSON: per stage its cells, and how many jobs of each kind it adds to those before it."""
    stages, seen = [], set()
    for stage in ("scale", "bases", "quantization"):
        listed = [w for w in wanted if w.stage == stage]
        if not listed:
            continue
        new = {w.job.id: w.job.kind for w in listed if w.job.id not in seen}
        seen |= new.keys()
        cells = list(dict.fromkeys(w.cell.label for w in listed if w.cell and (w.cell.format or stage != LAST)))
        stages.append({"stage": stage, "cells": cells, "jobs": dict(Counter(new.values())), "total": len(new)})
    return {"study": spec.name, "total": len(seen), "stages": stages, "assumed": assumed(spec)}


def assumed(spec: StudySpec) -> str:
    """What the grid takes for granted because no verdict says it yet; "" when the spec says it all."""
    stages = spec.stages
    guesses = ["n* is the largest size"] if stages.scale and (stages.bases or stages.quantization) else []
    if stages.bases and stages.quantization:
        keep = stages.quantization.keep
        guesses.append("the first base is chosen" if keep == 1 else f"the first {keep} bases are chosen")
    return f"assumed: {' and '.join(guesses)}; the verdicts may choose otherwise" if guesses else ""


def show(grid: dict[str, Any], time: str) -> None:
    """The grid as a table: stages across, kinds of job down."""
    stages = grid["stages"]
    console.out.print(f"[bold]PLAN {grid['study']}[/]   {grid['total']} jobs, {time}\n")
    rows = [["cells", *(str(len(stage["cells"])) for stage in stages), ""]]
    for kind in KINDS:
        counts = [stage["jobs"].get(kind, 0) for stage in stages]
        if any(counts):
            rows.append([kind, *(str(count or "·") for count in counts), str(sum(counts))])
    rows.append(["jobs", *(str(stage["total"]) for stage in stages), str(grid["total"])])
    headings = [*(stage["stage"] for stage in stages), "all"]
    console.print_table({"kind": "left"} | dict.fromkeys(headings, "right"), rows, "no jobs")
    for stage in stages:
        console.out.print(f"\n[bold]{stage['stage']}[/]")
        for line in cell_lines(stage["cells"]):
            console.out.print(f"  {console.escape(line)}")
    if grid["assumed"]:
        console.out.print(f"\n{grid['assumed']}")


def cell_lines(labels: list[str]) -> list[str]:
    """Cell labels in a few lines, one a base: what varies is listed behind it."""
    by_base: dict[str, list[str]] = {}
    for label in labels:
        base, _, rest = label.partition(" ")
        by_base.setdefault(base, []).append(rest)
    return [f"{base}: {', '.join(_compact(rests))}" for base, rests in by_base.items()]


def _compact(rests: list[str]) -> list[str]:
    """ "n=125 seed=1", "n=125 seed=2", "n=250 seed=1", … → "n=125 250 × seeds 1 2"; formats likewise."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for rest in rests:
        size, _, fmt = rest.partition(" ")
        seed = ""
        if fmt.startswith("seed="):
            seed, _, fmt = fmt.removeprefix("seed=").partition(" ")
        seeds.setdefault((size, fmt), []).append(seed)
    formats: dict[tuple[str, str], list[str]] = {}
    for (size, fmt), found in seeds.items():
        formats.setdefault((size, " ".join(found)), []).append(fmt)
    sizes: dict[tuple[str, str], list[str]] = {}
    for (size, found), fmts in formats.items():
        sizes.setdefault((found, " ".join(fmts)), []).append(size)
    return [_words(found, seeded, fmts) for (seeded, fmts), found in sizes.items()]


def _words(sizes: list[str], seeds: str, formats: str) -> str:
    words = " ".join([sizes[0], *(size.removeprefix("n=") for size in sizes[1:])]) if seeds else ", ".join(sizes)
    seeded = f" × seed{'s' if ' ' in seeds else ''} {seeds}" if seeds else ""
    return f"{words}{seeded}{' × ' + formats if formats else ''}"
