"""SQL views of the stage comparisons: one row a cell and split, the same on SQLite and Postgres.

They group by the keys of listing and job, so that a job's params are read once for all its records. CROSS JOIN keeps
SQLite to the order that is written: a study's listings come first, never all jobs that are done.
"""

from sqlalchemy import Connection, text

VIEWS = {
    "cell_nll": """
        SELECT sj.study, sj.stage, sj.cell, sj.base, sj.n, sj.seed, sj.format, j.params ->> 'split' AS split,
               COUNT(CASE WHEN r.name = 'nll' THEN 1 END) AS examples,
               SUM(CASE WHEN r.name = 'nll' THEN r.value END) AS nll,
               SUM(CASE WHEN r.name = 'tokens' THEN r.value END) AS tokens,
               SUM(CASE WHEN r.name = 'bytes' THEN r.value END) AS bytes,
               SUM(CASE WHEN r.name = 'nll' THEN r.value END) / SUM(CASE WHEN r.name = 'tokens' THEN r.value END)
                 AS nll_per_token,
               SUM(CASE WHEN r.name = 'nll' THEN r.value END) / SUM(CASE WHEN r.name = 'bytes' THEN r.value END)
                 / 0.6931471805599453 AS bits_per_byte
        FROM study_job sj CROSS JOIN job j CROSS JOIN record r
        WHERE j.id = sj.job AND j.kind = 'score' AND j.state = 'done' AND r.job = j.id
          AND r.name IN ('nll', 'tokens', 'bytes')
        GROUP BY sj.study, sj.stage, sj.cell, sj.job, j.id
    """,
    "cell_score": """
        SELECT sj.study, sj.stage, sj.cell, sj.base, sj.n, sj.seed, sj.format, j.params ->> 'split' AS split,
               COUNT(*) AS questions, AVG(r.value) AS score
        FROM study_job sj CROSS JOIN job j CROSS JOIN record r
        WHERE j.id = sj.job AND j.kind = 'judge' AND j.state = 'done' AND r.job = j.id AND r.name = 'score'
        GROUP BY sj.study, sj.stage, sj.cell, sj.job, j.id
    """,
    "cell_metric": """
        SELECT sj.study, sj.stage, sj.cell, j.kind, m.name, m.value
        FROM study_job sj CROSS JOIN job j CROSS JOIN metric m
        WHERE j.id = sj.job AND j.state = 'done' AND m.job = j.id
    """,
}


def drop(connection: Connection) -> None:
    """Remove the views, so that the tables below them can change."""
    for name in VIEWS:
        connection.execute(text(f"DROP VIEW IF EXISTS {name}"))


def create(connection: Connection) -> None:
    """Make the views anew; they hold no data."""
    drop(connection)
    for name, body in VIEWS.items():
        connection.execute(text(f"CREATE VIEW {name} AS {body}"))
