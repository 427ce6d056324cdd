"""Verdicts over made-up cells: each status can be reached, order never matters, what is missing is named."""

import math
import random
from dataclasses import replace

import pytest

from jsm_queue import recommendation, verdicts, wording
from jsm_queue.canonical import canonical_json
from jsm_queue.comparison import CellValues, compare, level
from jsm_queue.verdicts import Verdict, bases_verdict, quantization_verdict, scale_verdict
from tests.unit.studies import spec

ITEMS = [f"q{i:03d}" for i in range(80)]  # enough to call two equal scores equivalent


def noise(name: str, sd: float) -> dict[str, float]:
    """Per-item noise of mean 0, the same for the same name."""
    rng = random.Random(name)
    drawn = [rng.gauss(0, sd) for _ in ITEMS]
    return {item: value - sum(drawn) / len(drawn) for item, value in zip(ITEMS, drawn, strict=True)}


def size_cell(n: int | None, seed: int | None, nll: float, sd: float = 0.05) -> CellValues:
    """A validation cell of stage scale: 20 tokens an item, `nll` nats a token with noise `sd`."""
    own, shared = noise(f"{n}-{seed}", sd), noise("difficulty", 0.5)
    label = "a untrained" if n is None else f"a n={n} seed={seed}"
    values = {item: 20 * (nll + own[item] + shared[item]) for item in ITEMS}
    return CellValues(label, "a", n, seed, None, values, dict.fromkeys(ITEMS, 20.0), {})


def score_cell(
    base: str,
    n: int | None,
    seed: int | None,
    mean: float,
    fmt: str | None = None,
    sd: float = 0.1,
    **metrics: float,
) -> CellValues:
    """A judged cell: every base meets the same difficulties."""
    own, shared = noise(f"{base}-{n}-{seed}-{fmt}", sd), noise("difficulty", 0.3)
    values = {item: min(3.0, max(0.0, mean + own[item] + shared[item])) for item in ITEMS}
    label = " ".join(filter(None, [base, "untrained" if n is None else f"n={n} seed={seed}", fmt]))
    return CellValues(label, base, n, seed, fmt, values, {}, metrics)


def scale_cells(nlls: dict[int | None, float], sd: float = 0.05) -> list[CellValues]:
    return [size_cell(n, seed, nll, sd) for n, nll in nlls.items() for seed in ([None] if n is None else [1, 2, 3])]


def base_cells(means: dict[str, float], untrained: float = 0.3, sd: float = 0.1) -> list[CellValues]:
    cells = [score_cell(base, 500, seed, mean, sd=sd) for base, mean in means.items() for seed in (1, 2)]
    return cells + [score_cell(base, None, None, untrained) for base in means]


def format_cells(means: dict[str, float], base: str = "a", sd: float = 0.02) -> list[CellValues]:
    sizes = {"F16": 16e9, "Q8_0": 8e9, "Q5_K_M": 5.7e9, "Q4_K_M": 4.9e9}
    return [
        score_cell(base, 500, seed, mean, fmt, sd, bytes=sizes[fmt], kl=0.0 if fmt == "F16" else 0.01)
        for fmt, mean in means.items()
        for seed in (1, 2)
    ]


