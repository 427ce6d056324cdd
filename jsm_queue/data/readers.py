"""Files of a corpus or a bench → a graph, or question–answer pairs."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from jsm_queue.canonical import content_hash
from jsm_queue.data.examples import Example, Stratum, Turn, read_text, reasons
from jsm_queue.data.graph import Graph, parse_graph, triple_text
from jsm_queue.data.rows import read_rows
from jsm_queue.data.shapes import (
    COMMON,
    OPTIONAL,
    SHAPES,
    SHAPES_FIX,
    Conversation,
    Unusable,
    read_conversation,
    shape_of,
)
from jsm_queue.errors import DataError

YAML = (".yaml", ".yml")

KEYS = {
    "graph": ("relation_types", "entities", "relations"),
    "bench": ("questions",),
    "study": ("data", "bases", "stages"),
}
"""Keys by which a YAML file is known for what it is."""
FORMS = {
    "graph": "See examples/river/graph.yaml for the form; pairs are rows (.jsonl, .json, .csv, .parquet)",
    "bench": "See examples/river/bench.yaml for the form",
}

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
    """A user's question–answer pairs: a conversation of k answers is k of them.

    `ignored`: columns or keys that mean nothing here. `shape`: what the rows were read as. `conversations`: usable
    rows. `unanswered`: of these, how many end with a question. `unusable`: the rows that were left out.
    """

    examples: list[Example]
    ignored: list[str] = field(default_factory=list)
    shape: str = "pairs"
    conversations: int = 0
    unanswered: int = 0
    unusable: list[Unusable] = field(default_factory=list)


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
    """A graph (.yaml), or rows in one of the shapes of `shapes` (.jsonl, .json, .csv with a header row, .parquet).

    `suffix` says how to read a file whose name doesn't. Raises DataError that names the line, and SetupError for
    Parquet without its package.
    """
    suffix = (suffix or path.suffix).lower()
    if suffix in YAML:
        return parse_graph(_mapping(path, "graph"), path.name)
    return _pairs(path, suffix)


def read_bench(path: Path, suffix: str = "") -> list[Example]:
    """Bench questions: .yaml as in examples/river/bench.yaml, or rows as in a corpus.

    A row's answer is the reference; of a conversation the last question is asked, after the turns before it. Raises
    DataError that names the question or line, also for what a corpus may leave out, and SetupError as `read_source`.
    """
    suffix = (suffix or path.suffix).lower()
    if suffix not in YAML:
        return _bench_of_rows(path, suffix)
    try:
        bench = _Bench.model_validate(_mapping(path, "bench"))
    except ValidationError as error:
        raise DataError(f"{path.name}: {reasons(error)}", "See examples/river/bench.yaml for the form") from error
    _refuse_repeated_ids((f"{path.name}, question {number}", q.id) for number, q in enumerate(bench.questions, 1))
    return [_bench_example(question) for question in bench.questions]


def _bench_of_rows(path: Path, suffix: str) -> list[Example]:
    pairs = _pairs(path, suffix)
    if pairs.unusable:
        first = pairs.unusable[0]
        raise DataError(f"{path.name}, {first.where}: {first.reason}", "A bench asks all its questions: correct it")
    following = [*pairs.examples[1:], None]
    return [
        example
        for example, after in zip(pairs.examples, following, strict=True)
        if not example.conversation or after is None or after.conversation != example.conversation
    ]


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


def _mapping(path: Path, wanted: str) -> Any:
    """The mapping in a YAML file. Raises DataError for a file that is plainly something else than is `wanted`."""
    value = _yaml(path)
    if isinstance(value, dict) and not value.keys() & {*KEYS[wanted]}:
        found = next((kind for kind, keys in KEYS.items() if value.keys() & {*keys}), "")
        found = f"it looks like a {found}" if found else "it has none of the keys"
    elif not isinstance(value, dict):
        found = "it is empty" if value is None else f"it holds {'a list' if isinstance(value, list) else 'a text'}"
    else:
        return value
    keys = ", ".join(KEYS[wanted])
    raise DataError(f"{path.name}: {found}, expected is a {wanted} ({keys})", FORMS[wanted])


def _yaml(path: Path) -> Any:
    text = read_text(path)
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        _refuse_unsound(path, root)
        return loader.construct_document(root) if root else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also a date that is none, nesting without end
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        if problem == "but found another document":
            problem = "a second document begins (---), and one is read"
        raise DataError(f"{path.name}{line}: {problem}", "Correct the YAML there") from error


def _refuse_unsound(path: Path, root: yaml.Node | None) -> None:
    """Raises DataError for a text that holds NUL or half of a surrogate pair; YAML can write both as escapes."""
    seen: set[int] = set()
    rest: list[Any] = [root]
    while rest:
        node = rest.pop()
        if isinstance(node, list | tuple):
            rest += node
        elif isinstance(node, yaml.CollectionNode) and id(node) not in seen:  # an alias may stand inside itself
            seen.add(id(node))
            rest.append(node.value)
        elif isinstance(node, yaml.ScalarNode) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in node.value):
            what = "the character NUL (U+0000)" if "\0" in node.value else "half of a surrogate pair"
            raise DataError(f"{path.name}, line {node.start_mark.line + 1}: a text holds {what}", "Take it out")


def _pairs(path: Path, suffix: str) -> Pairs:
    """Raises DataError that names file and line."""
    rows = read_rows(path, suffix)
    if not rows:
        raise DataError(f"{path.name}: no question–answer pairs in it", "Give one pair a row (docs/data.md)")
    try:
        shape = shape_of(rows[0])
        read = [read_conversation(row, shape) for row in rows]
    except DataError as error:
        raise DataError(f"{path.name}, {error.message}", error.fix) from error
    talks = [each for each in read if isinstance(each, Conversation)]
    examples = [example for talk in talks for example in _examples(path.name, talk)]
    unusable = [each for each in read if isinstance(each, Unusable)]
    _require_answers(path.name, examples, unusable)
    known = {*SHAPES[shape], *COMMON, *OPTIONAL.get(shape, ())}
    ignored = {key for row in rows for key in row.value if key not in known}
    ignored |= {f"{SHAPES[shape][0]}[].{key}" for talk in talks for key in talk.ignored}
    _refuse_repeated_ids((f"{path.name}, {talk.where}", name) for talk in talks if talk.id for name in _names(talk))
    return Pairs(examples, sorted(ignored), shape, len(talks), sum(talk.unanswered for talk in talks), unusable)


def _examples(file: str, talk: Conversation) -> list[Example]:
    """An example an answer, the turns before it as its history."""
    names = _names(talk)
    try:
        _usable_id(names[-1])
    except ValueError as error:
        fix = f"An id has at most {MAX_ID} characters, on one line; of a conversation its answers' numbers count too"
        raise DataError(f"{file}, {talk.where}: id: {error}", fix) from error
    return [
        Example(
            id=name,
            question=exchange.question,
            answer=exchange.answer,
            history=[Turn(question=q, answer=a) for q, a, _ in talk.exchanges[:index]],
            system=talk.system,
            key_facts=exchange.key_facts,
            category=talk.category,
            conversation=_name(talk) if len(names) > 1 else "",
        )
        for index, (name, exchange) in enumerate(zip(names, talk.exchanges, strict=True))
    ]


def _names(talk: Conversation) -> list[str]:
    """The ids of a conversation's examples: its own, or "its own.1", "….2", … where it has several."""
    several = len(talk.exchanges) > 1
    return [f"{_name(talk)}.{i}" if several else _name(talk) for i in range(1, len(talk.exchanges) + 1)]


def _name(talk: Conversation) -> str:
    """The id that was given, or one of the content: it does not depend on the row's place."""
    if talk.id:
        return talk.id
    said = [[exchange.question, exchange.answer] for exchange in talk.exchanges]
    plain = len(said) == 1 and talk.system is None
    return content_hash(said[0] if plain else [talk.system, *said])[:12]


def _require_answers(file: str, examples: list[Example], unusable: list[Unusable]) -> None:
    """Refuses a file in which nothing can be learned."""
    if not examples:
        reasons = Counter(each.reason for each in unusable)
        told = ", ".join(f"{times} {reason}" for reason, times in reasons.most_common(3))
        raise DataError(f"{file}: none of its {len(unusable)} rows can be used ({told})", SHAPES_FIX)
    if not any(example.answer for example in examples):
        raise DataError(f"{file}: none of its {len(examples)} questions has an answer", "Give each row its answer")


def _refuse_repeated_ids(named: Iterable[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for where, name in named:
        if name in seen:
            raise DataError(f"{where}: the id {name!r} is already that of {seen[name]}", "Give each an id of its own")
        seen[name] = where
