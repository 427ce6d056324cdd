"""A store's rows, copied as one consistent state into another store: SQLite or Postgres, either way."""

from sqlalchemy import Connection, Engine, Table, delete, insert, select
from sqlmodel import Session, SQLModel

from jsm_queue.store import tables as t
from jsm_queue.store.database import reading, writing
from jsm_queue.store.events import RESTORED, log

ROWS = 5_000  # that are in memory at once


def copy_rows(source: Engine, target: Engine) -> dict[str, int]:
    """Every row of `source` into the empty store `target`, in one transaction each. Returns table → rows."""
    with reading(source) as there, writing(target) as here:
        return _copy(there.connection(), here.connection())


def replace_rows(source: Engine, target: Engine, now: float) -> dict[str, int]:
    """The same into a store that is in use: what it held is gone, and a new epoch begins in it.

    Worker sessions belong to the old epoch: each worker is told to say hello again. What ran is not heard of any more
    until its worker does, and nothing is reaped before the api has ticked for a lease. Returns table → rows.
    """
    with reading(source) as there, writing(target) as here:
        for table in reversed(SQLModel.metadata.sorted_tables):
            here.connection().execute(delete(table))
        counts = _copy(there.connection(), here.connection())
        here.connection().execute(t.Worker.__table__.update().values(boot_id=None, lease_until=0.0))  # type: ignore[attr-defined]
        here.connection().execute(delete(t.Counter).where(t.Counter.name.in_(("tick", "ticking_since"))))  # type: ignore[attr-defined]
        _next_epoch(here)
        log(here, now, RESTORED)
    return counts


def _next_epoch(session: Session) -> None:
    epoch = session.get(t.Counter, "epoch") or t.Counter(name="epoch", value=0)
    epoch.value += 1
    session.add(epoch)
    session.flush()


def _copy(source: Connection, target: Connection) -> dict[str, int]:
    return {table.name: _copy_table(source, target, table) for table in SQLModel.metadata.sorted_tables}


def _copy_table(source: Connection, target: Connection, table: Table) -> int:
    count = 0
    rows = source.execution_options(yield_per=ROWS).execute(select(table)).mappings()
    for part in rows.partitions(ROWS):
        target.execute(insert(table), [dict(row) for row in part])
        count += len(part)
    return count
