"""`jsm why`: one sentence for each thing that a job can wait for, by the rules that assign jobs."""

from dataclasses import replace
from typing import Any

import pytest

from jsm_queue import costs
from jsm_queue.scheduler import Need, OpenSlot, ReadyJob, Situation, assign, explain
from jsm_queue.scheduler.explain import about
from jsm_queue.scheduler.pool import RULES, Pool
from tests.unit.test_scheduler import CPU, FAST, GB, LATENCY, TRAIN, gpu, slot, train

READY = Situation("ready", studies=(("toy", "running"),), job="t")


def why(*slots: OpenSlot, beside: tuple[ReadyJob, ...] = (), **more: Any) -> str:
    return explain(READY, [train("t", **more), *beside], list(slots), costs.PRIOR)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Situation("done", worker="pc"), "it is done: pc delivered its result"),
        (Situation("failed", error="no data"), "it failed: no data"),
        (Situation("quarantined", error="crashed 3 times"), "it was quarantined: crashed 3 times"),
        (
            Situation("active", worker="pc", attempt="running", since_s=600, position=3, total=9),
            "runs on pc since 10 min",
        ),
        (Situation("active", worker="pc", attempt="running", paused="a game runs"), "stands still on pc: a game runs"),
        (
            Situation("active", worker="pc", attempt="running", position=3, total=9, away_s=360),
            "it was on pc, at 3 of 9 when that went away, 6 min ago; it goes on there or on another worker",
        ),
        (replace(READY, set_aside=(("pc", "paused"), ("w", "draining"))), "jobs: pc is paused and w is draining"),
        (Situation("active", worker="pc", attempt="offered"), "was offered to pc"),
        (Situation("active", worker="pc", attempt="delivering"), "pc has its whole result"),
        (Situation("ready", studies=(("toy", "paused"),)), "its study toy is paused"),
        (Situation("waiting", studies=(("toy", "cancelled"), ("x", "paused"))), "its study x is paused"),
        (Situation("ready", studies=(("b", "paused"), ("a", "paused"))), "its studies a, b are paused"),
        (Situation("ready"), "no study lists it"),
        (replace(READY, rests_s=110.0), "its judge's server was away; it is asked again in about 2 min"),
    ],
)
def test_where_it_is(now: Situation, said: str) -> None:
    assert said in explain(now, [], [], costs.PRIOR)


def test_what_it_needs_first() -> None:
    needs = (Need("convert a", "waiting"), Need("train a", "active", "pc"))
    now = replace(READY, state="waiting", needs=needs)
    assert explain(now, [], [], costs.PRIOR) == "it needs train a, which runs on pc, and 1 more"
    assert "is ready itself" in explain(replace(now, needs=(Need("train a", "ready"),)), [], [], costs.PRIOR)


def test_no_worker() -> None:
    assert why() == "no worker is here that takes jobs"


def test_what_no_slot_has() -> None:
    small = gpu("small", memory=8)
    assert why(small, memory_needed=int(14.2 * GB)) == (
        "no slot fits: it needs 14.2 GB of GPU memory, the most free is 7.5 GB"
    )
    lacking = replace(gpu("w", name="desk"), lacks=(("train", "no bitsandbytes: pip install it"),))
    assert "can do train: desk lacks it: no bitsandbytes" in why(lacking)
    assert (
        why(gpu("w", name="desk"), excluded=frozenset({"w"})) == "it is kept from desk, whose disk is too full for it"
    )
    assert "needs a GPU: the CPUs here would take about" in why(slot(0, speed=CPU))
    own = replace(READY, job="latency")
    other = explain(own, [replace(LATENCY, hardware="RTX 9")], [gpu("w")], costs.PRIOR)
    assert other == "it waits for a worker of class 'RTX 9', and none is here"
    judge = ReadyJob("t", "judge", 0, (0,))
    assert explain(READY, [judge], [gpu("w")], costs.PRIOR) == "no worker here has a CPU slot for it"


def test_who_has_what_fits() -> None:
    assert why(gpu("w", busy_s=600.0)) == "the slot that fits is busy; the next is free in about 12 min"
    two = why(gpu("w", busy_s=600.0), gpu("v", busy_s=None), beside=(train("s", task=replace(TRAIN, then=TRAIN)),))
    assert two == "the 2 slots that fit are busy; the next is free in about 12 min; 1 job goes before it"
    held = replace(gpu("w", busy_s=None, name="desk"), hold="a game runs")
    assert why(held) == "the owner of desk keeps what fits: a game runs"
    beside = why(held, gpu("v", busy_s=600.0))
    assert beside == (
        "the slot that fits is busy; the next is free in about 12 min; "
        "the owner of desk keeps what fits there: a game runs"
    )
    assert "kept for latency" in why(gpu("w"), beside=(LATENCY,))
    assert why(gpu("w")) == "a slot is free for it; it is offered with the next look"
    waits = why(gpu("fast", FAST, busy_s=60.0), gpu("slow", costs.SlotClass("gpu", "RTX 3060")))
    assert waits.startswith("a slot is free, but it ends sooner where it waits: the next is free in about")


def test_a_whole_worker() -> None:
    own = replace(READY, job="latency")
    kept = explain(own, [LATENCY], [slot(0, name="desk"), slot(1, free=False, busy_s=100.0)], costs.PRIOR)
    assert kept == "it needs all of desk, which is kept for it; the next is free in about 2 min"
    taken = [slot(0, free=False, exclusive_run=True)]
    assert "all of them are taken" in explain(own, [LATENCY], taken, costs.PRIOR)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_whatever_no_rule_allows_is_not_assigned_either(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assigning and explaining read the same rules: one that lets nobody through does so in both."""
    monkeypatch.setitem(RULES, rule, lambda pool, job: ~pool.any)  # type: ignore[arg-type]
    job = train("t", task=replace(TRAIN, known=True), hardware="A", excluded=frozenset({"w"}))
    slots = [replace(gpu("w"), lacks=(("train", "x"),)), replace(slot(0, worker="v"), lacks=(("train", "x"),))]
    assert assign([job], slots) == []
    assert not Pool(slots, costs.PRIOR).fits(job).any()
    assert explain(READY, [job], slots, costs.PRIOR)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "1 s"), (99, "99 s"), (720, "12 min"), (9000, "2.5 h"), (3e5, "3 days")]
)
def test_times_are_told_roughly(seconds: float, said: str) -> None:
    assert about(seconds) == said
