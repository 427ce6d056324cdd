"""The coordinator's loop: reap → plan → decide → assign → ring. Two at once are safe.

Everything it knows is in the store, so it can be killed at any point: what it had not committed is done again, an offer
whose message was never sent ends unclaimed and is made anew.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlmodel import Session

from jsm_queue import assigning, lifecycle, logs, planner, verdicts
from jsm_queue.assigning import Ring
from jsm_queue.kinds import Inputs
from jsm_queue.settings import Settings
from jsm_queue.spec import parse_spec
from jsm_queue.store import looks, queries, results
from jsm_queue.store import tables as t
from jsm_queue.store.database import insert_or_ignore, reading, writing

logger = logging.getLogger(__name__)

LISTED_AT_ONCE = 200  # jobs a transaction: workers' heartbeats wait for it


def loop(
    engine: Engine,
    settings: Settings,
    ring: Ring,
    wake: threading.Event,
    stop: threading.Event,
    store_away: threading.Event,
) -> None:
    """Tick when woken, at the latest every `tick_s`, until `stop` is set. An error is logged and tried again.

    `store_away`: set while the store cannot be used.
    """
    seen = -1
    while not stop.is_set():
        try:
            seen = tick(engine, settings, ring, seen)
            if store_away.is_set():
                logger.info("the store can be used again")
            store_away.clear()
        except (OperationalError, InterfaceError) as error:
            if not store_away.is_set():
                logger.error("the store cannot be used (%s); it is tried again", error.orig)
            store_away.set()
        except Exception:
            logger.exception("tick failed; it is tried again")
        wake.wait(settings.tick_s)
        wake.clear()


def tick(engine: Engine, settings: Settings, ring: Ring, seen: int = -1) -> int:
    """One round. `seen`: the last event that an earlier round planned for; returns it for the next."""
    now = time.time()
    _reap(engine, settings, now)
    with reading(engine) as session:
        newest = queries.last_event(session)
        studies = looks.studies_to_plan(session, seen)
    _plan_all(engine, studies, now)
    assigning.assign(engine, ring, now)
    return newest


def _reap(engine: Engine, settings: Settings, now: float) -> None:
    """Nothing of a live session is reaped until the api has ticked for one lease without a gap."""
    with writing(engine) as session:
        insert_or_ignore(session, t.Counter(name="tick", value=0))
        insert_or_ignore(session, t.Counter(name="ticking_since", value=0))
        last, since = session.get_one(t.Counter, "tick"), session.get_one(t.Counter, "ticking_since")
        if not 0 <= now - last.value < settings.lease_s / 2:
            since.value = now
        if now < last.value:
            lifecycle.shorten_leases(session, settings.lease_s, now)
        last.value = now
        steady = now - since.value >= settings.lease_s
        lifecycle.reap(session, settings.offer_s, now, leases=steady)


def _plan_all(engine: Engine, studies: Iterable[str], now: float) -> None:
    for study_id in studies:
        try:
            with logs.about(study=study_id):
                while _plan_once(engine, study_id, now):
                    pass
        except DBAPIError:
            raise  # the store's trouble is everybody's: the whole tick is tried again
        except Exception:  # one study that cannot be planned must not keep the others from their slots
            logger.exception("study %s cannot be planned; the others go on", study_id)


def _plan_once(engine: Engine, study_id: str, now: float) -> bool:
    """One look at a study. Returns whether it changed something that asks for another look."""
    with reading(engine) as session:
        row = session.get_one(t.Study, study_id)
        hardware = row.hardware or _hardware_class(session, now)
        if hardware is None:
            return False  # no worker has ever said hello: there is nothing to run it on
        study = _planner_view(session, row, hardware)
        listed = queries.listings(session, study_id)
    if row.hardware is None:
        _fix_hardware(engine, study_id, hardware)
        return True
    plan = planner.plan(study)
    with reading(engine) as session:
        measured = [_measured(session, study_id, stage) for stage in plan.due]
    # Outside: its bootstraps may take longer than a transaction may stand still.
    found = {stage: _conclude(study, stage, *cells) for stage, cells in zip(plan.due, measured, strict=True)}
    new = [wanted for wanted in plan.jobs if wanted.listing not in listed]
    for start in range(0, len(new), LISTED_AT_ONCE):
        with writing(engine) as session:
            lifecycle.list_jobs(session, study_id, new[start : start + LISTED_AT_ONCE], now)
    if found or plan.ended:
        with writing(engine) as session:
            for stage, verdict in found.items():
                lifecycle.write_verdict(session, study_id, stage, verdict, now)
            if plan.ended:
                lifecycle.end_study(session, study_id, now)
    return bool(new or found)


def _fix_hardware(engine: Engine, study_id: str, hardware: str) -> None:
    """The class is part of the latency jobs' hashes: it is written before anything is planned for it, and once."""
    with writing(engine) as session:
        study = session.get_one(t.Study, study_id)
        study.hardware = study.hardware or hardware


