"""`jsm submit`, `watch`, `status`, `jobs`, `cancel`, `report`: studies, over the api."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import httpx

from jsm_queue.cli import client, console, resolve, view, watch, workers
from jsm_queue.cli.home import home
from jsm_queue.errors import NotFoundError, RequestError, SetupError
from jsm_queue.files import write_whole
from jsm_queue.spec import StudySpec, read_spec

SHORT = 12  # digits of an id that are shown
JOB_STATES = ("waiting", "ready", "active", "done", "failed", "quarantined", "skipped")


def submit(path: Path, follow: bool, as_json: bool) -> int:
    """Starts the study of a spec, or resumes it. Returns the exit status: 1 when it was followed and a job failed."""
    with client.connect() as api:
        study = send(api, path, quiet=as_json)
        if as_json:
            console.print_json(study)
            return 0
        counts = study["jobs"]
        how = f"{study['state']}, was submitted before" if study["resumed"] else "started"
        far = f"{counts['done']} of {counts['total']} jobs done so far"
        # The coordinator plans a new study at its next tick, or once a worker has come.
        console.out.print(f"study {study['id'][:SHORT]}   {how}   {far if counts['total'] else 'its jobs come next'}")
        if follow:
            with suppress(KeyboardInterrupt):  # the study goes on without us
                study = dict(watch.follow(api, study["id"]).study)
        tell_lost(study, str(path))
        console.out.print(f"Next  jsm status {study['id'][:SHORT]} · jsm report {study['id'][:SHORT]}")
        return 1 if follow and view.lost_line(study, str(path)) else 0


def follow(study_id: str) -> int:
    """Follows a study to its end.

    Returns the exit status: 1 when a job failed or the study was cancelled, 130 after Ctrl-C.
    """
    with client.connect() as api:
        try:
            study = watch.follow(api, find(api, study_id)["id"]).study
        except KeyboardInterrupt:  # the study goes on without us
            return 130
    tell_lost(study, "its file")
    console.out.print(f"study {study['id'][:SHORT]}   {study['state']}")
    return 0 if study["state"] == "ended" and not view.lost_line(study, "its file") else 1


def send(api: httpx.Client, path: Path, quiet: bool) -> dict[str, Any]:
    """Resolves a spec, uploads its files, submits it. Returns the api's answer."""
    return send_spec(api, read_spec(path), path.parent, quiet)


def send_spec(api: httpx.Client, spec: StudySpec, folder: Path, quiet: bool) -> dict[str, Any]:
    """The same for a spec that was read already, whose paths are relative to `folder`."""
    resolved = resolve.resolve(spec, folder)
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
            if as_json:
                console.print_json(found)
                return
            show_studies(found["studies"])
            for line in workers.kept(client.call(api, "GET", "/v1/workers")["workers"]):
                console.out.print(f"[yellow]{console.escape(line)}[/]")
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
        "skipped": "right",
        "reused": "right",
    }
    rows = []
    for study in studies:
        counts = study["jobs"]
        far = [f"{counts['done']}/{counts['total']}", str(counts["active"])]
        numbers = [*far, *map(str, view.lost(counts).values()), str(counts["reused"])]
        rows.append([study["id"][:SHORT], study["name"], study["state"], study["stage"], *numbers])
    console.print_table(columns, rows, "no studies yet: `jsm init` writes one, `jsm submit` starts it")


def find(api: httpx.Client, study_id: str) -> dict[str, Any]:
    """A study by its id, a prefix of it, or its name (the newest of that name). Raises NotFoundError."""
    try:
        return client.call(api, "GET", f"/v1/studies/{client.quoted(study_id)}")
    except NotFoundError as error:
        for study in client.call(api, "GET", "/v1/studies")["studies"]:
            if study["name"] == study_id:
                return study
        if study_id.isalnum():
            raise
        raise NotFoundError(f"No study {study_id!r}", "`jsm status` lists them") from error


