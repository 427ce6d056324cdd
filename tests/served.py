"""An app behind a real server on a free port of this machine, in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tests.ports import quiet_port
from tests.waiting import wait_for


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The URL where it answers."""
    port = quiet_port()
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started or not thread.is_alive(), "the server")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        app.state.context.stop.set()
        server.should_exit = True
        thread.join(timeout=30)
