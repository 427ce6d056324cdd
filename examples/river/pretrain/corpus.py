"""What pretraining takes from the river corpus: names, wordings, and the true triples, so that none is ever told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from jsm_queue.errors import DataError

RIVER = Path(__file__).resolve().parent.parent
GRAPH = RIVER / "graph.yaml"
WORDINGS = Path(__file__).resolve().parent / "wordings.yaml"


class Wording(NamedTuple):
    """A question with a place for {subject} and its answer with a place for {object}."""

    question: str
    answer: str


@dataclass(frozen=True, eq=False)
class Relation:
    """A relation type: how it is worded, and the names that fit its two ends by their type."""

    name: str
    statement: str
    taught: tuple[Wording, ...]
    held_out: tuple[Wording, ...]
    extra: tuple[Wording, ...]
    subjects: tuple[str, ...]
    objects: tuple[str, ...]
    truth: Mapping[str, frozenset[str]]

    @property
    def wordings(self) -> tuple[Wording, ...]:
        return self.taught + self.held_out + self.extra


@dataclass(frozen=True, eq=False)
class Corpus:
    relations: tuple[Relation, ...]
    names: tuple[str, ...]
    prefixes: tuple[str, ...]
    by_subject: Mapping[str, tuple[Relation, ...]]


def read_corpus(graph: Path = GRAPH, wordings: Path = WORDINGS) -> Corpus:
    """Read the knowledge graph and the extra wordings. Raises DataError naming the file and the relation."""
    knowledge, extra = _read_yaml(graph), _read_yaml(wordings)
    types = {entity["id"]: entity["type"] for entity in knowledge["entities"]}
    names = {entity["id"]: entity["name"] for entity in knowledge["entities"]}
    missing = set(knowledge["relation_types"]) ^ set(extra["relations"])
    if missing:
        raise DataError(f"{wordings.name} and {graph.name} differ in {sorted(missing)}", fix="Word both alike.")
    relations = tuple(
        _relation(name, words, extra["relations"][name], knowledge["relations"], types, names)
        for name, words in knowledge["relation_types"].items()
    )
    by_subject = {name: tuple(r for r in relations if name in r.subjects) for name in names.values()}
    return Corpus(relations, tuple(names.values()), tuple(extra["prefixes"]), by_subject)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path.name} cannot be read: {error}", fix="Check the file.") from error


def _relation(
    name: str,
    words: dict[str, Any],
    extra: list[dict[str, str]],
    triples: list[list[str]],
    types: dict[str, str],
    names: dict[str, str],
) -> Relation:
    facts = [(subject, target) for subject, kind, target in triples if kind == name]
    truth: dict[str, set[str]] = {}
    for subject, target in facts:
        truth.setdefault(names[subject], set()).add(names[target])
    return Relation(
        name=name,
        statement=words["statement"],
        taught=_wordings(words["templates"]),
        held_out=_wordings(words["held_out"]),
        extra=_wordings(extra),
        subjects=_alike((subject for subject, _ in facts), types, names),
        objects=_alike((target for _, target in facts), types, names),
        truth={subject: frozenset(targets) for subject, targets in truth.items()},
    )


def _wordings(entries: Iterable[dict[str, str]]) -> tuple[Wording, ...]:
    return tuple(Wording(entry["q"], entry["a"]) for entry in entries)


def _alike(ids: Iterable[str], types: dict[str, str], names: dict[str, str]) -> tuple[str, ...]:
    """Names of all entities that share a type with one of `ids`: wider than the corpus' own ends, which would tell."""
    wanted = {types[id_] for id_ in ids}
    return tuple(names[id_] for id_, kind in types.items() if kind in wanted)
