"""Corpus → dataset."""

from pathlib import Path

from jsm_queue.data.options import PrepareOptions
from jsm_queue.data.prepare import Dataset, prepare, write_dataset
from jsm_queue.data.readers import read_bench, read_source
from jsm_queue.kinds import PrepareParams
from workers.work import Outcome, Work


def run(work: Work) -> Outcome:
    """{train,validation,test,bench}.jsonl and report.json."""
    params: PrepareParams = work.params
    source = read_source(_leaf(work.inputs / "source"), params.source.suffix)
    bench = read_bench(_leaf(work.inputs / "bench"), params.bench.suffix) if params.bench else []
    work.progress(0, 2, {})
    dataset = prepare(source, bench, PrepareOptions.of(params))
    work.progress(1, 2, {})
    write_dataset(dataset, work.folder)
    return Outcome(metrics=_metrics(dataset))


def _leaf(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def _metrics(dataset: Dataset) -> dict[str, float]:
    test = [example.stratum for example in dataset.test]
    return {
        "train": len(dataset.train),
        "validation": len(dataset.validation),
        "test": len(test),
        "test_taught": test.count("taught"),
        "test_unseen": test.count("unseen"),
        "bench": len(dataset.bench),
        "dropped": sum(dataset.report["dropped"]["counts"].values()),
    }
