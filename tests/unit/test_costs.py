"""How long a plan takes, against what was measured."""

from pathlib import Path

import pytest

from jsm_queue import costs, planner
from jsm_queue.cli import resolve
from jsm_queue.kinds import BaseFacts, Inputs
from jsm_queue.spec import StudySpec, read_spec

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL, LARGE = BaseFacts(parameters=3_000_000), BaseFacts(parameters=8_000_000_000)


def planned(name: str) -> tuple[list[planner.Wanted], StudySpec, Inputs]:
    """An example's jobs, its spec and what it resolves to, without asking a hub."""
    path = EXAMPLES / name
    spec = read_spec(path)
    inputs = resolve.sketch(spec, path.parent)[0].inputs
    return planner.preview(spec, inputs), spec, inputs


def test_the_demo_takes_about_what_it_took() -> None:
    jobs, spec, inputs = planned("river/study.yaml")
    told = costs.estimate(jobs, spec, inputs.facts, costs.machine_for(spec, inputs.facts, slots=2))
    assert told.low < 5.5 * 60 < told.high
    assert told.middle == pytest.approx(5.5 * 60, rel=0.2)


def test_a_training_takes_about_what_it_took() -> None:
    """1 000 examples of 27 tokens, five times, at 3 500 tokens/s; 8B: 5 000 of 220, three times, at 727 tokens/s."""
    jobs, spec, inputs = planned("river/study.yaml")
    small = next(w for w in jobs if w.job.kind == "train" and w.cell and w.cell.n == 1000)
    assert costs.seconds(small, spec, inputs.facts, costs.cpu(1)) == pytest.approx(1000 * 27 * 5 / 3500, rel=0.1)
    jobs, spec, inputs = planned("blueprint.yaml")
    large = next(w for w in jobs if w.job.kind == "train" and w.cell and w.cell.n == 5000)
    assert costs.seconds(large, spec, inputs.facts, costs.GPU) == pytest.approx(5000 * 220 * 3 / 727, rel=0.1)


def test_the_blueprint_takes_a_day_or_two() -> None:
    jobs, spec, inputs = planned("blueprint.yaml")
    hours = costs.estimate(jobs, spec, inputs.facts, costs.GPU).middle / 3600
    assert 24 < hours < 48


def test_a_job_that_is_listed_twice_runs_once() -> None:
    jobs, spec, inputs = planned("river/study.yaml")
    machine = costs.cpu(2)
    assert costs.estimate(jobs + jobs, spec, inputs.facts, machine) == costs.estimate(jobs, spec, inputs.facts, machine)


def test_two_slots_share_all_but_latency_jobs() -> None:
    jobs, spec, inputs = planned("river/study.yaml")
    latency = [w for w in jobs if w.job.kind == "latency"]
    others = [w for w in jobs if w.job.kind != "latency"]
    one, two = (
        [costs.estimate(part, spec, inputs.facts, costs.cpu(slots)).middle for part in (latency, others)]
        for slots in (1, 2)
    )
    assert two[0] == pytest.approx(one[0])
    assert two[1] == pytest.approx(one[1] / 2)


def test_nothing_takes_no_time() -> None:
    _, spec, inputs = planned("river/study.yaml")
    assert costs.estimate([], spec, inputs.facts, costs.GPU).high == 0


@pytest.mark.parametrize(
    ("last", "machine"),
    [(SMALL, costs.cpu(3)), (LARGE, costs.GPU), (BaseFacts(), costs.GPU), (BaseFacts(bytes=98_000_000), costs.cpu(3))],
)
def test_a_large_or_unknown_base_wants_a_gpu(last: BaseFacts, machine: costs.Machine) -> None:
    _, spec, _ = planned("river/study.yaml")
    facts = {base.name: SMALL for base in spec.bases} | {spec.bases[-1].name: last}
    assert costs.machine_for(spec, facts, slots=3) == machine


@pytest.mark.parametrize(("cores", "gib", "slots"), [(2, 23, 2), (1, 2, 1), (16, 64, 4), (8, 7, 2)])
def test_cpu_slots_fit_cores_and_memory(cores: int, gib: int, slots: int) -> None:
    assert costs.cpu_slots(cores, gib * 2**30) == slots
