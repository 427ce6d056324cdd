"""`python -m tests.integration.deaf`: an agent whose consumer is alive, connected and deaf; the first time only."""

import os
import time

from celery import Celery
from celery.worker import state

from jsm_queue import broker
from workers import agent


def consume(app: Celery, _name: str) -> int:
    """Connects, and takes no message until it is told to end."""
    with app.connection_for_read() as connection:
        connection.ensure_connection()
        while state.should_stop is None:
            time.sleep(0.05)
    return 0


if __name__ == "__main__":
    if "HEARD" not in os.environ:
        os.environ["HEARD"] = "1"
        broker.consume = consume
    raise SystemExit(agent.main())
