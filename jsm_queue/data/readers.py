"""Files of a corpus or a bench → a graph, or question–answer pairs."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from jsm_queue.canonical import content_hash
from jsm_queue.data.examples import Example, Stratum, numbered_lines, read_text, reasons
from jsm_queue.data.graph import Graph, parse_graph, triple_text
from jsm_queue.errors import DataError

MAX_ID = 120
"""Characters: a record's item has 200, and timings write a cell's label before the id."""


def _usable_id(value: str) -> str:
    if len(value) > MAX_ID:
        raise ValueError(f"longer than {MAX_ID} characters")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError("holds a control character")
    return value


Id = Annotated[str, AfterValidator(_usable_id)]


@dataclass(frozen=True)
class Pairs:
    """A user's question–answer pairs. `ignored`: columns or keys that mean nothing here."""

    examples: list[Example]
    ignored: list[str] = field(default_factory=list)


class _Row(BaseModel):
    """One pair, as a user writes it."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    question: str
    answer: str
    id: Id = ""
    category: str = ""
    key_facts: list[list[str]] = []

    @field_validator("key_facts", mode="before")
    @classmethod
    def _spellings(cls, value: Any) -> Any:
        """In a cell "a|b; c" is [[a, b], [c]]; in a list, a plain string is a key fact with one spelling."""
        if isinstance(value, str):
            return [each.split("|") for each in value.split(";")]
        if isinstance(value, list):
            return [[each] if isinstance(each, str) else each for each in value]
        return value

    @field_validator("key_facts")
    @classmethod
    def _without_blanks(cls, value: list[list[str]]) -> list[list[str]]:
        stripped = [[spelling.strip() for spelling in spellings if spelling.strip()] for spellings in value]
        return [spellings for spellings in stripped if spellings]


class _Question(BaseModel):
    """One question of a bench in YAML."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[Id, Field(min_length=1)]
    question: Annotated[str, Field(min_length=1)]
    reference: Annotated[str, Field(min_length=1)]
    category: str = ""
    key_facts: Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(min_length=1)]
    facts: list[tuple[str, str, str]] = []
    stratum: Stratum = ""


class _Bench(BaseModel):
    model_config = ConfigDict(extra="forbid")

    questions: Annotated[list[_Question], Field(min_length=1)]
    licence: str = ""


def read_source(path: Path, suffix: str = "") -> Graph | Pairs:
    """A graph (.yaml), or question–answer pairs (.jsonl, .csv with a header row; UTF-8).

    Pairs have `question` and `answer`, and may have `id`, `category` and `key_facts` (a list of strings or
    of lists of spellings; in CSV "a|b; c": spellings by "|", key facts by ";"). `suffix` says how to read a
    file whose name doesn't. Raises DataError that names the line.
    """
    suffix = (suffix or path.suffix).lower()
    if suffix in (".yaml", ".yml"):
        return parse_graph(_yaml(path), path.name)
    return _pairs(path, suffix)


def read_bench(path: Path, suffix: str = "") -> list[Example]:
    """Bench questions (.yaml as in examples/river/bench.yaml; or pairs, whose answer is the reference).

    Raises DataError that names the question or line.
    """
    suffix = (suffix or path.suffix).lower()
    if suffix not in (".yaml", ".yml"):
        return _pairs(path, suffix).examples
    try:
        bench = _Bench.model_validate(_yaml(path))
    except ValidationError as error:
        raise DataError(f"{path.name}: {reasons(error)}", "See examples/river/bench.yaml for the form") from error
    _refuse_repeated_ids((f"question {q.id!r}", q.id) for q in bench.questions)
    return [_bench_example(question) for question in bench.questions]


def _bench_example(question: _Question) -> Example:
    return Example(
        id=question.id,
        question=question.question,
        answer=question.reference,
        key_facts=question.key_facts,
        category=question.category,
        facts=[triple_text(triple) for triple in question.facts],
        stratum=question.stratum,
    )


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise DataError(f"{path.name}{line}: {problem}", "Correct the YAML there") from error


def _pairs(path: Path, suffix: str) -> Pairs:
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows}
    if suffix not in readers:
        raise DataError(
            f"{path.name}: cannot read a corpus of the form {suffix or '(no suffix)'}",
            "Give a graph as .yaml, or question–answer pairs as .jsonl or .csv",
        )
    rows = readers[suffix](path)
    if not rows:
        raise DataError(f"{path.name}: no question–answer pairs in it", "Give one pair a line")
    examples = [_pair_example(path.name, number, row) for number, row in rows]
    numbered = zip((number for number, _ in rows), examples, rows, strict=True)
    _refuse_repeated_ids((f"{path.name}, line {number}", e.id) for number, e, (_, row) in numbered if row.get("id"))
    columns = {key for _, row in rows for key in row}
    return Pairs(examples, sorted(columns - set(_Row.model_fields)))


def _pair_example(file: str, number: int, value: Mapping[str, Any]) -> Example:
    try:
        row = _Row.model_validate(value)
    except ValidationError as error:
        raise DataError(
            f"{file}, line {number}: {reasons(error)}",
            f"Each pair needs question and answer; an id has at most {MAX_ID} characters, on one line",
        ) from error
    question, answer = row.question.strip(), row.answer.strip()
    return Example(
        id=row.id or content_hash([question, answer])[:12],
        question=question,
        answer=answer,
        key_facts=row.key_facts,
        category=row.category,
    )


def _jsonl_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows = []
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path.name}, line {number}: not JSON ({error.msg} at column {error.colno})",
                "Write one object a line",
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{path.name}, line {number}: not a JSON object", 'Write {"question": …, "answer": …}')
        rows.append((number, row))
    return rows


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        for row in reader:
            if None in row:
                raise DataError(
                    f"{path.name}, line {reader.line_num}: more cells than the header has columns",
                    'Put cells that hold a comma into double quotes "…"',
                )
            rows.append((reader.line_num, {key: cell for key, cell in row.items() if cell is not None}))
    except csv.Error as error:
        raise DataError(
            f"{path.name}, after line {reader.line_num}: {error}", "Close its double quotes, and double those inside"
        ) from error
    missing = {"question", "answer"} - set(reader.fieldnames or [])
    if missing:
        raise DataError(
            f"{path.name}: the header row lacks {' and '.join(sorted(missing))}",
            "Name the columns question and answer",
        )
    return rows


def _refuse_repeated_ids(named: Iterable[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for where, name in named:
        if name in seen:
            raise DataError(f"{where}: the id {name!r} is already that of {seen[name]}", "Give each an id of its own")
        seen[name] = where
