"""The home folder as the CLI sees it: where a running `jsm up` says that it is, and the CLI's token.

<home>/up.lock          held while `jsm up` runs
<home>/endpoint.json    {"api", "flower", "pid"} of the running `jsm up`
<home>/stop             written by `jsm down`: `jsm up` ends when it sees it
<home>/admin.token      the CLI's token, readable by its owner only
<home>/worker/          the local worker's own folder; its identity.json says as whom it joined
<home>/logs/<part>.log  what the parts say
<home>/reports/         reports of `jsm report` and `jsm demo`
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from jsm_queue.errors import SetupError
from jsm_queue.files import write_whole
from jsm_queue.settings import settings


@dataclass(frozen=True)
class Endpoint:
    """Where a running `jsm up` answers. `pid` is its own process."""

    api: str
    flower: str | None
    pid: int


def home() -> Path:
    """The home folder of this process, absolute. Raises SetupError where links lead in a circle."""
    folder = settings().home
    try:
        return folder.resolve()
    except (OSError, RuntimeError) as error:
        raise SetupError(f"{folder} cannot be used ({error})", "Set JSM_HOME to a folder of yours") from error


def read_endpoint(folder: Path) -> Endpoint | None:
    """What the last `jsm up` wrote, or None. It may have been killed since."""
    try:
        return Endpoint(**json.loads((folder / "endpoint.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_endpoint(folder: Path, endpoint: Endpoint) -> None:
    """Tells other commands where the api is."""
    write_whole(folder / "endpoint.json", json.dumps(asdict(endpoint)))


def read_token(folder: Path) -> str | None:
    """The CLI's token of this home folder, or None before the first `jsm up`."""
    try:
        return (folder / "admin.token").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def read_worker_id(folder: Path) -> str | None:
    """As whom the local worker joined a pool, or None before it did."""
    try:
        return json.loads((folder / "worker" / "identity.json").read_text(encoding="utf-8"))["worker"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def worker_folder(given: Path | None) -> Path:
    """The folder of this machine's worker, which may not be there yet. Raises SetupError where it is a file."""
    folder = (given or settings().home / "worker").resolve()
    if folder.exists() and not folder.is_dir():
        raise SetupError(f"{folder} is a file", "Give the worker's own folder with --home, or none")
    return folder
