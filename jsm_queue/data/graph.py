"""A knowledge graph as a file of entities and typed relations, and the facts in it."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from jsm_queue.data.examples import reasons
from jsm_queue.errors import DataError

Id = Annotated[str, StringConstraints(pattern=r"^[^\s\p{Cc}]+$", max_length=50)]
"""An example's id holds two of them, of a subject and of a relation type."""

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Wording(_Part):
    """A question with `{subject}` and its answer with `{object}`."""

    q: Text
    a: Text

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        if "{subject}" not in self.q or "{object}" in self.q:
            raise ValueError(f"the question {self.q!r} must hold {{subject}} and not {{object}}")
        if "{object}" not in self.a:
            raise ValueError(f"the answer {self.a!r} must hold {{object}}: it is the key fact")
        return self


class RelationType(_Part):
    """A relation template: its wordings for training, and the `held_out` ones for validation and test."""

    label: Text
    statement: Text
    templates: Annotated[list[Wording], Field(min_length=1)]
    held_out: Annotated[list[Wording], Field(min_length=2)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        questions = Counter(wording.q for wording in [*self.templates, *self.held_out])
        repeated = [question for question, times in questions.items() if times > 1]
        if repeated:
            raise ValueError(f"the wording {repeated[0]!r} is there twice")
        return self


class Entity(_Part):
    """A node. Its name is what questions and answers say."""

    id: Id
    name: Text
    type: str = ""


class Graph(_Part):
    """Entities, relation types, and relations as (subject id, relation type, object id)."""

    title: str
    language: str = "ja"
    licence: str
    provenance: str
    relation_types: dict[Id, RelationType]
    entities: list[Entity]
    relations: Annotated[list[tuple[Id, Id, Id]], Field(min_length=1)]

    @field_validator("entities")
    @classmethod
    def _once(cls, entities: list[Entity]) -> list[Entity]:
        for what, counts in (
            ("id", Counter(e.id for e in entities)),
            ("name", Counter(e.name for e in entities)),
        ):
            repeated = [value for value, times in counts.items() if times > 1]
            if repeated:
                raise ValueError(f"two entities have the {what} {repeated[0]!r}")
        return entities

    @model_validator(mode="after")
    def _known(self) -> Self:
        ids = {entity.id for entity in self.entities}
        for triple in self.relations:
            unknown = [end for end in (triple[0], triple[2]) if end not in ids]
            if unknown:
                raise ValueError(f"relation {list(triple)}: no entity has the id {unknown[0]!r}")
            if triple[1] not in self.relation_types:
                raise ValueError(f"relation {list(triple)}: {triple[1]!r} is not one of the relation types")
        if len(set(self.relations)) < len(self.relations):
            repeated = Counter(self.relations).most_common(1)[0][0]
            raise ValueError(f"relation {list(repeated)} is there twice")
        return self


@dataclass(frozen=True)
class Fact:
    """All objects of one subject and relation type. One answer lists them: all are taught, or none."""

    subject: Entity
    relation: str
    objects: tuple[Entity, ...]

    @property
    def name(self) -> str:
        """Names the fact in ids and seeded choices."""
        return f"{self.subject.id}.{self.relation}"

    @property
    def triples(self) -> list[str]:
        """As examples list them: "subject relation object", of ids."""
        return [triple_text((self.subject.id, self.relation, each.id)) for each in self.objects]


def triple_text(triple: tuple[str, str, str]) -> str:
    """The form in which examples list a triple; ids hold no spaces."""
    return " ".join(triple)


def parse_graph(value: Any, where: str) -> Graph:
    """A Graph from parsed YAML. Raises DataError that names each wrong place."""
    try:
        return Graph.model_validate(value)
    except ValidationError as error:
        raise DataError(
            f"{where}: {reasons(error)}", "See examples/river/graph.yaml for the form of a graph"
        ) from error


def facts(graph: Graph) -> list[Fact]:
    """The facts in the order of the graph's relations."""
    entities = {entity.id: entity for entity in graph.entities}
    objects: dict[tuple[str, str], list[Entity]] = defaultdict(list)
    for subject, relation, end in graph.relations:
        objects[subject, relation].append(entities[end])
    return [Fact(entities[subject], relation, tuple(ends)) for (subject, relation), ends in objects.items()]