def _planner_view(session: Session, row: t.Study, hardware: str) -> planner.Study:
    return planner.Study(
        id=row.id,
        spec=parse_spec(row.spec),
        inputs=Inputs.model_validate(row.inputs),
        hardware=hardware,
        states=queries.job_states(session, row.id),
        decisions=queries.decisions(session, row.id),
    )


def _hardware_class(session: Session, now: float) -> str | None:
    """The class that most live workers are of: latency is measured on it alone."""
    classes = Counter(w.hardware["hardware_class"] for w in queries.live_workers(session, now) if w.hardware)
    return max(sorted(classes), key=lambda name: classes[name]) if classes else None


def decide(session: Session, study: planner.Study, stage: planner.Stage) -> verdicts.Verdict:
    """A stage's verdict from the records in the store."""
    return _conclude(study, stage, *_measured(session, study.id, stage))


def _measured(session: Session, study: str, stage: planner.Stage) -> tuple[list[verdicts.CellValues], list[str]]:
    """What a stage's verdict rests on: its cells' values, and the cells that are missing."""
    kind, split = ("score", "validation") if stage == "scale" else ("judge", "bench")
    return _cells(session, study, stage, kind, split), results.missing_cells(session, study, stage)


def _conclude(
    study: planner.Study, stage: planner.Stage, cells: list[verdicts.CellValues], missing: list[str]
) -> verdicts.Verdict:
    if stage == "scale":
        return verdicts.scale_verdict(cells, missing)
    if stage == "bases":
        quantization = study.spec.stages.quantization
        return verdicts.bases_verdict(cells, quantization.keep if quantization else 1, missing)
    return verdicts.quantization_verdict(cells, missing)


def _cells(session: Session, study: str, stage: str, kind: str, split: str) -> list[verdicts.CellValues]:
    """One CellValues a cell that has records of that kind on that split."""
    main, weight = ("nll", "tokens") if kind == "score" else ("score", "")
    metrics = _cell_metrics(session, study, stage)
    found = {}
    for row in results.cell_records(session, study, stage, kind, split, [main, weight]):
        values, weights = found.setdefault((row.cell, row.base, row.n, row.seed, row.format), ({}, {}))
        (values if row.name == main else weights)[row.item] = row.value
    return [
        verdicts.CellValues(
            *cell, values=values, weights=weights, metrics=metrics.get(cell[0], {}), adapter=_with_adapter(*cell)
        )
        for cell, (values, weights) in found.items()
    ]


def _with_adapter(label: str, base: str, n: int | None, seed: int | None, fmt: str | None) -> bool:
    """Was the cell measured with an adapter that was given? The store knows it by its label alone."""
    return label == planner.Cell("bases", base, n, seed, fmt, adapter=True).label and n is None


METRICS = {
    "convert.bytes": "bytes",
    "parity.kl": "kl",
    "parity.ok": "parity_ok",
    "bits_per_byte": "bits_per_byte",
    "judge.questions": "questions",
    "judge.unjudged": "unjudged",
}
"""What verdicts speak of besides scores: the store's name → theirs."""


def _cell_metrics(session: Session, study: str, stage: str) -> dict[str, dict[str, float]]:
    """Cell → its METRICS; bits per byte are the test set's."""
    found: dict[str, dict[str, float]] = {}
    for row in results.comparisons(session, study)[stage]:
        named = {METRICS[name]: value for name, value in row.items() if name in METRICS and value is not None}
        if row["split"] != "test":
            named.pop("bits_per_byte", None)
        found.setdefault(row["cell"], {}).update(named)
    return found
