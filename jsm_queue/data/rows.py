"""Files of rows → the rows as plain values, each with the place it stands at: JSONL, JSON, CSV, Parquet."""

import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from jsm_queue.data.examples import numbered_lines, read_text
from jsm_queue.errors import DataError, SetupError


class _KeyTwice(ValueError):
    """An object that gives a key twice: which of the two is meant?"""


class Row(NamedTuple):
    """One row: where it stands ("line 3"), and its keys. What is null or an empty cell has no key."""

    where: str
    value: dict[str, Any]


def read_rows(path: Path, suffix: str) -> list[Row]:
    """The rows of a file. Raises DataError that names the line, SetupError for Parquet without its package."""
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if suffix not in readers:
        raise DataError(
            f"{path.name}: cannot read a corpus of the form {suffix or '(no suffix)'}",
            "Give a graph as .yaml, or rows as .jsonl, .json, .csv or .parquet",
        )
    return [Row(where, _given(value)) for where, value in readers[suffix](path)]


def _given(value: dict[str, Any]) -> dict[str, Any]:
    return {key: each for key, each in value.items() if each is not None}


def _jsonl(path: Path) -> list[Row]:
    return [_object(path, f"line {number}", _parsed(path, number, line)) for number, line in numbered_lines(path)]


def _json(path: Path) -> list[Row]:
    """One list of objects; or one object a line, as many files of the hub are that end in .json."""
    text = read_text(path)
    if not text.lstrip().startswith("["):
        return _jsonl(path)
    values = _parsed(path, 1, text)
    return [_object(path, f"item {number}", value) for number, value in enumerate(values, 1)]


def _parsed(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path.name}, line {line + error.lineno - 1}: not JSON ({error.msg} at column {error.colno})",
            "Write one object a line (.jsonl), or one list of objects (.json)",
        ) from error
    except _KeyTwice as error:
        where = f", line {line}" if "\n" not in text.strip() else ""
        raise DataError(
            f"{path.name}{where}: the key {error} is twice in one object", "Leave one of them out"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or nesting without end
        raise DataError(
            f"{path.name}, line {line}: JSON that cannot be read ({type(error).__name__})",
            "Write texts, and lists of texts, only",
        ) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _KeyTwice(repr(next(key for key in keys if keys.count(key) > 1)[:40]))
    return value


def _object(path: Path, where: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{path.name}, {where}: not a JSON object", 'Write {"question": …, "answer": …}')
    return Row(where, value)


def _csv(path: Path) -> list[Row]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        _refuse_repeated_columns(path, list(reader.fieldnames or []))
        for row in reader:
            if None in row:
                raise DataError(
                    f"{path.name}, line {reader.line_num}: more cells than the header has columns",
                    'Put cells that hold a comma into double quotes "…"',
                )
            rows.append(Row(f"line {reader.line_num}", _cells(row)))
    except csv.Error as error:
        raise DataError(
            f"{path.name}, after line {reader.line_num}: {error}", "Close its double quotes, and double those inside"
        ) from error
    return rows


def _cells(row: dict[str, str | None]) -> dict[str, Any]:
    """A row of a CSV file. In its cell `key_facts` "a|b; c" stands for [[a, b], [c]]."""
    cells: dict[str, Any] = {key: cell for key, cell in row.items() if cell is not None}
    if "key_facts" in cells:
        cells["key_facts"] = [fact.split("|") for fact in cells["key_facts"].split(";")]
    return cells


def _refuse_repeated_columns(path: Path, columns: list[str]) -> None:
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise DataError(f"{path.name}: two columns have the name {repeated[0]!r}", "Give each column a name of its own")


def _parquet(path: Path) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        fix = "pip install 'jsm-queue[parquet]' here and on every worker, or save the rows as .jsonl"
        raise SetupError(f"{path.name}: a Parquet file needs the package pyarrow", fix) from error
    try:
        values = parquet.read_table(path).to_pylist()
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise DataError(f"{path}: cannot be read ({error.strerror})", "Give the path of a readable file") from error
        raise _not_parquet(path, error) from error
    except (pyarrow.ArrowException, ValueError) as error:
        raise _not_parquet(path, error) from error
    return [Row(f"row {number}", value) for number, value in enumerate(values, 1)]


def _not_parquet(path: Path, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{path.name}: not a Parquet file that can be read ({reason})", "Write it anew, or as .jsonl")
