"""The planner: complete, idempotent, independent of arrival order, and never stuck on a dead cell."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsm_queue.planner import TERMINAL, Plan, Study, plan, preview
from tests.unit.studies import inputs, spec

DECISIONS: dict[str, dict[str, Any]] = {
    "scale": {"n": 10},
    "bases": {"chosen": ["b"]},
    "quantization": {"format": "Q8_0"},
}


def study(states: dict[str, str], decisions: dict[str, dict[str, Any]]) -> Study:
    toy = spec()
    return Study("s" * 64, toy, inputs(toy), "class A", states, decisions)


def ids(of: Plan) -> set[str]:
    return {wanted.job.id for wanted in of.jobs}


def run(seed: int, dead: float) -> tuple[dict[str, str], list[str], int]:
    """Play a whole study: jobs end in random order, some of them without a result; needs are honoured."""
    rng = random.Random(seed)
    states: dict[str, str] = {}
    decisions: dict[str, dict[str, Any]] = {}
    order: list[str] = []
    for step in range(10_000):
        now = plan(study(states, decisions))
        needs = {wanted.job.id: set(wanted.job.needs.values()) for wanted in now.jobs}
        for job in needs:
            states.setdefault(job, "waiting")
        for stage in now.due:
            decisions[stage] = DECISIONS[stage]
            order.append(stage)
        if now.ended:
            return states, order, step
        open_jobs = [job for job, state in states.items() if state not in TERMINAL]
        able = [job for job in open_jobs if all(states[need] in TERMINAL for need in needs.get(job, ()))]
        if able:
            job = rng.choice(able)
            skipped = any(states[need] != "done" for need in needs[job])
            states[job] = "skipped" if skipped else ("failed" if rng.random() < dead else "done")
    raise AssertionError("the study did not end")


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_a_study_always_ends_with_its_verdicts_in_order(seed: int, dead: float) -> None:
    states, order, _ = run(seed, dead)
    assert order == ["scale", "bases", "quantization"]
    assert set(states.values()) <= TERMINAL


@given(st.integers(0, 1000))
def test_the_same_outcomes_in_another_order_give_the_same_jobs(seed: int) -> None:
    assert run(seed, 0.0)[0].keys() == run(seed + 1, 0.0)[0].keys()


def test_planning_again_adds_nothing() -> None:
    first = plan(study({}, {}))
    again = plan(study(dict.fromkeys(ids(first), "waiting"), {}))
    assert ids(again) == ids(first)


def test_no_verdict_while_a_cell_is_open() -> None:
    jobs = [wanted for wanted in plan(study({}, {})).jobs if wanted.stage == "scale"]
    states = {wanted.job.id: "done" for wanted in jobs}
    assert plan(study(states, {})).due == ["scale"]
    last = jobs[-1].job.id
    assert plan(study(states | {last: "active"}, {})).due == []
    assert plan(study(states | {last: "failed"}, {})).due == ["scale"]


def test_the_test_set_is_read_only_after_the_verdict() -> None:
    def test_readers(of: Plan) -> list[str]:
        return [w.job.kind for w in of.jobs if w.stage == "scale" and w.job.params.get("split") == "test"]

    assert test_readers(plan(study({}, {}))) == []
    assert set(test_readers(plan(study({}, {"scale": {"n": 10}})))) == {"score"}


def test_stage_2_reuses_the_adapters_of_stage_1() -> None:
    jobs = plan(study({}, {"scale": {"n": 10}})).jobs
    scale = {w.job.id for w in jobs if w.job.kind == "train" and w.stage == "scale"}
    bases = {w.job.id for w in jobs if w.job.kind == "train" and w.stage == "bases" and w.cell and w.cell.base == "a"}
    assert bases <= scale and len(bases) == 2


def test_latency_waits_for_all_converts_and_leaves_out_the_failed() -> None:
    decisions = {"scale": {"n": 10}}
    jobs = [w for w in plan(study({}, decisions)).jobs if w.stage == "bases"]
    converts = [w for w in jobs if w.job.kind == "convert"]
    states = {w.job.id: "done" for w in jobs}
    states[converts[-1].job.id] = "active"
    assert not [w for w in plan(study(states, decisions)).jobs if w.job.kind == "latency"]
    trained = next(w for w in converts if w.cell and w.cell.base == "b" and w.cell.seed == 1)
    states |= {converts[-1].job.id: "done", trained.job.id: "failed"}
    (latency,) = [w for w in plan(study(states, decisions)).jobs if w.job.kind == "latency"]
    assert sorted(latency.job.params["cells"]) == ["a n=10 seed=1", "ref untrained"]


def test_a_failed_scale_verdict_ends_the_study() -> None:
    states = {w.job.id: "failed" for w in plan(study({}, {"scale": {"n": None}})).jobs}
    assert plan(study(states, {"scale": {"n": None}})).ended


def test_preview_lays_out_all_stages() -> None:
    toy = spec()
    assert {w.stage for w in preview(toy, inputs(toy))} == {"scale", "bases", "quantization"}


@pytest.mark.parametrize("change", [{"r": 8}, {"lr": 1e-3}])
def test_training_settings_are_part_of_identity(change: dict[str, Any]) -> None:
    other = spec(training=change)
    trains = {w.job.id for w in preview(other, inputs(other)) if w.job.kind == "train"}
    same = spec()
    assert trains.isdisjoint(w.job.id for w in preview(same, inputs(same)) if w.job.kind == "train")


@pytest.mark.parametrize("formats", [["Q8_0", "F16"], ["F16", "Q8_0"], ["Q4_K_M", "F16", "Q8_0"]])
def test_every_job_comes_after_those_it_needs(formats: list[str]) -> None:
    toy = spec(stages={"scale": {"base": "a", "sizes": [5, 10]}, "bases": {}, "quantization": {"formats": formats}})
    known: set[str] = set()
    for wanted in preview(toy, inputs(toy)):
        assert set(wanted.job.needs.values()) <= known, wanted
        known.add(wanted.job.id)
