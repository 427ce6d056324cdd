"""The study that all fault tests run, and what comes of it when nothing goes wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsm_queue.spec import StudySpec
from tests.pool import SHORT, Pool, write_study


@dataclass(frozen=True)
class Calm:
    """The study, and what comes of it when nothing is killed."""

    folder: Path
    spec: StudySpec
    outcome: dict[str, Any]
    records: list[tuple[Any, ...]]


def run_calmly(folder: Path, home: Path, spec: StudySpec | None = None) -> Calm:
    """A study on a pool of its own with SQLite, undisturbed; without one the small study."""
    spec = spec or write_study(folder, **SHORT)
    pool = Pool(home)
    try:
        pool.start_all()
        study = pool.submit(spec, folder)
        pool.wait_ended(study)
        return Calm(folder, spec, pool.outcome(study), pool.records(study))
    finally:
        pool.close()


def check(pool: Pool, study: str, calm: Calm) -> None:
    assert pool.outcome(study) == calm.outcome
    assert pool.records(study) == calm.records
