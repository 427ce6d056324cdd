"""`python -m api`: serve the api on the settings' host and port."""

import gc
import sys
from types import FrameType
from typing import Any, cast

import uvicorn

from api.app import create_app
from jsm_queue import broker, logs, processes, tls
from jsm_queue.errors import JsmError, SetupError
from jsm_queue.settings import Settings, settings

DEFAULT_PORT = 8080


class Server(uvicorn.Server):
    """Long polls are answered as soon as the api is told to end, so that nobody is cut off."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        cast(Any, self.config.app).state.context.stop.set()
        super().handle_exit(sig, frame)


def certificate(config: Settings) -> dict[str, Any]:
    """uvicorn's options for TLS, none without a certificate. Raises SetupError for half a pair or a wrong one."""
    if config.tls_cert is None and config.tls_key is None:
        return {}
    if config.tls_cert is None or config.tls_key is None:
        raise SetupError("JSM_TLS_CERT and JSM_TLS_KEY go together", "Set both; `jsm tls init` makes them")
    tls.server_context(config.tls_cert, config.tls_key)
    return {"ssl_certfile": config.tls_cert, "ssl_keyfile": config.tls_key, "ssl_ciphers": tls.CIPHERS}


def main() -> None:
    """Run until a signal."""
    try:
        config = settings()
        logs.set_up(config.log_format, config.log_level)
        port = config.api_port or DEFAULT_PORT
        shown = certificate(config)
        if processes.free_port(port, config.host) != port:
            why = processes.refusal(port, config.host)
            raise SetupError(f"Port {port} on {config.host} {why}", "End what listens there, or set JSM_API_PORT")
        # Else these are refused only while the app starts, by a traceback.
        broker.tls_options(config.broker_url or "", tls.read_ca(config.broker_ca))
        app = create_app(config)
    except JsmError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    # What was imported stays: a look of the coordinator need not wait while the collector goes through it again.
    gc.collect()
    gc.freeze()
    serving = uvicorn.Config(app, config.host, port, log_config=None, timeout_graceful_shutdown=2, **shown)
    Server(serving).run()


if __name__ == "__main__":
    main()
