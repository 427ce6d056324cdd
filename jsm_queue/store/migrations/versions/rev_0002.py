"""Suspect attempts, checkpoints, fused runs, free disk, and artifacts that are about to go."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """0001 → 0002."""
    for column in (
        sa.Column("charged", sa.JSON(), nullable=True),
        sa.Column("ooms", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("solo", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("checkpoint", TEXT, nullable=True),
        sa.Column("position", BIG, nullable=False, server_default="0"),
        sa.Column("checkpoint_prev", TEXT, nullable=True),
        sa.Column("position_prev", BIG, nullable=False, server_default="0"),
    ):
        op.add_column("job", column)
    op.add_column("worker", sa.Column("disk_free", BIG, nullable=True))
    op.add_column("attempt", sa.Column("began_at", BIG, nullable=False, server_default="0"))
    op.add_column("attempt", sa.Column("disk_free", BIG, nullable=True))
    op.add_column("artifact", sa.Column("state", TEXT, nullable=False, server_default="whole"))
    op.add_column("artifact", sa.Column("touched_at", sa.Float(), nullable=False, server_default="0"))
    live = sa.text("state IN ('offered', 'running', 'delivering', 'suspect')")
    op.drop_index("one_live_attempt_a_job", "attempt")
    op.create_index("one_live_attempt_a_job", "attempt", ["job"], unique=True, sqlite_where=live, postgresql_where=live)
    op.create_index("attempt_by_state", "attempt", ["state", "worker"])
    op.create_index("ix_attempt_reason", "attempt", ["reason"])
    op.drop_index("ix_job_state", "job")
    op.create_index("job_by_state", "job", ["state", "id"])
    op.create_index("listing_by_reuse", "study_job", ["study", "reused", "job"])
