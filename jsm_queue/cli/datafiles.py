"""A spec's `data` → content hashes of the corpus and the bench."""

from pathlib import Path

from jsm_queue.canonical import content_hash
from jsm_queue.cli import hubdata
from jsm_queue.cli.inputs import Missing, add
from jsm_queue.errors import DataError
from jsm_queue.kinds import FileRef

DATA_SUFFIXES = (".yaml", ".yml", ".jsonl", ".csv", ".json", ".parquet")
"""of a corpus or a bench: what says how its file is read"""


def data_file(name: str, folder: Path, files: dict[str, Path], missing: Missing, key: str, ask_hub: bool) -> FileRef:
    """One file of the corpus or bench. `key`: where the spec names it. Raises DataError, and SetupError for the hub."""
    if name.startswith(hubdata.PREFIX):
        return _hub_file(name, files, missing, key, ask_hub)
    path = folder / name
    suffix = _suffix(path.suffix, name, key)
    if path.exists() and not path.is_file():
        raise DataError(f"{key}: {path} is no regular file", "Give the path of a file, not of a folder or a device")
    if not path.is_file():
        missing(DataError(f"{key}: {path} does not exist", "Correct the path; it is relative to the spec's folder"))
        return FileRef(sha=content_hash(name), suffix=suffix)
    return FileRef(sha=_hashed(path, files, key), suffix=suffix)


def _hub_file(name: str, files: dict[str, Path], missing: Missing, key: str, ask_hub: bool) -> FileRef:
    """With `ask_hub` false a placeholder: nothing is fetched."""
    address = hubdata.parse_address(name, key)
    suffix = _suffix(address.suffix, name, key) if address.file else ".jsonl"
    if not ask_hub:
        missing(DataError(f"{key}: {name} is not fetched in a dry run, so its content is not checked"))
        return FileRef(sha=content_hash(name), suffix=suffix)
    path = hubdata.fetch(address, DATA_SUFFIXES, key)
    return FileRef(sha=_hashed(path, files, key), suffix=_suffix(path.suffix, name, key))


def _suffix(suffix: str, name: str, key: str) -> str:
    if suffix.lower() not in DATA_SUFFIXES:
        fix = "Rename it to what it is: .yaml (a graph or a bench), or .jsonl, .json, .csv, .parquet (rows)"
        raise DataError(f"{key}: {name} ends in {suffix or 'no suffix'}, not in {', '.join(DATA_SUFFIXES)}", fix)
    return suffix.lower()


def _hashed(path: Path, files: dict[str, Path], key: str) -> str:
    try:
        return add(path, files)
    except OSError as error:
        raise DataError(f"{key}: {path} cannot be read ({error.strerror})", "Give a readable file") from error
