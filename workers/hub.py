"""`python -m workers.hub REPOSITORY COMMIT FOLDER [--missing]`: fetch a base model of the hub, resuming where an
earlier try broke off; or print how many bytes of it are missing.

Only what a safetensors model needs, never pickled weights or code, and only as the hub's hashes say. `.complete` in the
folder is written last. Its last line of standard error says what went wrong; exit code 2 means that trying again would
not help.
"""

import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jsm_queue import processes
from jsm_queue.files import write_whole
from jsm_queue.hub import ALLOWED, HubFile, is_allowed, is_right
from workers.cache import REFUSED

NESTED = ("*/*",)  # other formats of the same model
PATIENCE_S = "60"  # the api may have to fetch what it is asked for


def main() -> int:
    """Returns the exit code."""
    processes.exit_with_parent()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    repository, commit, folder, *options = sys.argv[1:]
    if constants.HF_HUB_OFFLINE:  # asking again would not help; another worker may have it, or the network
        print(f"it is not in {folder}, and HF_HUB_OFFLINE forbids to ask {constants.ENDPOINT}", file=sys.stderr)
        return REFUSED
    try:
        files = _list(repository, commit)
        if options == ["--missing"]:
            print(sum(_missing(Path(folder) / file.path, file.size) for file in files))
            return 0
        _fetch(repository, commit, Path(folder), files)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return REFUSED
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    (Path(folder) / ".complete").touch()
    return 0


def _list(repository: str, commit: str) -> list[HubFile]:
    """What we take of the repository."""
    from huggingface_hub import HfApi

    found = []
    for entry in HfApi().list_repo_tree(repository, revision=commit):
        file: Any = entry
        if hasattr(file, "size") and is_allowed(file.path):
            sha256 = file.lfs.sha256 if file.lfs else None
            found.append(HubFile(path=file.path, size=file.size, oid=file.blob_id or "", sha256=sha256))
    return found


def _fetch(repository: str, commit: str, folder: Path, files: list[HubFile]) -> None:
    """Raises OSError for a file that is not what the hub lists; it is removed then."""
    from huggingface_hub import snapshot_download

    snapshot_download(
        repository,
        revision=commit,
        local_dir=folder,
        allow_patterns=list(ALLOWED),
        ignore_patterns=list(NESTED),
    )
    for file in files:
        path = folder / file.path
        if not is_right(path, file):
            path.unlink()
            raise OSError(f"{file.path} arrived with another content than the hub lists")


def _missing(path: Path, size: int) -> int:
    """Bytes. What of a file that broke off is here already counts as missing: who knows if it can be gone on with."""
    try:
        return size if path.stat().st_size != size else 0
    except FileNotFoundError:
        return size


def through_api(api: str, token: str, ca: str | None, home: Path) -> dict[str, str]:
    """Environment in which the hub is the pool's api. It knows this worker by its own token; HF_TOKEN of this machine
    goes nowhere, and no proxy sees anything. `ca`: the PEM text of the authority by which the api is known.
    """
    variables = {
        "HF_ENDPOINT": f"{api.rstrip('/')}/v1/hub",
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": PATIENCE_S,
        "HF_HUB_DOWNLOAD_TIMEOUT": PATIENCE_S,
    }
    host = urlsplit(api).hostname or ""
    variables |= {name: ",".join(filter(None, [os.environ.get(name), host])) for name in ("NO_PROXY", "no_proxy")}
    return variables | ({"SSL_CERT_FILE": str(write_whole(home / "ca.pem", ca))} if ca else {})


if __name__ == "__main__":
    raise SystemExit(main())
