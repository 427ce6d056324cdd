"""Answers without a score: what was judged is compared, what was not is said, and too many of them decide nothing."""

import random
from collections.abc import Collection

import pytest

from jsm_queue import recommendation, wording
from jsm_queue.canonical import canonical_json
from jsm_queue.comparison import CellValues
from jsm_queue.report.build import Measured, build
from jsm_queue.report.data import StudyFacts
from jsm_queue.verdicts import Verdict, bases_verdict, quantization_verdict
from tests.unit.studies import spec

ITEMS = [f"q{i:03d}" for i in range(100)]
REMOTE = {"kind": "openai", "url": "http://127.0.0.1:8000/v1", "model": "m"}


def cell(
    base: str, mean: float, fmt: str | None = None, lost: Collection[str] = (), low: float = 0, high: float = 3
) -> CellValues:
    """A cell of seed 1 whose scores are whole ones of that mean, `low` or `high` each; `lost` items have none."""
    rng = random.Random("difficulty")
    right = set(rng.sample(ITEMS, round(len(ITEMS) * (mean - low) / (high - low))))
    values = {item: high if item in right else low for item in ITEMS if item not in lost}
    label = " ".join(filter(None, [base, "n=500 seed=1", fmt]))
    size = {"F16": 16e9, "Q8_0": 8e9}.get(fmt or "", 8e9)
    metrics = {"questions": float(len(ITEMS)), "unjudged": float(len(lost)), "bytes": size}
    return CellValues(label, base, 500, 1, fmt, values, {}, metrics)


@pytest.mark.parametrize(("lost", "status"), [(0, "decided"), (5, "decided"), (6, "undecided")])
def test_more_than_a_twentieth_without_a_score_decides_nothing_about_bases(lost: int, status: str) -> None:
    cells = [cell("a", 2.1), cell("b", 0.9, lost=ITEMS[:lost])]
    verdict = bases_verdict(cells, 1, [])
    assert verdict.decision["status"] == status
    assert verdict.decision["chosen"] == ["a"], "the choice stands, the claim does not"
    assert verdict.decision["unjudged"] == (["b n=500 seed=1"] if status == "undecided" else [])
    assert {row["base"]: row["unjudged"] for row in verdict.evidence["bases"]} == {"a": 0, "b": lost}
    (pair,) = verdict.evidence["pairs"]
    assert pair["items"] == len(ITEMS) - lost, "compared on what both have"
    text = wording.headline("bases", verdict.decision, verdict.evidence)
    assert ("no score of the judge (b n=500 seed=1)" in text) is (status == "undecided")


@pytest.mark.parametrize(("lost", "status"), [(0, "decided"), (5, "decided"), (6, "undecided")])
def test_nor_about_formats(lost: int, status: str) -> None:
    verdict = quantization_verdict([cell("a", 2.1, "F16"), cell("a", 2.1, "Q8_0", lost=ITEMS[:lost])], [])
    assert (verdict.decision["format"], verdict.decision["status"]) == ("Q8_0", status)
    assert verdict.decision["unjudged"] == (["a n=500 seed=1 Q8_0"] if status == "undecided" else [])
    assert verdict.evidence["bases"][0]["formats"][1]["unjudged"] == lost


def test_another_base_s_losses_do_not_touch_the_formats_of_the_chosen_one() -> None:
    cells = [cell("a", 2.1, "F16"), cell("a", 2.1, "Q8_0"), cell("b", 0.6, "F16", lost=ITEMS[:50])]
    assert quantization_verdict(cells, []).decision["status"] == "decided"


def test_losses_of_one_side_do_not_shift_the_difference() -> None:
    """The hard questions have no score in one cell: its mean rises, its difference to an equal cell does not."""
    hard = [item for item, value in cell("b", 2.1).values.items() if value == 0][:5]
    verdict = bases_verdict([cell("a", 2.1), cell("b", 2.1, lost=hard)], 1, [])
    (pair,) = verdict.evidence["pairs"]
    assert verdict.evidence["bases"][1]["score"]["estimate"] > verdict.evidence["bases"][0]["score"]["estimate"]
    assert pair["difference"] == 0


@pytest.mark.parametrize(
    ("first", "second", "low", "end"),
    [
        (3.0, 2.7, 0, "ceiling"),
        (2.95, 2.9, 2, "ceiling"),
        (2.7, 2.61, 0, None),
        (0.1, 0.0, 0, "floor"),
        (2.1, 0.9, 0, None),
    ],
)
def test_a_bench_of_full_scores_cannot_tell_bases_apart(
    first: float, second: float, low: float, end: str | None
) -> None:
    verdict = bases_verdict([cell("a", first, low=low), cell("b", second, low=low)], 1, [])
    assert verdict.decision["bench_cannot_tell"] == end
    assert (verdict.decision["status"] == "undecided") or end is None
    assert ("cannot tell" in wording.headline("bases", verdict.decision, verdict.evidence)) is (end is not None)


@pytest.mark.parametrize(("mean", "end"), [(2.85, "ceiling"), (1.8, None), (0.06, "floor")])
def test_equal_formats_on_a_bench_that_cannot_tell_carry_a_warning(mean: float, end: str | None) -> None:
    study = spec()
    verdict = quantization_verdict([cell("a", mean, "F16"), cell("a", mean, "Q8_0")], [])
    assert (verdict.decision["status"], verdict.decision["bench_cannot_tell"]) == ("decided", end)
    caveats = recommendation.recommend(study, {"quantization": verdict}, {}, {}, {})["caveats"]
    assert any("to tell formats apart" in line for line in caveats) is (end is not None)


def test_the_report_names_cells_and_counts_and_the_judge() -> None:
    study = spec(judge=REMOTE)
    verdict = bases_verdict([cell("a", 2.1), cell("b", 0.9, lost=ITEMS[:7])], 1, [])
    facts = StudyFacts(id="s", name="s", state="ended")
    losses = {"judge.unjudged": {"b n=500 seed=1": 7}}
    report = build(Measured(study, facts, verdicts={"bases": verdict}, losses=losses))
    caveats = "\n".join(report.recommendation.caveats)
    assert "Stage bases is undecided: too many answers have no score of the judge (b n=500 seed=1)." in caveats
    assert "without a score (unparsable, refused, truncated, or an error): b n=500 seed=1 (7)." in caveats
    assert "Judge: a language model" in caveats and "key facts" not in caveats
    assert "language model" in report.not_claimed[0]


def test_verdicts_of_earlier_rules_are_still_read() -> None:
    """They know no `unjudged`."""
    new = bases_verdict([cell("a", 2.1), cell("b", 0.9)], 1, [])
    old = Verdict({k: v for k, v in new.decision.items() if k != "unjudged"}, new.evidence)
    assert "unjudged" not in wording.headline("bases", old.decision, old.evidence)
    formats = quantization_verdict([cell("a", 2.1, "F16"), cell("a", 2.1, "Q8_0")], [])
    kept = {k: v for k, v in formats.decision.items() if k not in ("unjudged", "bench_cannot_tell")}
    both = {"bases": old, "quantization": Verdict(kept, formats.evidence)}
    canonical_json(recommendation.recommend(spec(), both, {}, {}, {}))
