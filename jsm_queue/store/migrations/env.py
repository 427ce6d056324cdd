"""What Alembic runs: the revisions in `versions/`, inside the transaction that `store.migrate` holds open."""

from alembic import context
from sqlmodel import SQLModel

import jsm_queue.store.tables  # noqa: F401  (fills the metadata)

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
context.run_migrations()
