"""`jsm submit`, `status`, `jobs`, `cancel`, `report`: studies, over the api."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from jsm_queue.cli import client, console, resolve, view, watch
from jsm_queue.cli.home import home
from jsm_queue.errors import NotFoundError
from jsm_queue.files import write_whole
from jsm_queue.spec import read_spec

SHORT = 12  # digits of an id that are shown


def submit(path: Path, follow: bool, as_json: bool) -> int:
    """Starts the study of a spec, or resumes it. Returns the exit status: 1 when it was followed and a job failed."""
    with client.connect() as api:
        study = send(api, path, quiet=as_json)
        if as_json:
            console.print_json(study)
            return 0
        counts = study["jobs"]
        how = f"{study['state']}, was submitted before" if study["resumed"] else "started"
        console.out.print(
            f"study {study['id'][:SHORT]}   {how}   {counts['done']} of {counts['total']} jobs done so far"
        )
        if follow:
            with suppress(KeyboardInterrupt):  # the study goes on without us
                study = dict(watch.follow(api, study["id"]).study)
        tell_lost(study, str(path))
        console.out.print(f"Next  jsm status {study['id'][:SHORT]} · jsm report {study['id'][:SHORT]}")
        return 1 if follow and view.lost_line(study, str(path)) else 0


def send(api: httpx.Client, path: Path, quiet: bool) -> dict[str, Any]:
    """Resolves a spec, uploads its files, submits it. Returns the api's answer."""
    spec = read_spec(path)
    resolved = resolve.resolve(spec, path.parent)
    for sha, file in resolved.files.items():
        if client.upload(api, sha, file) and not quiet:
            console.out.print(f"uploaded {file.name}   {console.size(file.stat().st_size)}")
    body = {"spec": spec.model_dump(mode="json"), "inputs": resolved.inputs.model_dump(mode="json")}
    return client.call(api, "POST", "/v1/studies", json=body)


def status(study_id: str | None, as_json: bool) -> None:
    """All studies, or one with its stages."""
    with client.connect() as api:
        if study_id is None:
            found = client.call(api, "GET", "/v1/studies")
            console.print_json(found) if as_json else show_studies(found["studies"])
            return
        now = watch.look(api, find(api, study_id)["id"])
    if as_json:
        console.print_json(dict(now.study))
        return
    show_studies([dict(now.study)])
    for line in view.screen(now, now.study["jobs"]["reused"], time.time() - now.study["created_at"]):
        console.out.print(line)
    tell_lost(now.study, "its file")


def tell_lost(study: Mapping[str, Any], file: str) -> None:
    """What failed for good in an ended study, and how to try that again: its verdicts stand."""
    line = view.lost_line(study, file)
    if line:
        console.out.print(f"[yellow]{console.escape(line)}[/]")


def show_studies(studies: list[dict[str, Any]]) -> None:
    """Studies as a table."""
    columns = {
        "study": "left",
        "name": "left",
        "state": "left",
        "stage": "left",
        "done": "right",
        "running": "right",
        "failed": "right",
        "reused": "right",
    }
    rows = []
    for study in studies:
        counts = study["jobs"]
        failed = counts["failed"] + counts["quarantined"] + counts["skipped"]
        numbers = [
            f"{counts['done']}/{counts['total']}",
            str(counts["active"]),
            str(failed),
            str(counts["reused"]),
        ]
        rows.append([study["id"][:SHORT], study["name"], study["state"], study["stage"], *numbers])
    console.print_table(columns, rows, "no studies yet: `jsm init` writes one, `jsm submit` starts it")


def find(api: httpx.Client, study_id: str) -> dict[str, Any]:
    """A study by its id, a prefix of it, or its name (the newest of that name). Raises NotFoundError."""
    try:
        return client.call(api, "GET", f"/v1/studies/{study_id}")
    except NotFoundError:
        for study in client.call(api, "GET", "/v1/studies")["studies"]:
            if study["name"] == study_id:
                return study
        raise


def jobs(study_id: str, state: str | None, as_json: bool) -> None:
    """A study's jobs."""
    with client.connect() as api:
        params = {"state": state} if state else {}
        found = client.pages(api, f"/v1/studies/{find(api, study_id)['id']}/jobs", "jobs", **params)
    if as_json:
        console.print_json({"jobs": found})
        return
    columns = {
        "job": "left",
        "state": "left",
        "stage": "left",
        "what": "left",
        "progress": "right",
        "time": "right",
        "last end": "left",
        "": "left",
    }
    console.print_table(columns, [_job_row(job) for job in found], "no jobs yet")


def _job_row(job: dict[str, Any]) -> list[str]:
    progress = f"{job['position']}/{job['total']}" if job["total"] else ""
    seconds = console.duration(job["seconds"]) if job["seconds"] is not None else ""
    note = console.escape(job["error"].splitlines()[0]) if job["error"] else "reused" if job["reused"] else ""
    return [
        job["id"][:SHORT],
        job["state"],
        job["stage"],
        console.escape(job["label"]),
        progress,
        seconds,
        console.escape(view.last_end(job)),
        note,
    ]


def cancel(study_id: str, as_json: bool) -> None:
    """Cancels a study; jobs that another study wants go on."""
    with client.connect() as api:
        answer = client.call(api, "DELETE", f"/v1/studies/{find(api, study_id)['id']}")
    if as_json:
        console.print_json(answer)
        return
    console.out.print(
        f"study {answer['id'][:SHORT]}   {answer['state']}   finished jobs are kept; submit it again to go on"
    )


def report(study_id: str, output: Path | None, as_json: bool) -> None:
    """Writes a study's report, or prints it as JSON."""
    with client.connect() as api:
        study = find(api, study_id)
        if as_json:
            console.print_json(client.call(api, "GET", f"/v1/studies/{study['id']}/report", params={"format": "json"}))
            return
        console.out.print(f"Report  {write_report(api, study, output)}")


def write_report(api: httpx.Client, study: dict[str, Any], output: Path | None) -> Path:
    """Writes the HTML report; without `output` into the home folder's reports."""
    answer = client.request(api, "GET", f"/v1/studies/{study['id']}/report", params={"format": "html"})
    path = (output or home() / "reports" / f"{study['name']}-{study['id'][:8]}.html").absolute()
    write_whole(path, answer.text)
    return path