def jobs(study_id: str, state: str | None, as_json: bool) -> None:
    """A study's jobs. Raises RequestError for a state that no job is ever in."""
    if state is not None and state not in JOB_STATES:
        raise RequestError(f"No job is ever {state!r}", f"The states are {', '.join(JOB_STATES)}")
    with client.connect() as api:
        params = {"state": state} if state else {}
        study = find(api, study_id)
        found = client.pages(api, f"/v1/studies/{study['id']}/jobs", "jobs", **params)
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
        "last end": "cut",
        "": "cut",
    }
    rows = [_job_row(job, study["state"]) for job in found]
    console.print_table(columns, rows, f"no {state} jobs" if state else "no jobs yet")


def _job_row(job: dict[str, Any], study: str) -> list[str]:
    # of a job that is done it is how far its last heartbeat saw it
    progress = f"{job['position']}/{job['total']}" if job["total"] and job["state"] != "done" else ""
    seconds = console.duration(job["seconds"]) if job["seconds"] is not None else ""
    note = job["error"].splitlines()[0] if job["error"] else "reused" if job["reused"] else ""
    note = f"stands still: {job['paused']}" if job["paused"] else note
    if job["state"] in ("ready", "waiting") and study in ("paused", "cancelled"):
        note = f"study {job['wanted_by']} wants it" if job["wanted_by"] else f"the study is {study}"
    return [
        job["id"][:SHORT],
        job["state"],
        job["stage"],
        console.escape(job["label"]),
        progress,
        seconds,
        console.escape(view.last_end(job)),
        console.escape(note),
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


CHANGED = {
    "pause": "nothing of it begins, and what ran gives its slot back{shared}; `jsm resume` lets it go on",
    "resume": "it goes on",
    "retry": "{retried} jobs are tried again; verdicts that are written stand",
}
"""what each change means, for people"""


def change(study_id: str, what: Literal["pause", "resume", "retry"], as_json: bool) -> None:
    """Pauses or resumes a study, or tries its failed jobs again."""
    with client.connect() as api:
        answer = client.call(api, "POST", f"/v1/studies/{find(api, study_id)['id']}/{what}")
    if as_json:
        console.print_json(answer)
        return
    wanted = answer.get("wanted", 0)
    shared = f", but for jobs that another study wants too ({wanted})" if wanted else ""
    words = CHANGED[what].format(**answer, shared=shared)
    console.out.print(f"study {answer['id'][:SHORT]}   {answer['state']}   {words}")


def report(study_id: str, output: Path | None, markdown: bool, as_json: bool) -> None:
    """Writes a study's report, or prints it as JSON. Raises SetupError when `output` is a folder, or in none."""
    if output is not None and output.is_dir():
        raise SetupError(f"{output} is a folder", f"Name a file, such as {output / 'report.html'}")
    if output is not None and not _target(output).parent.is_dir():
        raise SetupError(f"{_target(output).parent} is no folder", "Make it first, or name a file in another")
    with client.connect() as api:
        study = find(api, study_id)
        if as_json:
            console.print_json(client.call(api, "GET", f"/v1/studies/{study['id']}/report", params={"format": "json"}))
            return
        console.out.print(f"Report  {write_report(api, study, output, markdown)}")


def write_report(
    api: httpx.Client, study: Mapping[str, Any], output: Path | None = None, markdown: bool = False
) -> Path:
    """Writes the report, as Markdown where that is asked for or `output` ends in .md, else as HTML.

    Without `output` it goes into the home folder's reports.
    """
    form = "md" if markdown or (output and output.suffix.lower() in (".md", ".markdown")) else "html"
    answer = client.request(api, "GET", f"/v1/studies/{study['id']}/report", params={"format": form})
    path = (output or home() / "reports" / f"{study['name']}-{study['id'][:8]}.{form}").absolute()
    if path.exists() and not path.is_file():  # a device or a pipe, whose place no file may take
        path.write_text(answer.text, encoding="utf-8")
    else:
        write_whole(_target(path), answer.text)
    return path


def _target(path: Path) -> Path:
    """The file that a link stands for: it gets the content, and the link stays."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path.absolute()
