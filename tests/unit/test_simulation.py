"""The scheduler's benchmark in small: a pool in virtual time does all jobs once, and nearly as fast as it could."""

import copy

import pytest

from benchmarks import bounds, scenes
from benchmarks.scenes import Size
from benchmarks.simulation import Choose, Fifo, Simulation
from jsm_queue import scheduler

SMALL = Size(sizes=5, seeds=3, bases=6, keep=2, formats=4)
SLOTS, SEED = scenes.pool(8, 1), 1
JOBS = scenes.jobs_of(SMALL, "toy", scenes.latency_class(SLOTS), SEED)


def simulate(choose: Choose, hours_between: float = 0.0) -> Simulation:
    away = scenes.trace(SLOTS, SEED, hours_between)
    run = Simulation(SLOTS, [copy.deepcopy(JOBS)], away, SEED, choose)
    run.run(window=1.0)
    return run


def test_it_is_near_the_bound_and_faster_than_fifo() -> None:
    least = bounds.bound(SLOTS, [JOBS], scenes.trace(SLOTS, SEED, 0.0), scenes.biases(SEED))
    ours, fifo = simulate(scheduler.assign).now, simulate(Fifo()).now
    assert least <= ours <= 1.15 * least
    assert ours < fifo


def test_equal_scenarios_give_equal_runs() -> None:
    assert simulate(scheduler.assign, 3.0).now == simulate(scheduler.assign, 3.0).now


def test_workers_that_leave_lose_no_job() -> None:
    run = simulate(scheduler.assign, 1.0)
    assert run.done == len(JOBS) and not run.ready
    assert run.now > simulate(scheduler.assign).now


def test_a_bound_that_was_too_high_would_be_noticed() -> None:
    """One job on one slot takes exactly as long as the bound says; so do two that wait for each other."""
    slots = scenes.pool(2, 1)
    alone = [copy.deepcopy(job) for job in JOBS if job.ready.kind == "train"][:2]
    for job in alone:
        job.needs, job.next = 0, []
    bias, trace = scenes.biases(SEED), scenes.trace(slots, SEED, 0.0)
    took = [scenes.actual(job, slots[0].speed or pytest.fail("no class"), bias) for job in alone]
    for jobs, least in ((alone[:1], took[0]), (alone, sum(took))):
        run = Simulation(slots, [copy.deepcopy(jobs)], trace, SEED, scheduler.assign)
        assert bounds.bound(slots, [jobs], trace, bias) == pytest.approx(least, rel=1e-6)
        assert run.run(window=0.0) == pytest.approx(least, rel=1e-6)