class TestScale:
    def test_the_smallest_size_that_is_not_worse(self):
        verdict = scale_verdict(scale_cells({None: 5, 125: 3.6, 250: 3.1, 500: 2.702, 1000: 2.7}), [])
        assert verdict.decision == {
            "n": 500, "status": "decided", "best": 1000, "still_falling": False, "beats_untrained": True,
            "missing": [],
        }  # fmt: skip
        assert verdict.evidence["margin"] == pytest.approx(0.02 * 2.7, rel=0.05)
        assert [row["relation"] for row in verdict.evidence["sizes"]] == [
            "worse",
            "worse",
            "not_worse",
            "best",
        ]

    def test_still_falling(self):
        verdict = scale_verdict(scale_cells({None: 5, 500: 3.1, 1000: 2.7}), [])
        assert (verdict.decision["n"], verdict.decision["still_falling"]) == (1000, True)

    def test_undecided_when_a_smaller_size_may_do(self):
        verdict = scale_verdict(scale_cells({None: 5, 500: 2.78, 1000: 2.7}, sd=1.0), [])
        assert (verdict.decision["n"], verdict.decision["status"]) == (1000, "undecided")
        row = verdict.evidence["sizes"][0]
        assert row["relation"] == "undecided" and row["needs"] > len(ITEMS)
        assert "500" in verdict.evidence["reasons"][0]

    def test_an_estimate_within_the_margin_is_not_enough(self):
        verdict = scale_verdict(scale_cells({None: 5, 500: 2.72, 1000: 2.7}, sd=0.8), [])
        row = verdict.evidence["sizes"][0]
        assert row["difference"]["difference"] < verdict.evidence["margin"] < row["difference"]["high"]
        assert (verdict.decision["n"], verdict.decision["status"]) == (1000, "undecided")

    def test_undecided_when_training_taught_nothing(self):
        verdict = scale_verdict(scale_cells({None: 2.7, 500: 2.71, 1000: 2.7}), [])
        assert verdict.decision["status"] == "undecided" and not verdict.decision["beats_untrained"]

    def test_pairing_decides_what_the_intervals_of_the_levels_cannot(self):
        cells = scale_cells({250: 2.9, 500: 2.7})
        worse, best = (level([c for c in cells if c.n == n]) for n in (250, 500))
        assert worse and best and worse.low < best.high
        assert scale_verdict(cells, []).decision["n"] == 500

    def test_a_lost_size_is_named_and_the_rest_decided(self):
        verdict = scale_verdict(scale_cells({None: 5, 125: 3.6, 250: 3.1}), ["a n=500 seed=1"])
        assert verdict.decision["n"] == 250 and verdict.decision["missing"] == ["a n=500 seed=1"]

    def test_one_size_is_no_comparison(self):
        assert scale_verdict(scale_cells({None: 5, 125: 3.6}), []).decision["status"] == "undecided"

    def test_a_diverged_cell_counts_as_missing(self):
        cells = scale_cells({None: 5, 125: 3.6, 250: 3.1})
        broken = replace(cells[-1], values=dict(cells[-1].values) | {ITEMS[0]: math.nan})
        verdict = scale_verdict([*cells[:-1], broken], [])
        assert verdict.decision["missing"] == [broken.cell] and verdict.decision["n"] == 250


