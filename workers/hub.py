"""`python -m workers.hub REPOSITORY COMMIT FOLDER`: fetch a base model of the hub, resuming where an earlier
try broke off.

Only what a safetensors model needs, never pickled weights or code. `.complete` in the folder is written last.
Its last line of output says what went wrong; exit code 2 means that trying again would not help.
"""

import os
import sys
from pathlib import Path

from jsm_queue import processes
from workers.cache import REFUSED

ALLOWED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
NESTED = ("*/*",)  # other formats of the same model


def main() -> int:
    """Returns the exit code."""
    processes.exit_with_parent()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    repository, commit, folder = sys.argv[1:]
    if constants.HF_HUB_OFFLINE:  # asking again would not help; another worker may have it, or the network
        print(f"it is not in {folder}, and HF_HUB_OFFLINE forbids to ask {constants.ENDPOINT}", file=sys.stderr)
        return REFUSED
    try:
        snapshot_download(
            repository,
            revision=commit,
            local_dir=folder,
            allow_patterns=list(ALLOWED),
            ignore_patterns=list(NESTED),
        )
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return REFUSED
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    (Path(folder) / ".complete").touch()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
