"""Paths for people: submit a study, watch it, read its results."""

from typing import Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import ValidationError
from sqlmodel import Session

from api import files
from api.auth import READ, SUBMIT
from api.context import Ctx
from jsm_queue import artifacts, eta, lifecycle
from jsm_queue.errors import ConflictError, SpecError
from jsm_queue.kinds import Inputs
from jsm_queue.protocol import SubmitRequest
from jsm_queue.spec import StudySpec, parse_spec
from jsm_queue.store import pages, queries, results, summaries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing

router = APIRouter(tags=["studies"])

PAGE = 1000
LAST = 2**53
"""More records than any study has: further on there is no page."""

JobState = Literal["waiting", "ready", "active", "done", "failed", "quarantined", "skipped"]


@router.post("/studies", status_code=201, dependencies=[Depends(SUBMIT)])
def submit(ctx: Ctx, request: SubmitRequest, response: Response) -> dict[str, Any]:
    """Start a study, or return the one that this spec started before."""
    spec = parse_spec(request.spec)
    inputs = _parse_inputs(request.inputs, spec)
    with writing(ctx.engine) as session:
        _require_uploaded(session, inputs)
        body = (spec.model_dump(mode="json"), inputs.model_dump(mode="json"))
        study, new = lifecycle.add_study(session, *body, now=ctx.now())
    ctx.wake.set()
    response.status_code = 201 if new else 200
    with reading(ctx.engine) as session:
        counts = queries.job_counts(session, study.id)
    return {"id": study.id, "state": study.state, "resumed": not new, "jobs": counts}


def _parse_inputs(value: dict[str, Any], spec: StudySpec) -> Inputs:
    try:
        inputs = Inputs.model_validate(value)
    except ValidationError as error:
        raise SpecError(
            f"inputs: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}", "Submit with `jsm submit`"
        ) from error
    missing = {base.name for base in spec.bases} ^ inputs.bases.keys()
    if missing:
        raise SpecError(f"inputs.bases and the spec's bases differ: {sorted(missing)}", "Submit with `jsm submit`")
    found = (inputs.judge is not None, inputs.judge is not None and inputs.judge.file is not None)
    if found != (spec.judge.kind != "key_facts", spec.judge.kind == "gguf"):
        raise SpecError(f"inputs.judge is not what a judge of kind {spec.judge.kind} needs", "Submit with `jsm submit`")
    return inputs


def _require_uploaded(session: Session, inputs: Inputs) -> None:
    files = [ref.sha for ref in (inputs.source, inputs.bench) if ref]
    files += [sha for base in inputs.bases.values() for sha in [*base.files.values(), *base.adapter.values()]]
    files += [inputs.judge.file.sha] if inputs.judge and inputs.judge.file else []
    absent = set(files) - queries.sizes(session, files).keys()
    if absent:
        raise SpecError(
            f"{len(absent)} input files were not uploaded, e.g. {min(absent)}",
            "Submit with `jsm submit`, which uploads them",
        )


@router.get("/studies", dependencies=[Depends(READ)])
def list_studies(ctx: Ctx) -> dict[str, Any]:
    """All studies, the newest first."""
    with reading(ctx.engine) as session:
        return {"studies": summaries.of_all(session)}


@router.get("/studies/{study_id}", dependencies=[Depends(READ)])
def show_study(ctx: Ctx, study_id: str) -> dict[str, Any]:
    """One study with its spec, its inputs and its verdicts. `waiting_for`: what the pool lacks for it to go on.

    `eta_s`: about how many seconds its jobs known so far still take the slots that are here, without those that stand
    still; null: nobody knows.
    """
    with reading(ctx.engine) as session:
        study = queries.find_study(session, study_id)
        return summaries.of_study(session, study) | {
            "spec": study.spec,
            "inputs": study.inputs,
            "verdicts": _verdicts(session, study),
            "waiting_for": queries.waiting_for(session, study, ctx.now()),
            "eta_s": eta.seconds_left(session, study, ctx.now()),
        }


@router.get("/studies/{study_id}/jobs", dependencies=[Depends(READ)])
def list_jobs(
    ctx: Ctx,
    study_id: str,
    state: JobState | None = None,
    after: str = "",
    limit: int = Query(PAGE, ge=1, le=PAGE),
) -> dict[str, Any]:
    """A page of a study's jobs. `next` is the `after` of the next page, null at the end.

    `ended`: reason and message of the attempt that ended last; null for a job that is done or has none such. `paused`:
    why one that is active stands still; null: it runs. `wanted_by`: the name of another study that lists it and runs.
    """
    with reading(ctx.engine) as session:
        study = queries.find_study(session, study_id)
        rows = pages.job_rows(session, study.id, state, after, limit)
    return {"jobs": rows, "next": rows[-1]["id"] if len(rows) == limit else None}


@router.get("/studies/{study_id}/comparisons", dependencies=[Depends(READ)])
def show_comparisons(ctx: Ctx, study_id: str) -> dict[str, list[dict[str, Any]]]:
    """The stage tables, one row a cell and split."""
    with reading(ctx.engine) as session:
        return results.comparisons(session, queries.find_study(session, study_id).id)


