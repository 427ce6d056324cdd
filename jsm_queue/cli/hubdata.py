"""A data file of the hub → a local file: `hub:ORG/NAME[@REVISION][/FILE]`.

The file is fetched at submit and uploaded like any other, so workers need no hub for it, and its content is what names
the dataset: a branch that moves on makes another study.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from jsm_queue.errors import DataError, HubAwayError, JsmError, SetupError

PREFIX = "hub:"
_ADDRESS = re.compile(
    r"hub:(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+?)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/@]+|[^/@]+))?(?:/(?P<file>[^@]+))?"
)
_ABOUT = {"dataset_infos.json", "dataset_dict.json", "config.json"}
"""Files of a dataset's repository that describe it."""
NAMED = 8  # files that an error lists


class HubFile(NamedTuple):
    """One file of a dataset on the hub; `file` "" where the address names none."""

    repo: str
    revision: str | None
    file: str

    @property
    def suffix(self) -> str:
        """What says how it is read; "" where the address names no file."""
        return PurePosixPath(self.file).suffix.lower()


def parse_address(name: str, key: str) -> HubFile:
    """Raises DataError for another form. `key`: where the spec names it."""
    match = _ADDRESS.fullmatch(name)
    if match is None:
        fix = "Write hub:ORG/NAME, hub:ORG/NAME/FILE or hub:ORG/NAME@REVISION/FILE"
        raise DataError(f"{key}: {name!r} is no address of a dataset on the hub", fix)
    return HubFile(match["repo"], match["revision"], match["file"] or "")


def fetch(address: HubFile, suffixes: tuple[str, ...], key: str) -> Path:
    """The file in the hub's cache on this machine, downloaded where it is not there.

    Raises DataError for what the hub does not have, SetupError when it cannot be asked.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        fix = "pip install 'jsm-queue[worker]', or download the file and name its path"
        raise SetupError(f"{key}: a hub dataset needs the package huggingface_hub", fix) from error
    hub.logging.set_verbosity_error()  # it tells every retry, and we the outcome
    try:
        file = address.file or _only_file(hub.HfApi(), address, suffixes, key)
        return Path(hub.hf_hub_download(address.repo, file, repo_type="dataset", revision=address.revision))
    except JsmError:
        raise
    except Exception as error:  # which HTTP library's errors come through depends on the package's version
        raise _told(error, address, key) from error


def _only_file(api: Any, address: HubFile, suffixes: tuple[str, ...], key: str) -> str:
    """The one data file of a dataset. Raises DataError when there is none, or a choice."""
    siblings = api.dataset_info(address.repo, revision=address.revision).siblings or []
    every = [sibling.rfilename for sibling in siblings]
    found = [name for name in every if PurePosixPath(name).suffix.lower() in suffixes]
    found = [name for name in found if PurePosixPath(name).name not in _ABOUT and not name.startswith(".")]
    if len(found) == 1:
        return found[0]
    if not found:
        fix = f"Download and convert it, or name its converted copy: {PREFIX}{address.repo}@refs/convert/parquet/FILE"
        raise DataError(f"{key}: {address.repo} holds no file that ends in {', '.join(suffixes)}", fix)
    listed = ", ".join(found[:NAMED]) + (", …" if len(found) > NAMED else "")
    fix = f"Name one: {PREFIX}{address.repo}{'@' + address.revision if address.revision else ''}/{found[0]}"
    raise DataError(f"{key}: {address.repo} holds {len(found)} data files: {listed}", fix)


def _told(error: Exception, address: HubFile, key: str) -> JsmError:
    where = f"{key}: {address.repo}" + (f" at {address.revision}" if address.revision else "")
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, ValueError) or status in (400, 401, 403, 404, 410):
        fix = "Check id, revision and file; a gated dataset wants its terms accepted, and HF_TOKEN"
        return DataError(f"{where} cannot be had from the hub ({reason})", fix)
    fix = "Check the network (and HF_HUB_OFFLINE), or download the file and name its path"
    return HubAwayError(f"{where}: the hub does not answer ({reason})", fix)
