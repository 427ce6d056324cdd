"""The store: the truth about studies, jobs, attempts, records and verdicts, in SQLite or Postgres."""
