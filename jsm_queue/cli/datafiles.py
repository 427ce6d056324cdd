"""A spec's `data` → content hashes of the corpus and the bench."""

from pathlib import Path

from jsm_queue.canonical import content_hash
from jsm_queue.cli.inputs import Missing, add
from jsm_queue.errors import DataError
from jsm_queue.kinds import FileRef

DATA_SUFFIXES = (".yaml", ".yml", ".jsonl", ".csv")
"""of a corpus or a bench: what says how its file is read"""


def data_file(name: str, folder: Path, files: dict[str, Path], missing: Missing, key: str) -> FileRef:
    """One file of the corpus or bench. `key`: where the spec names it. Raises DataError."""
    path = folder / name
    suffix = path.suffix.lower()
    if suffix not in DATA_SUFFIXES:
        fix = "Rename it to what it is: .yaml (a graph or a bench), .jsonl or .csv (question–answer pairs)"
        raise DataError(f"{key}: {name} ends in {suffix or 'no suffix'}, not in {', '.join(DATA_SUFFIXES)}", fix)
    if not path.is_file():
        missing(DataError(f"{key}: {path} does not exist", "Correct the path; it is relative to the spec's folder"))
        return FileRef(sha=content_hash(name), suffix=suffix)
    return FileRef(sha=add(path, files), suffix=suffix)
