"""`jsm demo`: what it says before it begins, and what it leaves running."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from jsm_queue import costs, planner
from jsm_queue.cli import demo, plan, probe, resolve, studies, up, view
from jsm_queue.cli.supervisor import Part, Supervisor
from jsm_queue.settings import settings
from jsm_queue.spec import read_spec

SPEC = read_spec(demo.find_spec())
INPUTS = resolve.sketch(SPEC, demo.find_spec().parent)[0].inputs
WANTED = planner.preview(SPEC, INPUTS)


def snapshot(done: set[str], state: str = "running", decided: tuple[str, ...] = ()) -> view.Snapshot:
    """The demo's study with some jobs done and some stages decided."""
    study: dict[str, Any] = {"id": "a" * 64, "name": SPEC.name, "state": state, "jobs": {"done": len(done)}}
    study |= {"spec": SPEC.model_dump(mode="json"), "inputs": INPUTS.model_dump(mode="json")}
    study["verdicts"] = [{"stage": stage} for stage in decided]
    return view.Snapshot(study, [{"id": job, "state": "done"} for job in done])


@pytest.fixture(autouse=True)
def two_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "machine_for", lambda *_: costs.cpu(2))


def test_a_new_study_is_told_with_its_time() -> None:
    total = len({w.job.id for w in WANTED})
    time = plan.about(costs.estimate(WANTED, SPEC, INPUTS.facts, costs.cpu(2)), costs.cpu(2))
    assert demo.plan_line(snapshot(set()), gpu=False).startswith(
        f"[bold]PLAN river-demo[/]   {total} jobs, {time}   study"
    )


def test_the_time_is_that_of_the_rest() -> None:
    trained = {w.job.id for w in WANTED if w.job.kind == "train"}
    left = [w for w in WANTED if w.job.kind != "train"]
    time = plan.about(costs.estimate(left, SPEC, INPUTS.facts, costs.cpu(2)), costs.cpu(2))
    assert f", {len(trained)} done already, {time} " in demo.plan_line(snapshot(trained), gpu=False)


def test_a_latency_job_is_done_with_its_stage() -> None:
    others = {w.job.id for w in WANTED if w.job.kind != "latency"}
    left = demo.still_to_do(WANTED, snapshot(others, decided=("scale", "bases")))
    assert [(w.job.kind, w.stage) for w in left] == [("latency", "quantization")]


def test_an_ended_study_needs_no_time() -> None:
    assert "about" not in demo.plan_line(snapshot(set(), state="ended"), gpu=False)


def test_on_a_gpu_the_real_model_is_trained_too() -> None:
    trained = {base.name for base in demo.variant(SPEC, gpu=True).bases if base.train}
    assert trained == {"river-qwen2", "river-llama", "smollm2-135m"}
    assert demo.variant(SPEC, gpu=False) == SPEC
    assert "about" not in demo.plan_line(snapshot(set()), gpu=True)


@pytest.mark.parametrize(
    ("gpus", "torch", "found"),
    [
        ({"names": ["RTX"]}, {"usable": True}, True),
        ({"names": ["RTX"]}, {"usable": False}, False),
        ({"names": ["RTX"]}, {"error": "no module", "missing": True}, False),
        ({"names": []}, {"usable": True}, False),
        ({}, {}, False),
    ],
)
def test_a_gpu_counts_where_torch_can_use_it(
    monkeypatch: pytest.MonkeyPatch, gpus: dict[str, Any], torch: dict[str, Any], found: bool
) -> None:
    monkeypatch.setattr(probe, "ask", {"gpus": gpus, "torch": torch}.__getitem__)
    assert demo.has_gpu() is found


@pytest.mark.parametrize("running", [[], ["worker"], ["flower"], ["worker", "flower"]])
def test_what_is_kept_is_all_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, running: list[str]) -> None:
    """Also where the study had ended before, so that nothing but the api was started."""
    pool = up.Pool(tmp_path, Supervisor(tmp_path, print), {}, {}, "http://127.0.0.1:1", "token")
    parts = pool.supervisor.parts
    monkeypatch.setattr(up.Pool, "start_worker", lambda _: parts.append(part("worker")))
    monkeypatch.setattr(up.Pool, "start_flower", lambda _: parts.append(part("flower")))
    parts += [part(name) for name in running]
    demo.tell_kept(pool)
    assert sorted(part.name for part in parts) == ["flower", "worker"]


def part(name: str) -> Part:
    return Part(name, start=lambda: pytest.fail("not here"), log=Path(), process=None, started_at=0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "worker"), [(None, {"JSM_HUB": "direct", "JSM_COURTESY": "no"}), ("yes", {"JSM_HUB": "direct"})]
)
def test_the_demos_worker_waits_for_no_mains_unless_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str | None, worker: dict[str, str]
) -> None:
    pool = up.Pool(tmp_path, Supervisor(tmp_path, print), {}, {}, "http://127.0.0.1:1", "token")
    pool.worker_env = {"JSM_HUB": "direct"}

    @contextmanager
    def running(_: Path) -> Iterator[up.Pool]:
        yield pool

    monkeypatch.setattr(up, "running", running)
    monkeypatch.setattr(demo, "study", lambda *_: 0)
    monkeypatch.setenv("JSM_HOME", str(tmp_path))
    monkeypatch.delenv("JSM_COURTESY", raising=False)
    if told:
        monkeypatch.setenv("JSM_COURTESY", told)
    settings.cache_clear()
    assert demo.run(keep=False) == 0
    settings.cache_clear()
    assert pool.worker_env == worker


@pytest.mark.parametrize("failed", [2, 0])
def test_at_its_end_it_says_how_to_try_again_what_was_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], failed: int
) -> None:
    monkeypatch.setattr(studies, "home", lambda: tmp_path)
    report = httpx.MockTransport(lambda _: httpx.Response(200, json={"recommendation": None}))
    ended = snapshot(set(), state="ended")
    ended.study["jobs"].update({"failed": failed, "quarantined": 0, "skipped": 0})
    with httpx.Client(base_url="http://api", transport=report) as api:
        status = demo.finish(api, Path("study.yaml"), ended, {"run": 1, "reused": 0}, 1.0)
    advice = "2 jobs failed for good; `jsm retry` tries them again"
    assert (status, advice in capsys.readouterr().out) == (bool(failed), bool(failed))
