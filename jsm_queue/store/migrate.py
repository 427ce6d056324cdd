"""The schema of a store, brought to this version's by Alembic.

A revision only adds (tables, columns with a default, indexes): that is one transaction on both databases, and SQLite
never copies a table for it. Views hold no data: they are made anew at every start.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from jsm_queue.errors import SetupError
from jsm_queue.store import views

FOLDER = Path(__file__).parent / "migrations"
FIRST = "0001"
"""The schema of the stores that were made before revisions were noted in them."""


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the schema to a revision, inside the caller's transaction.

    Raises SetupError for a store that a newer version wrote.
    """
    config = _config(connection)
    scripts = ScriptDirectory.from_config(config)
    current = revision_of(connection)
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise SetupError(
            f"The store was written by a newer version of jsm-queue (its schema is {current}; this one knows "
            f"{scripts.get_current_head()})",
            "Update jsm-queue here, or restore a backup that this version made",
        )
    if current == scripts.get_current_head():
        return
    views.drop(connection)
    if current is None and inspect(connection).has_table("study"):
        command.stamp(config, FIRST)
    command.upgrade(config, revision)


def revision_of(connection: Connection) -> str | None:
    """The schema's revision; None of an empty database, and of a store that notes none."""
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", FOLDER.as_posix().replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
