"""What makes a study's data unusable, found at submit: before anything is uploaded, let alone trained."""

from collections.abc import Mapping
from pathlib import Path

from jsm_queue.data.graph import Graph
from jsm_queue.data.keyfacts import require_key_facts
from jsm_queue.data.options import PrepareOptions
from jsm_queue.data.prepare import Division, divide
from jsm_queue.data.readers import Pairs, read_bench, read_source
from jsm_queue.errors import DataError
from jsm_queue.kinds import FileRef
from jsm_queue.spec import StudySpec


def check_data(spec: StudySpec, source: FileRef, bench: FileRef | None, files: Mapping[str, Path]) -> None:
    """Divides the data as the job `prepare` will, and keeps nothing of it: seconds for 20 000 pairs.

    `files`: sha → local file; what is not there yet (a placeholder of a dry run) is not checked.
    Raises DataError for what `prepare` would refuse, for more training examples asked for than remain, and for
    questions without the key facts that this study's judge needs; SetupError for a missing package.
    """
    corpus = read_source(files[source.sha], source.suffix) if source.sha in files else None
    questions = read_bench(files[bench.sha], bench.suffix) if bench and bench.sha in files else []
    if corpus is None or (bench and not questions):
        return
    division = divide(corpus, questions, PrepareOptions.of(spec.data))
    if spec.judge.kind == "key_facts":
        _require_judgeable(division)
    _require_enough(spec, corpus, division)


def _require_judgeable(division: Division) -> None:
    """Refuses questions that the judge could not score, before anything is trained for them."""
    if division.bench:
        require_key_facts(division.bench, "bench questions", "Add key_facts to them")
    else:
        fix = "Add key_facts to every pair, or give a bench whose questions have them (data.bench)"
        require_key_facts(division.test, "test questions, which serve as the bench,", fix)


def _require_enough(spec: StudySpec, corpus: Graph | Pairs, division: Division) -> None:
    """Refuses sizes beyond the training examples that remain."""
    remain = len(division.train)
    asked = [("stages.bases.n", spec.stages.bases.n)] if spec.stages.bases else []
    asked += [("stages.scale.sizes", size) for size in (spec.stages.scale.sizes if spec.stages.scale else [])]
    beyond = [(key, size) for key, size in asked if size and size > remain]
    if beyond:
        sizes = ", ".join(str(size) for _, size in beyond)
        raise DataError(
            f"{beyond[0][0]}: {sizes} training examples are asked for, {remain} remain{_whereof(corpus, division)}",
            f"Ask for {remain} at most, or bring more data",
        )


def _whereof(corpus: Graph | Pairs, division: Division) -> str:
    if isinstance(corpus, Graph):
        return " of the graph's questions"
    held_out = len(division.validation) + len(division.test)
    dropped = len(corpus.examples) - held_out - len(division.train)
    return f" of {len(corpus.examples)}: {held_out} are held out, {dropped} dropped (repeated, or near a held-out one)"
