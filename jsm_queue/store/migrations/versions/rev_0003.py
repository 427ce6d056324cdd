"""People's wishes for workers, slots that their owners hold, where artifacts lie, what jobs cost, tokens with names."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """0002 → 0003."""
    op.add_column("worker", sa.Column("state", TEXT, nullable=False, server_default="active"))
    op.add_column("worker", sa.Column("hello_at", sa.Float(), nullable=False, server_default="0"))
    op.add_column("worker", sa.Column("broker_secret_hash", TEXT, nullable=True))
    op.add_column("slot", sa.Column("vram_total", BIG, nullable=False, server_default="0"))
    op.add_column("slot", sa.Column("hold", TEXT, nullable=True))
    op.add_column("job", sa.Column("memory_needed", BIG, nullable=False, server_default="0"))
    op.add_column("attempt", sa.Column("memory_free", BIG, nullable=False, server_default="0"))
    op.add_column("attempt", sa.Column("paused", TEXT, nullable=True))
    op.add_column("token", sa.Column("name", TEXT, nullable=False, server_default=""))
    op.add_column("token", sa.Column("revoked_at", sa.Float(), nullable=True))
    op.create_table(
        "artifact_at",
        sa.Column("sha", TEXT, primary_key=True),
        sa.Column("worker", TEXT, sa.ForeignKey("worker.id"), primary_key=True),
    )
    op.create_index("ix_artifact_at_worker", "artifact_at", ["worker"])
    op.create_table(
        "artifact_from",
        sa.Column("sha", TEXT, primary_key=True),
        sa.Column("worker", TEXT, sa.ForeignKey("worker.id"), primary_key=True),
    )
    op.create_index("ix_artifact_from_worker", "artifact_from", ["worker"])
    op.create_table(
        "cost_sample",
        sa.Column("attempt", TEXT, primary_key=True),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("base", TEXT, nullable=True),
        sa.Column("gpu", TEXT, nullable=False),
        sa.Column("work", sa.Float(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("peak_bytes", BIG, nullable=False, server_default="0"),
        sa.Column("at", sa.Float(), nullable=False),
    )
    op.create_index("ix_cost_sample_kind", "cost_sample", ["kind"])
