"""The scheduler: nothing twice, nothing that does not fit, the sooner end, and nothing idle without a reason."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsm_queue import costs
from jsm_queue.costs import SlotClass, Task
from jsm_queue.kinds import KINDS
from jsm_queue.scheduler import Files, OpenSlot, ReadyJob, assign
from jsm_queue.scheduler.assigning import ending
from jsm_queue.scheduler.pool import Pool

GB = 10**9
CARD, FAST, CPU = SlotClass("gpu", "RTX 4060 Ti"), SlotClass("gpu", "RTX 4090"), SlotClass("cpu", "CPU x")
KIND = st.sampled_from(sorted(set(KINDS) - {"latency"}))
TRAIN = Task(
    "train", "b", 8e9, known=True, examples=3000, batch=16, max_length=1024, quantized=True, then=Task("judge")
)
JOBS = st.lists(
    st.builds(
        ReadyJob,
        id=st.uuids().map(str),
        kind=KIND,
        priority=st.integers(-1, 1),
        order=st.tuples(st.integers(0, 3)),
        base=st.sampled_from([None, "a", "b"]),
        excluded=st.frozensets(st.sampled_from(["w0", "w1"])),
        study=st.sampled_from(["s", "t"]),
        task=st.sampled_from([None, TRAIN]),
        memory_needed=st.sampled_from([0, 12 * GB]),
        since=st.sampled_from([0.0, -1e6]),
    ),
    max_size=12,
    unique_by=lambda job: job.id,
)
SLOTS = st.lists(
    st.builds(
        OpenSlot,
        worker=st.sampled_from(["w0", "w1", "w2"]),
        idx=st.integers(0, 3),
        kind=st.sampled_from(["gpu", "cpu"]),
        free=st.booleans(),
        hardware=st.just("A"),
        warm_base=st.sampled_from([None, "a", "b"]),
        memory_free=st.sampled_from([8 * GB, 16 * GB]),
        memory_total=st.just(16 * GB),
        busy_s=st.sampled_from([None, 10.0, 1e5]),
        study=st.sampled_from([None, "s"]),
        lacks=st.sampled_from([(), (("train", "no torch"),)]),
    ),
    max_size=10,
    unique_by=lambda slot: (slot.worker, slot.idx),
)


@given(JOBS, SLOTS)
def test_offers_are_valid_and_independent_of_order(jobs: list[ReadyJob], slots: list[OpenSlot]) -> None:
    offers = assign(jobs, slots)
    assert len({o.jobs[0] for o in offers}) == len(offers) == len({(o.worker, o.slot) for o in offers})
    by_id, by_place = {job.id: job for job in jobs}, {(slot.worker, slot.idx): slot for slot in slots}
    for offer in offers:
        job, slot = by_id[offer.jobs[0]], by_place[offer.worker, offer.slot]
        assert slot.free and offer.worker not in job.excluded and job.kind not in dict(slot.lacks)
        room = slot.memory_total if slot.warm_base or slot.kind == "cpu" else slot.memory_free
        assert job.memory_needed <= room
    assert set(assign(jobs[::-1], slots[::-1])) == set(offers)


@given(JOBS, SLOTS)
def test_no_free_slot_idles_while_a_job_fits_it_that_has_nothing_to_wait_for(
    jobs: list[ReadyJob], slots: list[OpenSlot]
) -> None:
    """Equal cards, and nobody knows when a busy one is free."""
    unknown = [replace(slot, busy_s=None, kind="gpu") for slot in slots]
    offers = assign(jobs, unknown)
    left = [job for job in jobs if job.id not in {o.jobs[0] for o in offers}]
    used = {(o.worker, o.slot) for o in offers}
    rest = [replace(slot, free=slot.free and (slot.worker, slot.idx) not in used) for slot in unknown]
    pool = Pool(rest, costs.PRIOR)
    assert not any((pool.fits(job) & pool.free).any() for job in left)


def slot(idx: int, free: bool = True, worker: str = "w", **more: Any) -> OpenSlot:
    return OpenSlot(worker, idx, "cpu", free, "A", **more)


def gpu(worker: str, speed: SlotClass = CARD, memory: int = 16, **more: Any) -> OpenSlot:
    """A worker with one GPU of so many GB, of which 15/16 are free; busy where `busy_s` is given."""
    free, total = memory * GB * 15 // 16, memory * GB
    free_slot = "busy_s" not in more
    return OpenSlot(worker, 0, "gpu", free_slot, "A", speed=speed, memory_free=free, memory_total=total, **more)


def train(name: str, **more: Any) -> ReadyJob:
    return ReadyJob(name, "train", more.pop("priority", 0), (0.0,), base="b", **{"task": TRAIN, **more})


LATENCY = ReadyJob("latency", "latency", 0, (0,), hardware="A", exclusive=True)
JUDGE = ReadyJob("judge", "judge", 0, (9,))


def given_to(jobs: list[ReadyJob], slots: list[OpenSlot], known: costs.Costs = costs.PRIOR) -> dict[str, str]:
    """job → worker."""
    return {job: offer.worker for offer in assign(jobs, slots, known) for job in offer.jobs}


def test_an_exclusive_job_waits_until_its_worker_is_empty_and_keeps_others_out() -> None:
    assert assign([LATENCY, JUDGE], [slot(0), slot(1, free=False)]) == []
    (offer,) = assign([LATENCY, JUDGE], [slot(0), slot(1)])
    assert offer.jobs == ("latency",)
    assert assign([JUDGE], [slot(0, free=False, exclusive_run=True), slot(1)]) == []


def test_an_exclusive_job_takes_the_worker_that_is_empty_first() -> None:
    slots = [
        slot(0, worker="a"),
        slot(1, False, "a", busy_s=900.0),
        slot(0, worker="b"),
        slot(1, False, "b", busy_s=5.0),
    ]
    assert given_to([LATENCY, JUDGE], slots) == {"judge": "a"}


def test_an_exclusive_job_runs_on_its_hardware_class_alone() -> None:
    other = [OpenSlot("v", 0, "cpu", True, "B")]
    assert [o.jobs[0] for o in assign([LATENCY, JUDGE], other)] == ["judge"]


def test_higher_priority_first_then_the_warm_slot() -> None:
    urgent = ReadyJob("urgent", "train", 5, (9,), base="b")
    assert [o.jobs[0] for o in assign([ReadyJob("x", "train", 0, (0,)), urgent], [slot(0)])] == ["urgent"]
    (offer,) = assign([urgent], [slot(0), slot(1, warm_base="b")])
    assert offer.slot == 1


def test_training_prefers_a_gpu_even_to_a_warm_cpu() -> None:
    slots = [slot(0, worker="a", warm_base="b", speed=CPU), gpu("z")]
    assert given_to([train("t", task=replace(TRAIN, examples=30))], slots) == {"t": "z"}
    (offer,) = assign([JUDGE], [slot(0, worker="z"), OpenSlot("a", 0, "gpu", True, "B")])
    assert offer.worker == "z"


def test_a_job_that_does_not_fit_a_card_goes_to_a_larger_or_waits() -> None:
    large = train("large", memory_needed=20 * GB)
    assert given_to([large], [gpu("small")]) == {}
    assert given_to([large], [gpu("small"), gpu("w", memory=24)]) == {"large": "w"}


def test_an_estimate_alone_keeps_no_job_from_the_largest_card() -> None:
    huge = train("huge", task=replace(TRAIN, parameters=70e9))
    assert costs.memory(huge.task or TRAIN, "gpu") > 24 * GB
    assert given_to([huge], [gpu("a"), gpu("b", memory=24)]) == {"huge": "b"}


def test_memory_counts_as_it_is_reported_free_but_for_what_a_warm_runner_holds() -> None:
    """A game has taken 12 of 16 GB; of the other card a runner that would go has."""
    gaming = replace(gpu("a"), memory_free=4 * GB)
    assert given_to([train("t")], [gaming]) == {}
    assert given_to([train("t")], [gaming, replace(gpu("b"), memory_free=4 * GB, warm_base="x")]) == {"t": "b"}


def test_the_scarcest_fit_comes_first() -> None:
    small, large = train("a small"), train("large", memory_needed=20 * GB)
    slots = [gpu("big", memory=24), *(gpu(f"w{i}", busy_s=5000.0) for i in range(3))]
    assert given_to([small, large], slots) == {"large": "big"}


def test_a_job_goes_on_where_most_of_it_is_done_and_elsewhere_only_after_all_others() -> None:
    begun, other = train("begun", awaits="a"), train("other")
    assert given_to([begun, other], [gpu("b")]) == {"other": "b"}, "its worker may come back"
    assert given_to([begun, other], [gpu("a")]) == {"begun": "a"}
    assert given_to([begun, replace(other, priority=1)], [gpu("a")]) == {"other": "a"}
    assert given_to([begun], [gpu("b")]) == {"begun": "b"}, "nothing else is to be done"


def test_nobody_starves() -> None:
    small, large = train("old", since=-1e6), train("large", memory_needed=20 * GB)
    slots = [gpu("big", memory=24), *(gpu(f"w{i}", busy_s=5000.0) for i in range(3))]
    assert given_to([small, large], slots) == {"old": "big"}


def test_the_longer_way_to_the_stage_s_end_comes_first() -> None:
    short, long = train("a", task=replace(TRAIN, then=None)), train("b", task=replace(TRAIN, then=TRAIN))
    assert given_to([short, long], [gpu("w")]) == {"b": "w"}


def test_studies_of_one_priority_share_the_slots() -> None:
    jobs = [train(f"{study}{i}", study=study) for study in "ab" for i in range(9)]
    got = given_to(jobs, [gpu(f"w{i}") for i in range(6)])
    assert sorted(job[0] for job in got) == list("aaabbb")
    running = [gpu(f"v{i}", busy_s=9e3, study="a") for i in range(3)]
    got = given_to(jobs, [*running, *(gpu(f"w{i}") for i in range(3))])
    assert {job[0] for job in got} == {"b"}, "a has its share"
    urgent = [train("c", study="c", priority=1)]
    assert given_to([*jobs, *urgent], [gpu("w")]) == {"c": "w"}


def test_a_cpu_takes_a_training_only_where_it_ends_sooner() -> None:
    """The GPU has it done in an hour after another's ten minutes, or after another's ten days."""
    alone = slot(0, worker="cpu", speed=CPU)
    short = train("t", task=replace(TRAIN, examples=10))
    took = costs.prior_seconds(short.task or TRAIN, CPU)
    assert given_to([short], [alone, gpu("g", busy_s=took / 3)]) == {}
    assert given_to([short], [alone, gpu("g", busy_s=3 * took)]) == {"t": "cpu"}


def test_a_cpu_takes_nothing_that_would_take_it_days() -> None:
    alone = slot(0, worker="cpu", speed=CPU)
    assert given_to([train("t")], [alone]) == {}
    assert given_to([train("t", task=replace(TRAIN, known=False))], [alone]) == {"t": "cpu"}, "nobody knows its base"


def test_the_last_jobs_of_a_stage_wait_for_fast_cards_and_many_do_not() -> None:
    slots = [gpu("fast", FAST, busy_s=60.0), gpu("slow", SlotClass("gpu", "RTX 3060"))]
    assert given_to([train("t0")], slots) == {}
    many = given_to([train(f"t{i:02}") for i in range(40)], slots)
    assert list(many.values()) == ["slow"]


def test_what_was_learnt_decides() -> None:
    """Two cards that should be alike; one takes ten times as long, as samples say."""
    work = costs.prior_seconds(TRAIN, CARD)
    slow = [costs.Sample("train", "b", "card 1", work, 10 * work)] * 9
    known = costs.learn([*slow, *[costs.Sample("train", "b", "card 2", work, work)] * 9])
    slots = [gpu("a", SlotClass("gpu", "card 1")), gpu("b", SlotClass("gpu", "card 2"), busy_s=work)]
    assert given_to([train("t")], slots, known) == {}
    assert given_to([train("t")], slots) == {"t": "a"}


def test_a_job_goes_where_its_files_are_unless_that_takes_longer() -> None:
    files = (Files(frozenset({"b"}), 16 * GB),)
    assert given_to([train("t", files=files)], [gpu("a"), gpu("b")]) == {"t": "b"}
    assert given_to([train("t", files=files)], [gpu("a"), gpu("b", busy_s=9000.0)]) == {"t": "a"}


def test_a_worker_gets_no_kind_that_it_lacks_and_none_while_its_owner_plays() -> None:
    lacking = replace(gpu("a"), lacks=(("train", "no bitsandbytes"),))
    assert given_to([train("t")], [lacking]) == {}
    soon_free = gpu("a", FAST, busy_s=1.0)
    assert given_to([train("t")], [soon_free, gpu("b")]) == {}
    assert given_to([train("t")], [replace(soon_free, hold="a game runs"), gpu("b")]) == {"t": "b"}


def test_trainings_are_fused_where_there_are_fewer_slots_than_jobs() -> None:
    jobs = [train(f"t{i}", fuses="b") for i in range(6)]
    slots = [replace(gpu(f"w{i}", memory=24), fuses=4) for i in range(2)]
    assert [o.jobs for o in assign(jobs, slots)] == [("t0", "t1", "t2"), ("t3", "t4", "t5")]
    assert [o.jobs for o in assign(jobs[:2], slots)] == [("t0",), ("t1",)]
    solo = [replace(job, fuses=None) for job in jobs]
    assert [o.jobs for o in assign(solo, slots)] == [("t0",), ("t1",)]
    small = [replace(gpu(f"w{i}", memory=10), fuses=4) for i in range(2)]
    assert [o.jobs for o in assign(jobs, small)] == [("t0",), ("t1",)], "their memory is too small for two"


@pytest.mark.parametrize(("jobs", "ends"), [(1, 5.0), (3, 13.75), (4, 17.5)])
def test_when_equal_jobs_are_done(jobs: int, ends: float) -> None:
    """Slots that take 5 and 15 s and are free now and in 10 s; one that is never free, and one that does not fit."""
    inf = float("inf")
    numpy = pytest.importorskip("numpy")
    wait, seconds = numpy.array([0.0, 10.0, inf, 0.0]), numpy.array([5.0, 15.0, 1.0, inf])
    assert ending(wait, seconds, jobs) == pytest.approx(ends)
