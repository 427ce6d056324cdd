"""What accepted attempts took: table cost_sample, of each kind, base and hardware the newest."""

from functools import lru_cache

from sqlalchemy import delete
from sqlmodel import Session, col, select

from jsm_queue.costs import Costs, Sample, learn
from jsm_queue.store import tables as t

KEPT = 16  # samples of a kind, base and hardware


def add_sample(session: Session, row: t.CostSample) -> None:
    """Write one, and forget those that newer ones make needless."""
    session.add(row)
    session.flush()
    alike = select(t.CostSample.attempt).where(
        t.CostSample.kind == row.kind, t.CostSample.base == row.base, t.CostSample.gpu == row.gpu
    )
    newest = col(t.CostSample.at).desc(), t.CostSample.attempt
    old = session.exec(alike.order_by(*newest).offset(KEPT)).all()
    if old:
        session.connection().execute(delete(t.CostSample).where(col(t.CostSample.attempt).in_(list(old))))


def samples(session: Session) -> list[Sample]:
    """All that are kept."""
    c = t.CostSample
    query = select(c.kind, c.base, c.gpu, c.work, c.seconds, c.peak_bytes)  # type: ignore[call-overload]
    return [Sample(*row) for row in session.exec(query.order_by(c.attempt))]


def learned(session: Session) -> Costs:
    """What they teach."""
    return _learn(tuple(samples(session)))


@lru_cache(maxsize=4)
def _learn(kept: tuple[Sample, ...]) -> Costs:
    """The same samples teach the same: most looks find no new one."""
    return learn(kept)
