"""Stages that are left out, and bases and adapters that are given: everything makes sense for every combination."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jsm_queue import costs, planner
from jsm_queue.cli import plan as plan_command
from jsm_queue.cli import view
from jsm_queue.errors import SpecError
from jsm_queue.planner import TERMINAL, Plan, Study, plan, preview
from jsm_queue.report import charts, collect
from jsm_queue.report.data import ReportData
from jsm_queue.report.html import render_html
from jsm_queue.report.markdown import render_markdown
from jsm_queue.spec import StudySpec
from jsm_queue.store import pages, queries, results, summaries
from jsm_queue.store import tables as t
from jsm_queue.store.database import reading
from tests.unit.studies import inputs, spec
from tests.unit.test_report_collect import open_pool, run_study

A, B = {"name": "a", "source": "bases/a"}, {"name": "b", "source": "bases/b"}
REF = {"name": "ref", "source": "ref.gguf", "train": False}
MINE = {"name": "mine", "source": "bases/a", "train": False, "adapter": "./mine"}
SCALE = {"base": "a", "sizes": [10, 20], "seeds": [1, 2]}
FORMATS = {"formats": ["F16", "Q8_0"]}


@dataclass(frozen=True)
class Combination:
    """Stages and bases of a study, and what comes of it."""

    stages: dict[str, Any]
    bases: tuple[dict[str, Any], ...]
    last: tuple[str, ...]  # the cells of its last stage
    sentence: str  # how its recommendation begins
    assumed: str = ""

    @property
    def spec(self) -> StudySpec:
        return spec(stages=self.stages, bases=list(self.bases))


def formats(*models: str) -> tuple[str, ...]:
    return tuple(f"{model} {fmt}" for model in models for fmt in FORMATS["formats"])


TRAINED = ("a n=20 seed=1", "a n=20 seed=2")
N_STAR, FIRST = "assumed: n* is the largest size", "the first base is chosen"
COMBINATIONS = {
    "scale": Combination(
        {"scale": SCALE}, (A,), ("a untrained", "a n=10 seed=1", "a n=10 seed=2", *TRAINED), "Train a on 20 examples: "
    ),
    "scale, with bases that no stage uses": Combination(
        {"scale": SCALE | {"read_test": "all"}},
        (A, B, MINE),
        ("a untrained", "a n=10 seed=1", "a n=10 seed=2", *TRAINED),
        "Train a on 20 examples: ",
    ),
    "bases": Combination(
        {"bases": {"n": 10, "seeds": [1]}},
        (A, B, REF),
        ("a untrained", "b untrained", "ref untrained", "a n=10 seed=1", "b n=10 seed=1"),
        "Deploy a, fine-tuned on 10 examples, as Q8_0: ",
    ),
    "bases, all given": Combination(
        {"bases": {}},
        (MINE, REF),
        ("mine untrained", "ref untrained", "mine adapter"),
        "Deploy mine, with the adapter that was given, as Q8_0: ",
    ),
    "bases, one trained and one given": Combination(
        {"bases": {"n": 10, "seeds": [1]}},
        (A, MINE),
        ("a untrained", "mine untrained", "a n=10 seed=1", "mine adapter"),
        "Deploy mine, with the adapter that was given, as Q8_0: ",
    ),
    "quantization of what is trained": Combination(
        {"quantization": FORMATS | {"bases": ["a"], "n": 20}},
        (A, B),
        formats(*TRAINED),
        "Deploy a, fine-tuned on 20 examples, as Q8_0: ",
    ),
    "quantization of an adapter": Combination(
        {"quantization": FORMATS | {"bases": ["mine"]}},
        (MINE,),
        formats("mine adapter"),
        "Deploy mine, with the adapter that was given, as Q8_0: ",
    ),
    "quantization of an untrained base": Combination(
        {"quantization": FORMATS | {"bases": ["ref"]}},
        (REF,),
        formats("ref untrained"),
        "Deploy ref, untrained, as Q8_0: ",
    ),
    "quantization of several": Combination(
        {"quantization": FORMATS | {"bases": ["mine", "ref", "b"], "n": 10, "seeds": [7]}},
        (A, B, REF, MINE),
        formats("mine adapter", "ref untrained", "b n=10 seed=7"),
        "Deploy mine, with the adapter that was given, as Q8_0: ",
    ),
    "scale, bases": Combination(
        {"scale": SCALE, "bases": {"seeds": [1]}},
        (A, B),
        ("a untrained", "b untrained", "a n=20 seed=1", "b n=20 seed=1"),
        "Deploy a, fine-tuned on 20 examples, as Q8_0: ",
        f"{N_STAR}; the verdicts may choose otherwise",
    ),
    "scale, quantization": Combination(
        {"scale": SCALE, "quantization": FORMATS},
        (A, B),
        formats(*TRAINED),
        "Deploy a, fine-tuned on 20 examples, as Q8_0: ",
        f"{N_STAR}; the verdicts may choose otherwise",
    ),
    "scale, quantization of others": Combination(
        {"scale": SCALE, "quantization": FORMATS | {"bases": ["b", "mine"], "seeds": [2]}},
        (A, B, MINE),
        formats("b n=20 seed=2", "mine adapter"),
        "Deploy mine, with the adapter that was given, as Q8_0: ",
        f"{N_STAR}; the verdicts may choose otherwise",
    ),
    "bases, quantization": Combination(
        {"bases": {"n": 20}, "quantization": FORMATS},
        (A, B),
        formats(*TRAINED),
        "Deploy a, fine-tuned on 20 examples, as Q8_0: ",
        f"assumed: {FIRST}; the verdicts may choose otherwise",
    ),
    "bases, quantization, two kept": Combination(
        {"bases": {"n": 20}, "quantization": FORMATS | {"keep": 2}},
        (A, MINE),
        formats(*TRAINED, "mine adapter"),
        "Deploy a, fine-tuned on 20 examples, as Q8_0: ",
        "assumed: the first 2 bases are chosen; the verdicts may choose otherwise",
    ),
    "scale, bases, quantization": Combination(
        {"scale": SCALE, "bases": {}, "quantization": FORMATS},
        (A, B, REF),
        formats(*TRAINED),
        "Deploy a, fine-tuned on 20 examples, as Q8_0: ",
        f"{N_STAR} and {FIRST}; the verdicts may choose otherwise",
    ),
}
EACH = pytest.mark.parametrize("of", COMBINATIONS.values(), ids=list(COMBINATIONS))


def last_stage(of: Combination) -> str:
    return list(of.stages)[-1]


@EACH
def test_the_preview_has_every_cell_once_and_every_job_after_those_it_needs(of: Combination) -> None:
    wanted = preview(of.spec, inputs(of.spec))
    known: set[str] = set()
    for each in wanted:
        assert set(each.job.needs.values()) <= known, each
        known.add(each.job.id)
    grid = plan_command.summary(of.spec, wanted)
    assert [stage["stage"] for stage in grid["stages"]] == list(of.stages)
    assert tuple(grid["stages"][-1]["cells"]) == of.last
    assert grid["assumed"] == of.assumed


@EACH
def test_it_costs_something_and_no_base_that_is_not_used_decides_on_what(of: Combination) -> None:
    wanted = preview(of.spec, inputs(of.spec))
    facts = {base.name: costs.BaseFacts(parameters=3_000_000) for base in planner.used_bases(of.spec)}
    machine = costs.machine_for(of.spec, facts, slots=2)
    assert machine == costs.cpu(2)
    assert costs.estimate(wanted, of.spec, facts, machine).middle > 0


@EACH
def test_every_model_that_is_deployed_was_held_against_what_it_was_made_of(of: Combination) -> None:
    parities = [w for w in preview(of.spec, inputs(of.spec)) if w.job.kind == "parity"]
    checked = {
        (w.cell.base, w.cell.n, w.cell.seed) for w in parities if w.cell and w.job.params["reference"] == "model"
    }
    deployed = [w.cell for w in preview(of.spec, inputs(of.spec)) if w.cell and w.stage != "scale"]
    assert checked == {(cell.base, cell.n, cell.seed) for cell in deployed}


@EACH
def test_one_latency_job_a_stage_times_each_gguf_once(of: Combination) -> None:
    jobs = {w.job.id: w for w in preview(of.spec, inputs(of.spec)) if w.job.kind == "latency"}
    assert sorted(w.stage for w in jobs.values()) == sorted(stage for stage in of.stages if stage != "scale")
    for wanted in jobs.values():
        assert len(set(wanted.job.params["cells"])) == len(wanted.job.params["cells"])
        assert len(set(wanted.job.needs.values())) == len(wanted.job.needs)


def test_an_adapter_is_the_bases_with_it_and_its_baseline_without() -> None:
    of = COMBINATIONS["bases, one trained and one given"].spec
    scores = {w.cell.label: w.job.params["base"] for w in preview(of, inputs(of)) if w.cell and w.job.kind == "score"}
    assert scores["mine adapter"]["adapter"] and "adapter" not in scores["mine untrained"]
    assert inputs(of).bases["mine"].key == inputs(of).bases["mine"].bare.key


def test_a_job_without_an_adapter_has_the_id_it_had_before_there_were_any() -> None:
    of = COMBINATIONS["bases"].spec
    params = next(w.job.params for w in preview(of, inputs(of)) if w.job.kind == "convert")
    assert params["base"].keys() == {"form", "files", "repo", "revision", "chat_template"}


def test_a_latency_job_times_the_given_adapter_and_not_its_baseline() -> None:
    of = COMBINATIONS["bases, one trained and one given"].spec
    (latency,) = [w.job for w in preview(of, inputs(of)) if w.job.kind == "latency"]
    assert latency.params["cells"] == ["a n=10 seed=1", "mine adapter"]


# Playing a study, with and without dead cells


def play(of: StudySpec, seed: int, dead: float) -> tuple[Plan, dict[str, str], list[str]]:
    """Jobs end in random order, a share of them without a result; verdicts choose what the planner may choose."""
    rng, states, decisions, order = random.Random(seed), {}, {}, []
    chosen = [base.name for base in of.bases if base.tuned][
        : of.stages.quantization.keep if of.stages.quantization else 1
    ]
    said: dict[str, dict[str, Any]] = {"scale": {"n": 10}, "bases": {"chosen": chosen}, "quantization": {}}
    for _ in range(2000):
        now = plan(Study("s" * 64, of, inputs(of), "class A", states, decisions))
        for wanted in now.jobs:
            states.setdefault(wanted.job.id, "waiting")
        for stage in now.due:
            decisions[stage] = said[stage]
            order.append(stage)
        if now.ended:
            return now, states, order
        needs = {wanted.job.id: wanted.job.needs.values() for wanted in now.jobs}
        able = [
            job for job in needs if states[job] not in TERMINAL and all(states[need] in TERMINAL for need in needs[job])
        ]
        for job in rng.sample(able, min(5, len(able))):
            skipped = any(states[need] != "done" for need in needs[job])
            states[job] = "skipped" if skipped else "failed" if rng.random() < dead else "done"
    raise AssertionError("the study did not end")


@EACH
@pytest.mark.parametrize("dead", [0.0, 0.3, 1.0])
def test_it_ends_with_its_verdicts_in_order(of: Combination, dead: float) -> None:
    _, states, order = play(of.spec, 1, dead)
    assert order == list(of.stages)
    assert set(states.values()) <= TERMINAL


# In a store, with records: verdicts, report, terminal


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_pool(tmp_path)
    yield engine
    engine.dispose()


def snapshot(engine: Engine, study_id: str) -> view.Snapshot:
    with reading(engine) as session:
        study = session.get_one(t.Study, study_id)
        verdicts = [row.model_dump() for row in queries.verdicts(session, study_id)]
        told = study.model_dump() | summaries.of_study(session, study) | {"verdicts": verdicts}
        return view.Snapshot(told, pages.job_rows(session, study_id), results.comparisons(session, study_id))


def report_of(engine: Engine, study_id: str, folder: Path) -> ReportData:
    with reading(engine) as session:
        return collect.collect(session, study_id, folder / "artifacts")


@EACH
def test_verdicts_report_and_terminal_say_what_came_of_it(
    of: Combination, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "svg", lambda *_: "<svg></svg>")  # drawing takes seconds, and is tested elsewhere
    study_id = run_study(engine, toy=of.spec)
    report = report_of(engine, study_id, tmp_path)
    assert [verdict.stage for verdict in report.verdicts] == list(of.stages)
    assert all(verdict.status != "failed" for verdict in report.verdicts), report.verdicts
    assert report.recommendation.sentence.startswith(of.sentence), report.recommendation.sentence
    assert report.recommendation.status != "none" and not report.missing
    page, text = render_html(report), render_markdown(report)
    for stage in of.stages:
        assert f'href="#{stage}"' in page and f'id="{stage}"' in page
    ranked = "bases" in of.stages and MINE in of.bases
    assert ("given adapter" in page) is (ranked or report.recommendation.base == "mine")
    assert "What this does not claim" in text
    shown = "\n".join(line.plain for line in view.screen(snapshot(engine, study_id), 0, 1))
    assert [f"[{i}/{len(of.stages)}] {stage}" in shown for i, stage in enumerate(of.stages, 1)] == [True] * len(
        of.stages
    )
    assert shown.count("VERDICT") == len(of.stages) and "not run" not in shown


def test_a_given_adapter_is_named_as_such_among_the_caveats(engine: Engine, tmp_path: Path) -> None:
    study_id = run_study(engine, toy=COMBINATIONS["bases, one trained and one given"].spec)
    advice = report_of(engine, study_id, tmp_path).recommendation
    assert any(line.startswith("The adapter of mine was given: ") for line in advice.caveats)
    assert not any("One seed" in line for line in advice.caveats)
    assert (advice.base, advice.n, advice.adapter) == ("mine", None, True)


def test_an_untrained_base_that_is_quantized_says_what_was_not_measured(engine: Engine, tmp_path: Path) -> None:
    study_id = run_study(engine, toy=COMBINATIONS["quantization of an untrained base"].spec)
    caveats = report_of(engine, study_id, tmp_path).recommendation.caveats
    assert any("ref is not fine-tuned" in line for line in caveats)
    assert any("the test questions chose the format" in line for line in caveats)


# What contradicts itself

QUANTIZED = {"bases": ["a"], "n": 5}


@pytest.mark.parametrize(
    ("stages", "bases", "said"),
    [
        ({}, (A,), "at least one of `scale`, `bases` and `quantization`"),
        ({"scale": None, "bases": None, "quantization": None}, (A,), "at least one"),
        ({"scale": SCALE, "bases": {"n": 5}}, (A,), "`bases.n` contradicts `scale`"),
        ({"scale": SCALE, "quantization": {"n": 5}}, (A,), "`quantization.n` contradicts `scale`"),
        ({"bases": {"n": 5}, "quantization": {"n": 5}}, (A,), "`quantization.n` contradicts stage `bases`"),
        ({"bases": {"n": 5}, "quantization": {"bases": ["a"]}}, (A,), "`quantization.bases` contradicts stage `bases`"),
        ({"bases": {"n": 5}, "quantization": {"seeds": [1]}}, (A,), "`quantization.seeds` contradicts stage `bases`"),
        ({"bases": {"n": 5}, "quantization": {"keep": 9}}, (A, B, REF), "keep: 9 of the bases .* only 2"),
        ({"quantization": QUANTIZED | {"keep": 2}}, (A, B), "`quantization.keep` chooses among stage `bases`"),
        ({"quantization": {"n": 5}}, (A,), "`quantization.bases` must name"),
        ({"quantization": {"bases": ["a", "a"], "n": 5}}, (A,), "each once"),
        ({"quantization": {"bases": [], "n": 5}}, (A,), "too few entries"),
        ({"quantization": {"bases": ["z"], "n": 5}}, (A,), "'z' is not one of the bases"),
        ({"quantization": {"bases": ["a"]}}, (A,), "`quantization.n` must say how many training examples 'a' gets"),
        ({"quantization": {"bases": ["mine"], "n": 5}}, (A, MINE), "quantization.n: none of its bases has train: true"),
        ({"quantization": {"bases": ["mine"], "seeds": [1]}}, (A, MINE), "seeds: none of its bases is trained"),
        ({"bases": {}}, (A,), "`bases.n` must say how many training examples 'a' gets"),
        ({"bases": {"n": 5}}, (MINE,), "bases.n: none of its bases has train: true"),
        ({"bases": {"n": 5}}, (REF,), "ranks those with train: true or an adapter, and there is none"),
        ({"scale": SCALE}, (B,), "scale.base: 'a' is not one of the bases with train: true"),
        ({"scale": SCALE | {"base": "mine"}}, (MINE, A), "scale.base: 'mine' is not one"),
        ({"bases": {"n": 5}}, (A | {"adapter": "./x"},), "`adapter` goes with `train: false`"),
    ],
)
def test_a_contradiction_is_refused_in_one_message(stages: dict[str, Any], bases: tuple[Any, ...], said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        spec(stages=stages, bases=list(bases))
    assert caught.value.message.count(";") <= 1, "one message each"


@EACH
def test_a_spec_is_the_same_after_a_trip_through_json(of: Combination) -> None:
    assert StudySpec.model_validate_json(of.spec.model_dump_json()) == of.spec
