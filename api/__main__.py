"""`python -m api`: serve the api on the settings' host and port."""

import sys
from types import FrameType
from typing import Any, cast

import uvicorn

from api.app import create_app
from jsm_queue import logs, processes
from jsm_queue.errors import JsmError, SetupError
from jsm_queue.settings import settings

DEFAULT_PORT = 8080


class Server(uvicorn.Server):
    """Long polls are answered as soon as the api is told to end, so that nobody is cut off."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        cast(Any, self.config.app).state.context.stop.set()
        super().handle_exit(sig, frame)


def main() -> None:
    """Run until a signal."""
    try:
        config = settings()
        logs.set_up(config.log_format, config.log_level)
        port = config.api_port or DEFAULT_PORT
        if processes.free_port(port, config.host) != port:
            raise SetupError(f"Port {port} on {config.host} is taken", "End what listens there, or set JSM_API_PORT")
        app = create_app(config)
    except JsmError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    Server(uvicorn.Config(app, host=config.host, port=port, log_config=None, timeout_graceful_shutdown=2)).run()


if __name__ == "__main__":
    main()