class TestBases:
    def test_ranking_with_intervals(self):
        verdict = bases_verdict(base_cells({"b": 1.1, "a": 1.6}), 1, [])
        assert verdict.decision["chosen"] == ["a"] and verdict.decision["status"] == "decided"
        assert [row["base"] for row in verdict.decision["ranking"]] == ["a", "b"]
        assert verdict.decision["pairs"] == [{"a": "a", "b": "b", "relation": "better"}]
        row = verdict.evidence["bases"][0]
        assert row["gain"]["low"] > 0 and row["score"]["low"] < 1.6 < row["score"]["high"]

    def test_equivalent(self):
        verdict = bases_verdict(base_cells({"a": 1.6, "b": 1.59}), 1, [])
        assert verdict.decision["pairs"][0]["relation"] == "equivalent" and verdict.decision["status"] == "decided"

    def test_undecided_says_how_many_questions(self):
        verdict = bases_verdict(base_cells({"a": 1.6, "b": 1.5}, sd=1.5), 1, [])
        assert verdict.decision["status"] == "undecided"
        assert verdict.evidence["pairs"][0]["needs"] > len(ITEMS)

    def test_undecided_among_the_chosen_does_not_matter(self):
        verdict = bases_verdict(base_cells({"a": 1.6, "b": 1.5}, sd=1.5), 2, [])
        assert verdict.decision["status"] == "decided" and len(verdict.decision["chosen"]) == 2

    @pytest.mark.parametrize(("means", "end"), [((2.95, 2.9), "ceiling"), ((0.01, 0.02), "floor")])
    def test_a_bench_at_its_end_cannot_tell(self, means: tuple[float, float], end: str):
        def flat(base: str, mean: float) -> CellValues:
            cell = score_cell(base, 500, 1, mean)
            return replace(cell, values=dict.fromkeys(ITEMS, mean))

        verdict = bases_verdict([flat("a", means[0]), flat("b", means[1])], 1, [])
        assert verdict.decision["bench_cannot_tell"] == end and verdict.decision["status"] == "undecided"

    def test_only_the_bases_at_the_cut_must_be_told_apart(self):
        cells = base_cells({"a": 1.5, "b": 0.0, "c": 0.05}, untrained=0.0)
        verdict = bases_verdict(cells, 1, [])
        assert (verdict.decision["status"], verdict.decision["bench_cannot_tell"]) == ("decided", None)
        verdict = bases_verdict(cells, 2, [])
        assert (verdict.decision["status"], verdict.decision["bench_cannot_tell"]) == ("undecided", "floor")
        assert bases_verdict(cells, 3, []).decision["bench_cannot_tell"] is None
        headline = wording.headline("bases", verdict.decision, verdict.evidence)
        assert headline.endswith("undecided: the bench cannot tell c from b: nearly all their answers are wrong")

    @pytest.mark.parametrize(("questions", "relation", "needs"), [(5, "undecided", 60), (60, "equivalent", None)])
    def test_equal_scores_on_few_questions_are_not_equivalent(self, questions: int, relation: str, needs: int | None):
        cells = [replace(score_cell(base, 500, 1, 0), values=agreeing(questions)) for base in ("a", "b")]
        (pair,) = bases_verdict(cells, 1, []).evidence["pairs"]
        assert (pair["low"], pair["high"], pair["relation"], pair["needs"]) == (0, 0, relation, needs)

    def test_a_base_without_cells_is_named_not_ranked(self):
        verdict = bases_verdict(base_cells({"a": 1.6}), 1, ["c n=500 seed=1", "c n=500 seed=2", ""])
        assert [row["base"] for row in verdict.decision["ranking"]] == ["a"]
        assert verdict.decision["not_ranked"] == ["c"]

    def test_an_untrained_reference_is_evidence_only(self):
        verdict = bases_verdict([*base_cells({"a": 1.6, "b": 1.0}), score_cell("ref", None, None, 2.9)], 1, [])
        assert [row["base"] for row in verdict.decision["ranking"]] == ["a", "b"]
        assert {row["base"] for row in verdict.evidence["bases"]} == {"a", "b", "ref"}

    def test_a_failed_parity_is_named(self):
        cells = base_cells({"a": 1.6, "b": 1.0})
        cells[0] = replace(cells[0], metrics={"parity_ok": 0.0})
        assert bases_verdict(cells, 1, []).decision["parity_failed"] == [cells[0].cell]

    def test_ties_are_broken_by_name_not_by_the_test_set(self):
        cells = base_cells({"a": 1, "b": 1})
        cells = [replace(c, values=dict.fromkeys(ITEMS, 1.0)) for c in cells]
        cells = [replace(c, metrics={"bits_per_byte": 1.0 if c.base == "b" else 2.0}) for c in cells]
        assert bases_verdict(cells, 1, []).decision["chosen"] == ["a"]