@router.get("/studies/{study_id}/records", dependencies=[Depends(READ)])
def list_records(
    ctx: Ctx,
    study_id: str,
    job: str | None = None,
    name: str | None = None,
    after: int = Query(0, ge=0, le=LAST),
    limit: int = Query(PAGE, ge=1, le=10 * PAGE),
) -> dict[str, Any]:
    """A page of a study's records. `next` is the `after` of the next page, null at the end."""
    with reading(ctx.engine) as session:
        study = queries.find_study(session, study_id)
        rows = [row.model_dump() for row in results.records(session, study.id, job, name, after, limit)]
    return {"records": rows, "next": after + limit if len(rows) == limit else None}


@router.get("/studies/{study_id}/verdicts", dependencies=[Depends(READ)])
def list_verdicts(ctx: Ctx, study_id: str) -> dict[str, Any]:
    """The verdicts so far: decision and evidence."""
    with reading(ctx.engine) as session:
        return {"verdicts": _verdicts(session, queries.find_study(session, study_id))}


@router.get("/studies/{study_id}/data", dependencies=[Depends(READ)])
def show_data(ctx: Ctx, study_id: str, request: Request) -> Response:
    """What `prepare` says of the study's data, as JSON; 404 before it is done."""
    with reading(ctx.engine) as session:
        sha = results.data_report(session, queries.find_study(session, study_id))
    return files.ranged(request, artifacts.find(ctx.artifacts, sha), "application/json")


@router.get("/studies/{study_id}/report", dependencies=[Depends(READ)])
def show_report(ctx: Ctx, study_id: str, format: Literal["html", "md", "json"] = "html") -> Response:
    """The report as one self-contained HTML file, as Markdown, or as JSON."""
    # Drawing libraries take a second to import; only this path needs them.
    from jsm_queue.report import collect, html, markdown

    with reading(ctx.engine) as session:
        data = collect.collect(session, queries.find_study(session, study_id).id, ctx.artifacts)
    if format == "json":
        return JSONResponse(data.model_dump(mode="json"))
    if format == "md":
        return PlainTextResponse(markdown.render_markdown(data), media_type="text/markdown")
    return HTMLResponse(html.render_html(data))


@router.delete("/studies/{study_id}", dependencies=[Depends(SUBMIT)])
def cancel(ctx: Ctx, study_id: str) -> dict[str, Any]:
    """Cancel a study; jobs that another running study wants go on."""
    with writing(ctx.engine) as session:
        study = queries.find_study(session, study_id)
        lifecycle.cancel_study(session, study, ctx.now())
    ctx.wake.set()
    ctx.news.tell()
    return {"id": study.id, "state": study.state}


@router.post("/studies/{study_id}/pause", dependencies=[Depends(SUBMIT)])
def pause(ctx: Ctx, study_id: str) -> dict[str, Any]:
    """Pause a running study: nothing of it begins, and what runs gives its slot back. `wanted`: how many jobs go on all
    the same, as another study wants them.
    """
    with writing(ctx.engine) as session:
        study = queries.find_study(session, study_id)
        _refuse(study, "cancelled", "ended")
        lifecycle.pause_study(session, study, ctx.now())
        wanted = queries.active_elsewhere(session, study.id)
    ctx.news.tell()
    return {"id": study.id, "state": study.state, "wanted": wanted}


@router.post("/studies/{study_id}/resume", dependencies=[Depends(SUBMIT)])
def resume(ctx: Ctx, study_id: str) -> dict[str, Any]:
    """Let a paused study go on."""
    with writing(ctx.engine) as session:
        study = queries.find_study(session, study_id)
        _refuse(study, "cancelled", "ended")
        lifecycle.resume_study(session, study, ctx.now())
    ctx.wake.set()
    return {"id": study.id, "state": study.state}


@router.post("/studies/{study_id}/retry", dependencies=[Depends(SUBMIT)])
def retry(ctx: Ctx, study_id: str) -> dict[str, Any]:
    """Try a study's failed and quarantined jobs again. Verdicts that are written stand. `retried`: how many."""
    with writing(ctx.engine) as session:
        study = queries.find_study(session, study_id)
        _refuse(study, "cancelled")
        count = lifecycle.retry_study(session, study, ctx.now())
    ctx.wake.set()
    return {"id": study.id, "state": study.state, "retried": count}


OVER = {
    "cancelled": ("was cancelled", "Submit it again: it goes on where it was"),
    "ended": ("has ended", "`jsm retry` tries again what failed in it"),
}
"""State of a study that nothing goes on in → what that is, and what to do."""


def _refuse(study: t.Study, *states: str) -> None:
    """Raises ConflictError for a study in one of those states: what is asked for would change nothing."""
    if study.state in states:
        what, fix = OVER[study.state]
        raise ConflictError(f"The study {study.id[:12]} {what}", fix)


def _verdicts(session: Session, study: t.Study) -> list[dict[str, Any]]:
    return [row.model_dump(exclude={"study"}) for row in queries.verdicts(session, study.id)]
