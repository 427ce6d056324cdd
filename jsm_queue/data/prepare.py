"""Corpus and bench → dataset: what the job kind `prepare` does."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jsm_queue.canonical import canonical_json
from jsm_queue.data.examples import Example, write_examples
from jsm_queue.data.graph import Graph, facts
from jsm_queue.data.keyfacts import require_key_facts
from jsm_queue.data.leakage import Drop, drop_leaks, drop_unusable
from jsm_queue.data.oddities import oddities, unsupported_numbers, witnesses
from jsm_queue.data.options import PrepareOptions
from jsm_queue.data.readers import Pairs
from jsm_queue.data.split import split_pairs
from jsm_queue.data.templates import Split, split_graph
from jsm_queue.errors import DataError
from jsm_queue.files import write_whole


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


def prepare(source: Graph | Pairs, bench: list[Example], options: PrepareOptions) -> Dataset:
    """The dataset of a corpus: the same for the same input and seed.

    With an empty bench the test questions serve as bench.
    Raises DataError when the corpus is too small, contradicts the bench, or loses a taught fact to near
    duplicates, and when a question that will be judged has no key facts.
    """
    split, drops = _split(source, bench, options)
    bench, unusable = drop_unusable(bench, "bench")
    _require_judgeable(bench, split.test)
    held_out = {"validation": split.validation, "test": split.test} | ({"bench": bench} if bench else {})
    train, leaks = drop_leaks(split.train, held_out, _names(source), options.near_duplicate)
    if isinstance(source, Graph):
        _require_taught(train, held_out)
    report = _report({"train": train} | held_out, source, [*drops, *unusable, *leaks], options)
    return Dataset(train, split.validation, split.test, bench or split.test, report)


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
    pairs, unusable = drop_unusable(source.examples, "source")
    return split_pairs(pairs, options), unusable


def _names(source: Graph | Pairs) -> list[str]:
    return [entity.name for entity in source.entities] if isinstance(source, Graph) else []


def _require_judgeable(bench: list[Example], test: list[Example]) -> None:
    """Refuses questions that the judge could not score, before anything is trained for them."""
    if bench:
        require_key_facts(bench, "bench questions", "Add key_facts to them")
    else:
        fix = "Add key_facts to every pair, or give a bench whose questions have them (data.bench)"
        require_key_facts(test, "test questions, which serve as the bench,", fix)


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
        "options": asdict(options),
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
        return [(pair.id, f"{pair.question} {pair.answer}") for pair in source.examples]
    statements = [each.statement for each in source.relation_types.values()]
    return [("graph", text) for text in [*_names(source), *statements]]