class TestQuantization:
    def test_the_smallest_equivalent_file(self):
        cells = format_cells({"F16": 1.6, "Q8_0": 1.6, "Q5_K_M": 1.58, "Q4_K_M": 1.2})
        verdict = quantization_verdict(cells, [])
        assert (verdict.decision["base"], verdict.decision["format"]) == ("a", "Q5_K_M")
        assert verdict.decision["status"] == "decided"
        assert verdict.decision["relations"]["a"] == {
            "F16": "reference", "Q8_0": "equivalent", "Q5_K_M": "equivalent", "Q4_K_M": "worse",
        }  # fmt: skip

    def test_an_undecided_smaller_file_leaves_the_verdict_undecided(self):
        cells = format_cells({"F16": 1.6, "Q8_0": 1.6}) + format_cells({"Q4_K_M": 1.52}, sd=1.5)
        verdict = quantization_verdict(cells, [])
        assert (verdict.decision["format"], verdict.decision["status"]) == ("Q8_0", "undecided")
        row = verdict.evidence["bases"][0]["formats"][-1]
        assert row["relation"] == "undecided" and row["needs"] > len(ITEMS)

    def test_without_f16_the_most_precise_format_present_is_the_reference(self):
        verdict = quantization_verdict(format_cells({"Q8_0": 1.6, "Q4_K_M": 1.6}), ["a n=500 seed=1 F16"])
        assert verdict.decision["relations"]["a"]["Q8_0"] == "reference"
        assert verdict.decision["missing"] == ["a n=500 seed=1 F16"]

    def test_the_base_that_scores_best_is_chosen(self):
        verdict = quantization_verdict(format_cells({"F16": 1.2}) + format_cells({"F16": 1.6}, "b"), [])
        assert verdict.decision["base"] == "b"

    def test_a_better_quantized_file_is_not_called_worse(self):
        verdict = quantization_verdict(format_cells({"F16": 1.0, "Q8_0": 1.6}), [])
        assert verdict.decision["relations"]["a"]["Q8_0"] == "equivalent"

    @pytest.mark.parametrize(
        ("questions", "lost", "relation", "needs"),
        [
            (5, 0.0, "undecided", 60),
            (32, 0.0, "undecided", 60),
            (32, 1.5, "undecided", 190),
            (60, 0.0, "equivalent", None),
            (60, 1.5, "undecided", 120),
            (200, 1.5, "equivalent", None),
        ],
    )
    def test_equivalence_needs_enough_questions_to_have_shown_a_loss(
        self, questions: int, lost: float, relation: str, needs: int | None
    ):
        same = agreeing(questions)
        cells = [replace(score_cell("a", 500, 1, 0, fmt), values=same) for fmt in ("F16", "Q2_K")]
        cells[1] = replace(cells[1], values=same | {"q000": same["q000"] - lost})
        verdict = quantization_verdict(cells, [])
        row = verdict.evidence["bases"][0]["formats"][1]
        assert (row["relation"], row["needs"]) == (relation, needs)
        chosen = "Q2_K" if relation == "equivalent" else "F16"
        status = "decided" if relation == "equivalent" else "undecided"
        assert (verdict.decision["format"], verdict.decision["status"]) == (chosen, status)


def agreeing(questions: int) -> dict[str, float]:
    """Scores of so many questions, the same for whoever gives them."""
    return {f"q{i:03d}": (3.0, 1.5)[i % 2] for i in range(questions)}


def all_verdicts(cells: list[list[CellValues]]) -> list[Verdict]:
    scale, bases, quantization = cells
    return [
        scale_verdict(scale, ["x"]),
        bases_verdict(bases, 1, ["y"]),
        quantization_verdict(quantization, ["z"]),
    ]


def three_stages() -> list[list[CellValues]]:
    return [
        scale_cells({None: 5, 125: 3.6, 250: 3.1, 500: 2.702, 1000: 2.7}),
        base_cells({"a": 1.6, "b": 1.1}),
        format_cells({"F16": 1.6, "Q8_0": 1.6, "Q4_K_M": 1.4}) + format_cells({"F16": 1.4, "Q8_0": 1.4}, "b"),
    ]


def test_order_does_not_change_a_byte():
    def shuffled(cells: list[CellValues], rng: random.Random) -> list[CellValues]:
        mixed = [replace(c, values=dict(rng.sample(sorted(c.values.items()), len(c.values)))) for c in cells]
        return rng.sample(mixed, len(mixed))

    expected = [canonical_json([v.decision, v.evidence]) for v in all_verdicts(three_stages())]
    for seed in range(5):
        rng = random.Random(seed)
        found = all_verdicts([shuffled(cells, rng) for cells in three_stages()])
        assert [canonical_json([v.decision, v.evidence]) for v in found] == expected


