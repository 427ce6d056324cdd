"""The kind prepare: files, metrics, and what is missing."""

import json
from pathlib import Path

from jsm_queue.data.examples import read_examples
from jsm_queue.kinds import ROLE_FILES, FileRef, PrepareParams
from workers.kinds import prepare
from workers.work import Device, Work


def test_pairs_become_a_dataset(tmp_path: Path):
    source = tmp_path / "inputs" / "source"
    source.mkdir(parents=True)
    pairs = [
        {"question": f"第{i}の施設は何を防ぎますか。{'あ' * i}", "answer": f"答え{i}。", "key_facts": [f"答え{i}"]}
        for i in range(60)
    ]
    lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
    (source / "source.jsonl").write_text(lines, encoding="utf-8")
    folder = tmp_path / "out"
    folder.mkdir()
    params = PrepareParams(
        source=FileRef(sha="0" * 64, suffix=".jsonl"),
        bench=None,
        seed=1,
        validation=10,
        test_taught=5,
        test_unseen=5,
        near_duplicate=1.0,
        max_answer_chars=100,
    )
    metrics = prepare.run(Work(params, tmp_path / "inputs", folder, Device("cpu", 1), lambda *report: None)).metrics
    assert set(metrics) == {"train", "validation", "test", "test_taught", "test_unseen", "bench", "dropped"}
    for split in ("train", "validation", "test", "bench"):
        assert len(read_examples(folder / ROLE_FILES[split])) == metrics[split] > 0
    assert metrics["test_taught"] == metrics["test_unseen"] == 0, "what pairs teach is not known"
    assert (folder / ROLE_FILES["data_report"]).is_file()
