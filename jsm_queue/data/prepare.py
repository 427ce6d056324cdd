"""Corpus and bench → dataset: what the job kind `prepare` does."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jsm_queue.canonical import canonical_json
from jsm_queue.data.examples import Example, write_examples
from jsm_queue.data.graph import Graph, facts
from jsm_queue.data.leakage import Drop, drop_leaks, drop_unusable
from jsm_queue.data.oddities import oddities, unsupported_numbers, witnesses
from jsm_queue.data.options import GRAPH_NEAR_DUPLICATE, PAIRS_NEAR_DUPLICATE, PrepareOptions
from jsm_queue.data.readers import Pairs
from jsm_queue.data.split import split_pairs
from jsm_queue.data.templates import Split, split_graph
from jsm_queue.data.text import normalize
from jsm_queue.errors import DataError
from jsm_queue.files import write_whole

NAMED = 5  # questions that an error lists


@dataclass(frozen=True)
class Dataset:
    """The four splits and the data report. Without a bench of its own the bench is the test questions."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    bench: list[Example]
    report: dict[str, Any]

    @property
    def splits(self) -> dict[str, list[Example]]:
        """Name → examples, in the order in which they are written."""
        return {"train": self.train, "validation": self.validation, "test": self.test, "bench": self.bench}


class Division(NamedTuple):
    """A corpus and its bench, divided. `bench` is empty where the test questions serve."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    bench: list[Example]
    drops: list[Drop]


def prepare(source: Graph | Pairs, bench: list[Example], options: PrepareOptions) -> Dataset:
    """The dataset of a corpus: the same for the same input and seed.

    With an empty bench the test questions serve as bench. Raises DataError as `divide`.
    """
    train, validation, test, bench, drops = divide(source, bench, options)
    splits = {"train": train, "validation": validation, "test": test} | ({"bench": bench} if bench else {})
    return Dataset(train, validation, test, bench or test, _report(splits, source, drops, options))


def divide(source: Graph | Pairs, bench: list[Example], options: PrepareOptions) -> Division:
    """The splits without the report, which takes longer than they do.

    Raises DataError when the corpus is too small, contradicts the bench, holds its questions, or loses a taught
    fact to near duplicates.
    """
    split, drops = _split(source, bench, options)
    bench, unusable = drop_unusable(bench, "bench")
    held_out = {"validation": split.validation, "test": split.test} | ({"bench": bench} if bench else {})
    train, leaks = drop_leaks(split.train, held_out, _names(source), _threshold(source, options))
    if isinstance(source, Graph):
        _require_taught(train, held_out)
    return Division(train, split.validation, split.test, bench, [*drops, *unusable, *leaks])


def write_dataset(dataset: Dataset, folder: Path) -> None:
    """Writes {train,validation,test,bench}.jsonl and report.json: equal bytes for equal datasets."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, examples in dataset.splits.items():
        write_examples(folder / f"{name}.jsonl", examples)
    write_whole(folder / "report.json", canonical_json(dataset.report))


def _split(source: Graph | Pairs, bench: list[Example], options: PrepareOptions) -> tuple[Split, list[Drop]]:
    if isinstance(source, Graph):
        split = split_graph(source, bench, options)
        train, unusable = drop_unusable(split.train, "train")
        return split._replace(train=train), unusable
    _refuse_overlap(source.examples, bench)
    left_out = [Drop(each.where, each.reason, "source") for each in source.unusable]
    pairs, unusable = drop_unusable(source.examples, "source")
    return split_pairs(pairs, options), [*left_out, *unusable]


def _refuse_overlap(pairs: list[Example], bench: list[Example]) -> None:
    """Refuses a bench that asks what the user's own pairs ask word for word: one of the two files is wrong."""
    asked = {_asked(pair): pair.id for pair in pairs}
    both = [example for example in bench if _asked(example) in asked]
    if both:
        names = ", ".join(f"{each.id} (pair {asked[_asked(each)]})" for each in both[:NAMED])
        raise DataError(
            f"{len(both)} of the {len(bench)} bench questions stand in the corpus word for word: {names}"
            + (", …" if len(both) > NAMED else ""),
            "Take them out of data.source, or ask something else in data.bench",
        )


def _asked(example: Example) -> str:
    return normalize("\n".join(example.questions))


def _threshold(source: Graph | Pairs, options: PrepareOptions) -> float:
    default = GRAPH_NEAR_DUPLICATE if isinstance(source, Graph) else PAIRS_NEAR_DUPLICATE
    return default if options.near_duplicate is None else options.near_duplicate


def _names(source: Graph | Pairs) -> list[str]:
    return [entity.name for entity in source.entities] if isinstance(source, Graph) else []


def _require_taught(train: list[Example], held_out: dict[str, list[Example]]) -> None:
    """Refuses a dataset whose "taught" examples rest on facts that no training example states any more."""
    known = {fact for example in train for fact in example.facts}
    for split, examples in held_out.items():
        for example in examples:
            lost = set(example.facts) - known
            if example.stratum == "taught" and lost:
                raise DataError(
                    f"{split} {example.id}: every training wording of {min(lost)!r} resembles a held-out one",
                    "Raise data.near_duplicate, or reword the bench or the held_out wordings",
                )


def _report(
    splits: dict[str, list[Example]], source: Graph | Pairs, drops: list[Drop], options: PrepareOptions
) -> dict[str, Any]:
    stated = witnesses(_passages(source))
    return {
        "options": asdict(options) | {"near_duplicate": _threshold(source, options)},
        "source": _source_counts(source),
        "counts": {name: _counts(examples) for name, examples in splits.items()},
        "facts": _fact_counts(source, splits["train"]),
        "dropped": {
            "counts": _sorted_counts(d.reason for d in drops),
            "examples": [asdict(d) for d in drops],
        },
        "oddities": {name: oddities(each, options.max_answer_chars) for name, each in splits.items()},
        "unsupported_numbers": {name: unsupported_numbers(each, stated) for name, each in splits.items()},
        "ignored_columns": source.ignored if isinstance(source, Pairs) else [],
        "bench_is_test": "bench" not in splits,
    }


def _source_counts(source: Graph | Pairs) -> dict[str, Any]:
    """What the corpus was read as, and how much there is of it."""
    if isinstance(source, Graph):
        return {"shape": "graph"}
    return {
        "shape": source.shape,
        "conversations": source.conversations,
        "answers": len(source.examples),
        "unanswered": source.unanswered,
    }


def _counts(examples: list[Example]) -> dict[str, Any]:
    return {
        "total": len(examples),
        "by_stratum": _sorted_counts(example.stratum for example in examples),
        "by_relation": _sorted_counts(example.relation for example in examples),
        "by_category": _sorted_counts(example.category for example in examples),
    }


def _sorted_counts(values: Iterable[str]) -> dict[str, int]:
    """Counts by value, in the values' order, without the empty value."""
    return dict(sorted(Counter(value for value in values if value).items()))


def _fact_counts(source: Graph | Pairs, train: list[Example]) -> dict[str, int]:
    if isinstance(source, Pairs):
        return {}
    total = sum(len(fact.triples) for fact in facts(source))
    taught = len({triple for example in train for triple in example.facts})
    return {"total": total, "taught": taught, "unseen": total - taught}


def _passages(source: Graph | Pairs) -> list[tuple[str, str]]:
    """The source as (name, text), to look numbers up in."""
    if isinstance(source, Pairs):
        return [(pair.unit, f"{pair.question} {pair.answer}") for pair in source.examples]
    statements = [each.statement for each in source.relation_types.values()]
    return [("graph", text) for text in [*_names(source), *statements]]
