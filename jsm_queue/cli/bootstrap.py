"""`python -m jsm_queue.cli.bootstrap FILE`: the first secrets of a pool whose parts are started by something else.

For containers and service managers, which start `python -m api` and the workers themselves: makes sure of the home
folder's admin token, and writes a new invite for one worker to FILE.
"""

import sys
from pathlib import Path

from jsm_queue.cli.home import home
from jsm_queue.cli.up import admin_token
from jsm_queue.files import write_secret
from jsm_queue.settings import settings
from jsm_queue.store.database import open_store
from jsm_queue.store.tokens import create_token


def main(invite_file: Path) -> None:
    """Writes `<home>/admin.token` where it is missing, and the invite."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    admin_token(settings(), folder)
    write_secret(invite_file, create_token(open_store(settings().store_url), "invite"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