def test_last_bits_do_not_change_a_byte():
    def jittered(cells: list[CellValues]) -> list[CellValues]:
        return [replace(c, values={item: v * (1 + 1e-15) for item, v in c.values.items()}) for c in cells]

    expected = [canonical_json(v.decision) for v in all_verdicts(three_stages())]
    assert [canonical_json(v.decision) for v in all_verdicts([jittered(c) for c in three_stages()])] == expected


@pytest.mark.parametrize("missing", [[], ["a n=500 seed=1"]])
def test_nothing_measured_is_a_failed_verdict(missing: list[str]):
    for verdict in (
        scale_verdict([], missing),
        bases_verdict([], 1, missing),
        quantization_verdict([], missing),
    ):
        assert verdict.decision["status"] == "failed" and verdict.decision["missing"] == missing
        canonical_json([verdict.decision, verdict.evidence])
    assert scale_verdict([], missing).decision["n"] is None
    assert bases_verdict([], 1, missing).decision["chosen"] == []
    assert wording.headline("scale", scale_verdict([], missing).decision, {}).startswith("failed")


def test_only_shared_seeds_are_compared():
    good = [score_cell("a", 500, seed, 1.5) for seed in (1, 2)]
    other = [score_cell("b", 500, 1, 1.5), score_cell("b", 500, 3, 0.2)]
    found = compare(good, other)
    assert found and abs(found.difference) < 0.1


def test_too_few_common_examples_decide_nothing():
    a, b = score_cell("a", 500, 1, 3.0), score_cell("b", 500, 1, 0.0)
    few = ITEMS[:4]
    a, b = (replace(c, values={item: c.values[item] for item in few}) for c in (a, b))
    assert compare([a], [b]) is None
    assert bases_verdict([a, b], 1, []).decision["status"] == "undecided"


