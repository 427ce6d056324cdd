"""The lifecycle against its reference model, on SQLite and on Postgres.

`JSM_MACHINE_EXAMPLES=2000 pytest tests/lifecycle/test_machine.py --timeout 0` is a sweep with new sequences each time.
"""

from pathlib import Path

from sqlalchemy import Engine

from tests.lifecycle import machine


def test_the_lifecycle_does_as_the_model(engine: Engine, tmp_path: Path) -> None:
    machine.run(engine, tmp_path)
