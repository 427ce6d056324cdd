"""`jsm demo`: a pool on this machine, the example study through all its stages, and its report."""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from jsm_queue import costs, planner
from jsm_queue.cli import client, console, plan, probe, studies, up, view, watch
from jsm_queue.cli.home import home
from jsm_queue.errors import SetupError
from jsm_queue.kinds import Inputs
from jsm_queue.settings import settings
from jsm_queue.spec import StudySpec, parse_spec, read_spec

SPEC = Path("examples/river/study.yaml")
INTERRUPTED = 130  # exit status, as shells have it for Ctrl-C


def run(keep: bool) -> int:
    """Runs the demo. Returns the exit status: 1 when a job failed or nothing could be recommended."""
    started = time.monotonic()
    spec = find_spec()
    status = INTERRUPTED
    try:
        if up.is_locked(home()):
            console.out.print(f"using the jsm that runs on {home()}")
            with client.connect() as api:
                return study(api, spec, started)
        with up.running(home()) as pool, pool.connect() as api:
            pool.worker_env = {**pool.worker_env, **attended("courtesy" in settings().model_fields_set)}
            status = study(api, spec, started, pool)
            if keep:
                tell_kept(pool)
                up.stay(pool)
    except KeyboardInterrupt:
        console.out.print("stopped; the next `jsm demo` goes on where it was")
    return status


def attended(told: bool) -> dict[str, str]:
    """Settings of the demo's worker. Its owner sits before it and asked for the demo, on battery or at any hour: the
    worker gives way to `jsm worker yield` alone, unless the owner has `told` it otherwise.
    """
    return {} if told else {"JSM_COURTESY": "no"}


def find_spec() -> Path:
    """The example study of the source tree. Raises SetupError where there is none."""
    package = importlib.util.find_spec("jsm_queue")
    root = Path(package.origin).parent.parent if package and package.origin else Path()
    for folder in (Path(), root):
        if (folder / SPEC).is_file():
            return folder / SPEC
    raise SetupError(f"{SPEC} is not here", "Run `jsm demo` in a clone of the project, or your own data: `jsm init`")


def study(api: httpx.Client, spec: Path, started: float, pool: up.Pool | None = None) -> int:
    """Submits the study, follows it to its end, writes its report. Starts worker and Flower where needed."""
    gpu = has_gpu()
    answer = studies.send_spec(api, variant(read_spec(spec), gpu), spec.parent, quiet=True)
    first = watch.look(api, answer["id"])
    console.out.print(plan_line(first, gpu))
    if pool and first.study["state"] == "running":
        pool.start_rest()
        console.out.print(f"api {pool.api_url}   Flower {pool.flower_url}")
        up.wait_for_worker(pool, console.out.print)
    tick: Callable[[], None] = pool.tick if pool else lambda: None
    last = watch.follow(api, answer["id"], tick)
    return finish(api, spec, last, watch.tally(first, last), time.monotonic() - started)


def has_gpu() -> bool:
    """Will this machine's worker have a GPU slot? Its own packages are asked, in a process that may import torch."""
    return bool(probe.gpus())


def variant(spec: StudySpec, gpu: bool) -> StudySpec:
    """The demo's study for this machine. With a GPU the real model is fine-tuned too, which takes a CPU too long."""
    return spec.model_copy(
        update={"bases": [base.model_copy(update={"train": base.train or gpu}) for base in spec.bases]}
    )


def plan_line(now: view.Snapshot, gpu: bool) -> str:
    """How many jobs the study will have, how many are done already, and how long the rest takes on a CPU.

    How long models so small take on a GPU was not measured.
    """
    study, spec = now.study, parse_spec(now.study["spec"])
    inputs = Inputs.model_validate(study["inputs"])
    wanted = planner.preview(spec, inputs)
    parts = [f"{len({w.job.id for w in wanted})} jobs"]
    if study["jobs"]["done"]:
        parts.append(f"{study['jobs']['done']} done already")
    left = still_to_do(wanted, now)
    if left and study["state"] == "running" and not gpu:
        machine = plan.machine_for(spec, inputs.facts)
        parts.append(plan.about(costs.estimate(left, spec, inputs.facts, machine), machine))
    return f"[bold]PLAN {study['name']}[/]   {', '.join(parts)}   study {study['id'][: studies.SHORT]}"


def still_to_do(wanted: list[planner.Wanted], now: view.Snapshot) -> list[planner.Wanted]:
    """The planned jobs that are not done. A latency job's id holds the study's, so its stage's verdict tells of it."""
    done = {job["id"] for job in now.jobs if job["state"] == "done"}
    return [w for w in wanted if w.job.id not in done and not (w.job.kind == "latency" and w.stage in now.verdicts)]


def finish(api: httpx.Client, spec: Path, last: view.Snapshot, tally: dict[str, int], seconds: float) -> int:
    """The last lines: what to deploy, where the report is, what ran and what was reused, what failed."""
    path = studies.write_report(api, last.study)
    report = client.call(api, "GET", f"/v1/studies/{last.study['id']}/report", params={"format": "json"})
    recommendation = report["recommendation"] or {}
    console.out.print(f"[bold]RECOMMENDATION[/]  {console.escape(recommendation.get('sentence', 'none'))}")
    for caveat in recommendation.get("caveats", []):
        console.out.print(f"  {console.escape(caveat)}")
    ran = f"{tally['run']} run, {tally['reused']} reused, {console.duration(seconds)}"
    console.out.print(f"Report  {path}    {ran}    Next  jsm init · jsm demo --keep")
    studies.tell_lost(last.study, str(spec))
    return 1 if went_wrong(last, recommendation) else 0


def went_wrong(last: view.Snapshot, recommendation: dict[str, Any]) -> bool:
    """Did a job fail, was the study cancelled, or was nothing measured that could be recommended?"""
    lost = any(view.lost(last.study["jobs"]).values())
    return lost or last.study["state"] != "ended" or recommendation.get("status") == "none"


def tell_kept(pool: up.Pool) -> None:
    """What stays up after `--keep`. A study that had ended before started neither worker nor Flower."""
    pool.start_rest()
    console.out.print("kept running until Ctrl-C or `jsm down`:")
    up.tell(pool)
