"""`python -m api`: serve the api on the settings' host and port."""

import logging

import uvicorn

from api.app import create_app
from jsm_queue.errors import JsmError
from jsm_queue.settings import settings

DEFAULT_PORT = 8080


def main() -> None:
    """Run until a signal."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        config = settings()
        app = create_app(config)
    except JsmError as error:
        raise SystemExit(f"error: {error}") from None
    uvicorn.run(
        app,
        host=config.host,
        port=config.api_port or DEFAULT_PORT,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
