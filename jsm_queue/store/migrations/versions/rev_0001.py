"""The schema of the stores that were made before revisions were noted in them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """An empty database → 0001."""
    op.create_table(
        "artifact",
        sa.Column("sha", TEXT, nullable=False),
        sa.Column("size", BIG, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("sha"),
    )
    op.create_table(
        "counter",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "event",
        sa.Column("seq", BIG, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("what", TEXT, nullable=False),
        sa.Column("study", TEXT, nullable=True),
        sa.Column("job", TEXT, nullable=True),
        sa.Column("attempt", TEXT, nullable=True),
        sa.Column("worker", TEXT, nullable=True),
        sa.Column("data", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_table(
        "job",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("accepted_attempt", TEXT, nullable=True),
        sa.Column("charges", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.Column("error", TEXT, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_job_state"), "job", ["state"], unique=False)
    op.create_table(
        "study",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("hardware", TEXT, nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_study_state"), "study", ["state"], unique=False)
    op.create_table(
        "token",
        sa.Column("hash", TEXT, nullable=False),
        sa.Column("scope", TEXT, nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_table(
        "worker",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("token_hash", TEXT, nullable=False),
        sa.Column("boot_id", TEXT, nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=False),
        sa.Column("hardware", sa.JSON(), nullable=True),
        sa.Column("control_rev", sa.Integer(), nullable=False),
        sa.Column("joined_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_worker_token_hash"), "worker", ["token_hash"], unique=False)
    op.create_table(
        "artifact_ref",
        sa.Column("job", TEXT, nullable=False),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("sha", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["job"],
            ["job.id"],
        ),
        sa.ForeignKeyConstraint(
            ["sha"],
            ["artifact.sha"],
        ),
        sa.PrimaryKeyConstraint("job", "role"),
    )
    op.create_table(
        "job_need",
        sa.Column("job", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("needs", TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["job"],
            ["job.id"],
        ),
        sa.ForeignKeyConstraint(
            ["needs"],
            ["job.id"],
        ),
        sa.PrimaryKeyConstraint("job", "name"),
    )
    op.create_index(op.f("ix_job_need_needs"), "job_need", ["needs"], unique=False)
    op.create_table(
        "metric",
        sa.Column("job", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job"],
            ["job.id"],
        ),
        sa.PrimaryKeyConstraint("job", "name"),
    )
    op.create_table(
        "record",
        sa.Column("job", TEXT, nullable=False),
        sa.Column("item", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("attempt", TEXT, nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("meta", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job"],
            ["job.id"],
        ),
        sa.PrimaryKeyConstraint("job", "item", "name"),
    )
    op.create_table(
        "run",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("worker", TEXT, nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("offered_at", sa.Float(), nullable=False),
        sa.Column("delivery", TEXT, nullable=True),
        sa.ForeignKeyConstraint(
            ["worker"],
            ["worker.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "one_open_run_a_slot",
        "run",
        ["worker", "slot"],
        unique=True,
        sqlite_where=sa.text("state != 'closed'"),
        postgresql_where=sa.text("state != 'closed'"),
    )
    op.create_table(
        "slot",
        sa.Column("worker", TEXT, nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("device", TEXT, nullable=False),
        sa.Column("vram_free", BIG, nullable=False),
        sa.Column("free", sa.Boolean(), nullable=False),
        sa.Column("warm_base", TEXT, nullable=True),
        sa.ForeignKeyConstraint(
            ["worker"],
            ["worker.id"],
        ),
        sa.PrimaryKeyConstraint("worker", "idx"),
    )
    op.create_table(
        "study_job",
        sa.Column("study", TEXT, nullable=False),
        sa.Column("job", TEXT, nullable=False),
        sa.Column("stage", TEXT, nullable=False),
        sa.Column("cell", TEXT, nullable=False),
        sa.Column("base", TEXT, nullable=True),
        sa.Column("n", sa.Integer(), nullable=True),
        sa.Column("seed", sa.Integer(), nullable=True),
        sa.Column("format", TEXT, nullable=True),
        sa.Column("reused", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job"],
            ["job.id"],
        ),
        sa.ForeignKeyConstraint(
            ["study"],
            ["study.id"],
        ),
        sa.PrimaryKeyConstraint("study", "job", "stage", "cell"),
    )
    op.create_index(op.f("ix_study_job_job"), "study_job", ["job"], unique=False)
    op.create_table(
        "verdict",
        sa.Column("study", TEXT, nullable=False),
        sa.Column("stage", TEXT, nullable=False),
        sa.Column("look", sa.Integer(), nullable=False),
        sa.Column("decision", sa.JSON(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("rules_version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study"],
            ["study.id"],
        ),
        sa.PrimaryKeyConstraint("study", "stage", "look"),
    )
    op.create_table(
        "attempt",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("job", TEXT, nullable=False),
        sa.Column("run", TEXT, nullable=False),
        sa.Column("worker", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=True),
        sa.Column("message", TEXT, nullable=True),
        sa.Column("log_tail", TEXT, nullable=True),
        sa.Column("position", BIG, nullable=False),
        sa.Column("total", BIG, nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=True),
        sa.Column("provenance", sa.JSON(), nullable=True),
        sa.Column("offered_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job"],
            ["job.id"],
        ),
        sa.ForeignKeyConstraint(
            ["run"],
            ["run.id"],
        ),
        sa.ForeignKeyConstraint(
            ["worker"],
            ["worker.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_attempt_job"), "attempt", ["job"], unique=False)
    op.create_index(op.f("ix_attempt_run"), "attempt", ["run"], unique=False)
    op.create_index(op.f("ix_attempt_worker"), "attempt", ["worker"], unique=False)
    op.create_index(
        "one_live_attempt_a_job",
        "attempt",
        ["job"],
        unique=True,
        sqlite_where=sa.text("state IN ('offered', 'running', 'delivering')"),
        postgresql_where=sa.text("state IN ('offered', 'running', 'delivering')"),
    )
