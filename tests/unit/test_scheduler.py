"""The scheduler: nothing twice, nothing that does not fit, nothing idle without a reason."""

from hypothesis import given
from hypothesis import strategies as st

from jsm_queue.kinds import KINDS
from jsm_queue.scheduler import OpenSlot, ReadyJob, assign

KIND = st.sampled_from(sorted(set(KINDS) - {"latency"}))
JOBS = st.lists(
    st.builds(
        ReadyJob,
        id=st.uuids().map(str),
        kind=KIND,
        priority=st.integers(-1, 1),
        order=st.tuples(st.integers(0, 3)),
        base=st.sampled_from([None, "a", "b"]),
        excluded=st.frozensets(st.sampled_from(["w0", "w1"])),
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
    ),
    max_size=10,
    unique_by=lambda slot: (slot.worker, slot.idx),
)


@given(JOBS, SLOTS)
def test_offers_are_valid_and_independent_of_order(jobs: list[ReadyJob], slots: list[OpenSlot]) -> None:
    offers = assign(jobs, slots)
    assert len({o.jobs[0] for o in offers}) == len(offers) == len({(o.worker, o.slot) for o in offers})
    free = {(s.worker, s.idx) for s in slots if s.free}
    by_id = {job.id: job for job in jobs}
    assert all((o.worker, o.slot) in free and o.worker not in by_id[o.jobs[0]].excluded for o in offers)
    assert set(assign(jobs[::-1], slots[::-1])) == set(offers)


@given(JOBS, SLOTS)
def test_no_free_slot_idles_while_a_job_fits_it(jobs: list[ReadyJob], slots: list[OpenSlot]) -> None:
    offers = assign(jobs, slots)
    left = [job for job in jobs if job.id not in {o.jobs[0] for o in offers}]
    used = {(o.worker, o.slot) for o in offers}
    idle = [s for s in slots if s.free and (s.worker, s.idx) not in used]
    rest = [s if (s.worker, s.idx) not in used else OpenSlot(s.worker, s.idx, s.kind, False, "A") for s in slots]
    assert assign(left, rest) == [] or not idle


def slot(idx: int, free: bool = True, worker: str = "w", **more: object) -> OpenSlot:
    return OpenSlot(worker, idx, "cpu", free, "A", **more)  # type: ignore[arg-type]


LATENCY = ReadyJob("latency", "latency", 0, (0,), hardware="A", exclusive=True)
JUDGE = ReadyJob("judge", "judge", 0, (9,))


def test_an_exclusive_job_waits_until_its_worker_is_empty_and_keeps_others_out() -> None:
    assert assign([LATENCY, JUDGE], [slot(0), slot(1, free=False)]) == []
    (offer,) = assign([LATENCY, JUDGE], [slot(0), slot(1)])
    assert offer.jobs == ("latency",)
    assert assign([JUDGE], [slot(0, free=False, exclusive_run=True), slot(1)]) == []


def test_an_exclusive_job_runs_on_its_hardware_class_alone() -> None:
    other = [OpenSlot("v", 0, "cpu", True, "B")]
    assert [o.jobs[0] for o in assign([LATENCY, JUDGE], other)] == ["judge"]


def test_higher_priority_first_then_the_warm_slot() -> None:
    urgent = ReadyJob("urgent", "train", 5, (9,), base="b")
    assert [o.jobs[0] for o in assign([ReadyJob("x", "train", 0, (0,)), urgent], [slot(0)])] == ["urgent"]
    (offer,) = assign([urgent], [slot(0), slot(1, warm_base="b")])
    assert offer.slot == 1


def test_training_prefers_a_gpu_even_to_a_warm_cpu() -> None:
    slots = [slot(0, worker="a", warm_base="b"), OpenSlot("z", 0, "gpu", True, "B")]
    (offer,) = assign([ReadyJob("train", "train", 0, (0,), base="b")], slots)
    assert offer.worker == "z"
    (offer,) = assign([JUDGE], [slot(0, worker="z"), OpenSlot("a", 0, "gpu", True, "B")])
    assert offer.worker == "z"