class TestRecommendation:
    def verdicts(self, means: dict[str, float] | None = None) -> dict[str, Verdict]:
        scale, bases, _ = all_verdicts(three_stages())
        formats = format_cells(means or {"F16": 1.6, "Q8_0": 1.6, "Q4_K_M": 1.2})
        return {"scale": scale, "bases": bases, "quantization": quantization_verdict(formats, [])}

    def sizes(self) -> dict[str, float]:
        return {"a n=500 seed=1 F16": 16e9, "a n=500 seed=1 Q8_0": 8e9, "a n=500 seed=1 Q4_K_M": 4.9e9}

    def timings(self) -> dict[str, list[float]]:
        return {
            "a n=500 seed=1 F16": [3.0, 4.0],
            "a n=500 seed=1 Q8_0": [1.0, 2.0],
            "a n=500 seed=1 Q4_K_M": [0.5],
        }

    def recommend(self, limits: dict[str, float] | None = None, means: dict[str, float] | None = None) -> dict:
        study = spec(limits=limits or {})
        return recommendation.recommend(study, self.verdicts(means), self.timings(), self.sizes(), {})

    def test_the_smallest_equivalent_format(self):
        found = self.recommend()
        assert (found["base"], found["n"], found["format"]) == ("a", 500, "Q8_0")
        assert (found["bytes"], found["seconds_p50"]) == (8e9, 1.5)
        assert found["sentence"].startswith("Deploy a, fine-tuned on 500 examples, as Q8_0: 1.60 [")
        assert len(found["rests_on"]) == 3 and any("calibrated" in line for line in found["caveats"])
        canonical_json(found)

    @pytest.mark.parametrize(
        "limits",
        [{"file_gb": 5}, {"vram_gib": 7}, {"seconds_per_question": 0.6}],
        ids=["file", "vram", "time"],
    )
    def test_limits_exclude_and_say_why(self, limits: dict[str, float]):
        found = self.recommend(limits)
        assert (found["format"], found["status"]) == ("Q4_K_M", "undecided")
        assert [row["format"] for row in found["excluded"]] == ["F16", "Q8_0"]
        assert any("No format that is shown equivalent fits" in line for line in found["caveats"])

    def test_nothing_fits(self):
        found = self.recommend({"file_gb": 1})
        assert found["status"] == "none" and "fits the limits" in found["sentence"]

    def test_identical_scores_say_what_they_cannot_exclude(self):
        formats = format_cells({"F16": 1.6}, sd=0) + format_cells({"Q8_0": 1.6}, sd=0)
        found = recommendation.recommend(
            spec(), self.verdicts() | {"quantization": quantization_verdict(formats, [])}, {}, {}, {}
        )
        assert any("same on all 80 questions" in line for line in found["caveats"])

    def test_an_undecided_format_says_what_was_seen_and_what_that_cannot_exclude(self):
        cells = [replace(c, values=agreeing(32)) for c in format_cells({"F16": 1.6, "Q8_0": 1.6})]
        verdicts = self.verdicts() | {"quantization": quantization_verdict(cells, [])}
        found = recommendation.recommend(spec(), verdicts, {}, {}, {})
        assert (found["format"], found["status"]) == ("F16", "undecided")
        line = next(line for line in found["caveats"] if "Q8_0" in line)
        assert line.endswith("0 of 32 differ, which allows a loss of 0.27 points; about 60 questions would decide.")

    def test_what_failed_is_named_with_its_kinds(self):
        verdicts = {"bases": bases_verdict(base_cells({"a": 1.6, "b": 1.1}), 1, ["b n=500 seed=1", ""])}
        failed = {("bases", "b n=500 seed=1"): ["parity"], ("bases", ""): ["latency"]}
        found = recommendation.recommend(spec(), verdicts, {}, {}, failed)
        line = "Not measured, because a job failed: b n=500 seed=1 (parity), bases as a whole (latency)."
        assert line in found["caveats"]

    def test_a_test_set_that_serves_as_bench_is_a_caveat(self):
        data = {"source": "data.yaml", "bench": "bench.yaml"}
        for study, told in ((spec(), True), (spec(data=data), False)):
            found = recommendation.recommend(study, self.verdicts(), {}, {}, {})
            assert any("the test questions chose base and format" in line for line in found["caveats"]) is told

    def test_without_stage_3_it_rests_on_stage_2(self):
        study = spec(stages={"scale": None, "bases": {"n": 500}, "quantization": None})
        bases = self.verdicts()["bases"]
        cell = "a n=500 seed=1"
        found = recommendation.recommend(study, {"bases": bases}, {cell: [1.0]}, {cell: 8e9}, {})
        assert (found["base"], found["format"], found["bytes"], found["seconds_p95"]) == (
            "a",
            "Q8_0",
            8e9,
            1.0,
        )

    def test_nothing_measured(self):
        failed = {"scale": scale_verdict([], ["a n=10 seed=1"])}
        found = recommendation.recommend(spec(), failed, {}, {}, {})
        assert found["status"] == "none" and "a n=10 seed=1" in " ".join(found["caveats"])
        assert recommendation.recommend(spec(), {}, {}, {}, {})["status"] == "none"
        failed = {"bases": bases_verdict([], 1, []), "quantization": quantization_verdict([], [])}
        assert recommendation.recommend(spec(), failed, {}, {}, {})["status"] == "none"


def test_headlines_read_like_this():
    scale, bases, quantization = all_verdicts(three_stages())
    assert wording.headline("scale", scale.decision, scale.evidence) == "n* = 500; not worse than n = 1 000"
    text = wording.headline("bases", bases.decision, bases.evidence)
    assert text.startswith("a 1.60 [") and " over b 1.10 [" in text
    text = wording.headline("quantization", quantization.decision, quantization.evidence)
    assert text == "Q8_0 ≈ F16; Q4_K_M worse"


@pytest.mark.parametrize(
    ("value", "expected"), [(999, "999 B"), (6.24e6, "6.2 MB"), (4.92e9, "4.92 GB"), (1.2e4, "12.0 kB")]
)
def test_sizes_read_like_this(value: float, expected: str):
    assert wording.size(value) == expected


def test_rules_version_is_stated():
    assert verdicts.RULES_VERSION == 3
