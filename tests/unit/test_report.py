"""The report of a made-up study that looks like the demo's: figures, charts, one safe and self-contained page."""

import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from jsm_queue.comparison import CellValues
from jsm_queue.kinds import BaseFacts
from jsm_queue.report import charts
from jsm_queue.report import data as d
from jsm_queue.report.build import CellKey, Measured, Timed, build
from jsm_queue.report.html import render_html
from jsm_queue.report.markdown import render_markdown
from jsm_queue.spec import parse_spec
from jsm_queue.verdicts import bases_verdict, quantization_verdict, scale_verdict

SIZES, SEEDS = (125, 250, 500, 1000), (1, 2, 3)
FORMATS = {"F16": (11.8e6, 0.0), "Q8_0": (6.3e6, 0.0011), "Q5_K_M": (4.6e6, 0.011), "Q4_K_M": (4.1e6, 0.034)}
BASES = ("river-qwen2", "river-llama")


def spec(**changes: Any):
    value: dict[str, Any] = {
        "name": "river-demo",
        "data": {"source": "graph.yaml"},
        "bases": [
            {"name": "river-qwen2", "source": "bases/river-qwen2"},
            {"name": "river-llama", "source": "bases/river-llama"},
            {"name": "smollm2-135m", "source": "smollm2.gguf", "train": False},
        ],
        "stages": {
            "scale": {"base": "river-qwen2", "sizes": list(SIZES), "read_test": "all"},
            "bases": {},
            "quantization": {"formats": list(FORMATS)},
        },
    }
    return parse_spec(value | changes)


def label(base: str, n: int | None, seed: int | None, fmt: str | None = None) -> str:
    return " ".join(filter(None, [base, "untrained" if n is None else f"n={n} seed={seed}", fmt]))


def nll_cell(n: int | None, seed: int | None, mean: float, items: list[str], tokens: int) -> CellValues:
    rng, shared = random.Random(f"{n}{seed}"), random.Random("difficulty")
    values = {item: tokens * max(0.05, mean + shared.gauss(0, 0.4) + rng.gauss(0, 0.12)) for item in items}
    return CellValues(
        label("river-qwen2", n, seed), "river-qwen2", n, seed, None, values, dict.fromkeys(items, float(tokens)), {}
    )


def score_cell(
    base: str, n: int | None, seed: int | None, right: float, items: list[str], fmt: str | None = None
) -> CellValues:
    """Scores 0–3 in steps of a key fact; `right`: the share of facts found. Each question has its difficulty."""
    rng = random.Random(f"{base}{n}{seed}")  # formats of one training differ little
    values = {}
    for index, item in enumerate(items):
        facts = 1 + index % 3
        hard = random.Random(item).random()
        found = sum(0.6 * hard + 0.4 * rng.random() < right for _ in range(facts))
        values[item] = 3 * found / facts
    moved = {"Q5_K_M": items[4:6], "Q4_K_M": items[::4]}.get(fmt or "", [])
    for index, item in enumerate(moved):
        values[item] += 1.0 if values[item] < 1.5 and index % 2 else -min(1.5, values[item])
    return CellValues(label(base, n, seed, fmt), base, n, seed, fmt, values, {}, {})


def trained(make: Any, table: dict[int | None, float]) -> list[CellValues]:
    return [make(n, seed, value) for n, value in table.items() for seed in ([None] if n is None else SEEDS)]


def strata() -> dict[tuple[str, str], list[CellValues]]:
    tables = {
        ("nll", "validation"): {None: 4.91, 125: 3.62, 250: 3.11, 500: 2.71, 1000: 2.31},
        ("nll", "taught"): {None: 4.87, 125: 3.66, 250: 3.18, 500: 2.73, 1000: 2.35},
        ("nll", "unseen"): {None: 4.95, 125: 3.80, 250: 3.52, 500: 3.45, 1000: 3.41},
        ("key_nll", "validation"): {None: 6.1, 125: 5.6, 250: 4.9, 500: 4.0, 1000: 2.9},
        ("key_nll", "taught"): {None: 6.0, 125: 5.5, 250: 4.8, 500: 3.9, 1000: 2.8},
        ("key_nll", "unseen"): {None: 6.1, 125: 6.2, 250: 6.1, 500: 6.3, 1000: 6.4},
        ("score", "taught"): {None: 0.06, 125: 0.14, 250: 0.24, 500: 0.42, 1000: 0.6},
        ("score", "unseen"): {None: 0.06, 125: 0.07, 250: 0.06, 500: 0.08, 1000: 0.07},
    }
    found = {}
    for (measure, stratum), table in tables.items():
        items = [f"{stratum}{i}" for i in range(60)]
        if measure == "score":
            found[measure, stratum] = trained(lambda n, s, v, q=items: score_cell("river-qwen2", n, s, v, q), table)
        else:
            tokens = 20 if measure == "nll" else 5
            found[measure, stratum] = trained(lambda n, s, v, q=items, t=tokens: nll_cell(n, s, v, q, t), table)
    return found


BENCH = [f"b{i:02d}" for i in range(72)]


def bases_cells() -> list[CellValues]:
    cells = [score_cell("river-qwen2", 1000, seed, 0.58, BENCH) for seed in (1, 2)]
    cells += [score_cell("river-llama", 1000, seed, 0.42, BENCH) for seed in (1, 2)]
    cells += [score_cell(base, None, None, 0.07, BENCH) for base in (*BASES, "smollm2-135m")]
    return [replace(c, metrics={"parity_ok": 1.0, **bits(c)}) for c in cells]


def bits(cell: CellValues) -> dict[str, float]:
    known = {"river-qwen2": 0.31, "river-llama": 0.36, "smollm2-135m": 1.32}
    return {"bits_per_byte": known[cell.base] + (0 if cell.n else 0.4)}


def format_cells() -> list[CellValues]:
    cells = [score_cell("river-qwen2", 1000, seed, 0.58, BENCH, fmt) for fmt in FORMATS for seed in (1, 2)]
    return [replace(c, metrics={"bytes": FORMATS[c.format or ""][0], "kl": FORMATS[c.format or ""][1]}) for c in cells]


def timed(seconds: float) -> Timed:
    rng = random.Random(seconds)
    taken = [seconds * rng.lognormvariate(0, 0.25) for _ in range(24)]
    return Timed(taken, [0.2 * value for value in taken], [18 / value for value in taken])


def example(text: str = "") -> d.ExampleQuestion:
    wrong = "床止めは、河川の水位を観測するための施設です。"
    right = text or "床止めは、河床の洗掘を防いで河道の勾配を安定させるために設ける施設です。"
    answers = [
        d.Answer(cell="river-qwen2 untrained", format="Q8_0", text="。、、の", score=0.0, missing=["河床", "勾配"]),
        d.Answer(cell="river-qwen2 n=1000 seed=1", format="Q8_0", text=right, score=3.0, found=["河床", "勾配"]),
        d.Answer(cell="river-llama n=1000 seed=1", format="Q8_0", text=wrong, score=0.0, missing=["河床", "勾配"]),
        d.Answer(
            cell="smollm2-135m untrained",
            format="Q8_0",
            text="The floor stop is " * 12,
            score=0.0,
            missing=["河床"],
            cut=True,
        ),
        d.Answer(
            cell="river-qwen2 n=1000 seed=1 Q4_K_M",
            format="Q4_K_M",
            text=right,
            score=1.5,
            found=["河床"],
            missing=["勾配"],
        ),
    ]
    return d.ExampleQuestion(
        question="床止めは何のために設けられますか。",
        reference="床止めは、河床の洗掘を防ぎ、河道の勾配を安定させるために設けます。",
        stratum="taught",
        category="design",
        answers=answers,
    )


def measured(**changes: Any) -> Measured:
    """A whole study: three verdicts, all tables filled."""
    cells = strata()
    verdicts = {
        "scale": scale_verdict(cells["nll", "validation"], []),
        "bases": bases_verdict(bases_cells(), 1, []),
        "quantization": quantization_verdict(format_cells(), []),
    }
    metrics = {CellKey("bases", c.cell): {"parity.ok": 1.0, "convert.bytes": 6.3e6, **bits(c)} for c in bases_cells()}
    for c in format_cells():
        metrics[CellKey("quantization", c.cell)] = {
            "convert.bytes": c.metrics["bytes"], "parity.kl": c.metrics["kl"], "parity.agree": 1 - c.metrics["kl"],
            "parity.ok": 1.0, "parity.prompts": 4.0,
        }  # fmt: skip
    times = {"F16": 0.42, "Q8_0": 0.31, "Q5_K_M": 0.27, "Q4_K_M": 0.25}
    timings = {CellKey("quantization", label("river-qwen2", 1000, 1, f)): timed(t) for f, t in times.items()}
    timings |= {CellKey("bases", label(base, 1000, 1)): timed(t) for base, t in zip(BASES, (0.31, 0.34), strict=True)}
    timings[CellKey("bases", "smollm2-135m untrained")] = timed(2.4)
    values: dict[str, Any] = {
        "spec": spec(),
        "study": d.StudyFacts(
            id="3f9a" * 16, name="river-demo", state="ended", created_at="2026-03-18 09:12 UTC",
            ended_at="2026-03-18 09:20 UTC", jobs={"total": 141, "done": 141, "failed": 0, "reused": 0},
            busy_seconds=492.0, hardware=["CPU, 2 cores"], versions={"torch": "2.13.0", "llama_cpp_python": "0.3.36"},
            training={"r": 16, "alpha": 32.0, "lr": 0.001, "epochs": 12, "batch": 16},
        ),
        "data": d.DataSummary(train=1180, validation=60, test_taught=60, test_unseen=60, bench=72, dropped=17),
        "verdicts": verdicts,
        "strata": cells,
        "metrics": metrics,
        "timings": timings,
        "hardware": "CPU, 2 cores",
        "facts": {"river-qwen2": BaseFacts(family="qwen2", parameters=4_900_000)},
        "examples": [example()],
    }  # fmt: skip
    return Measured(**(values | changes))


class Page(HTMLParser):
    """What a browser would see: tags, ids, texts, addresses it would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.addresses.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report() -> d.ReportData:
    return build(measured())


@pytest.fixture(scope="module")
def html(report: d.ReportData) -> str:
    return render_html(report)


class TestData:
    def test_it_is_the_json_report(self, report: d.ReportData):
        text = report.model_dump_json()
        assert d.ReportData.model_validate_json(text) == report
        assert "床止め" in text

    def test_figures_are_the_cells_means(self, report: d.ReportData):
        row = next(row for row in report.sizes if row.n == 1000 and row.stratum == "validation")
        assert row.nll and row.nll.items == 60 and row.nll.low < row.nll.estimate < row.nll.high
        cells = [cell for cell in strata()["nll", "validation"] if cell.n == 1000]
        total = sum(sum(cell.values.values()) / sum(cell.weights.values()) for cell in cells)
        assert row.nll.estimate == pytest.approx(total / 3, abs=1e-6)
        assert row.seeds == 3

    def test_taught_facts_are_learned_and_unseen_ones_are_not(self, report: d.ReportData):
        shown = {(row.stratum, row.measure): row.shown_better for row in report.learning}
        assert shown["taught", "score"] and shown["taught", "key_nll"]
        assert not shown["unseen", "score"] and not shown["unseen", "key_nll"]
        assert any("not shown to help on facts" in line for line in report.not_claimed)

    def test_the_ranking_orders_the_bases_and_references_come_last(self, report: d.ReportData):
        assert [row.base for row in report.bases] == ["river-qwen2", "river-llama", "smollm2-135m"]
        assert report.bases[0].chosen and report.bases[0].family == "qwen2"
        assert report.bases[2].score is None and report.bases[2].seconds

    def test_exactly_the_recommended_format_is_marked(self, report: d.ReportData):
        marked = [(row.base, row.format) for row in report.formats if row.recommended]
        assert marked == [(report.recommendation.base, report.recommendation.format)]
        assert all(row.bytes and row.seconds for row in report.formats)
        assert [row.kl is None for row in report.formats] == [row.relation == "reference" for row in report.formats]

    def test_what_failed_is_named(self):
        metrics = {CellKey("bases", "river-llama n=1000 seed=1"): {"parity.ok": 0.0, "parity.agree": 0.42}}
        failed = {CellKey("scale", "river-qwen2 n=125 seed=1"): ["parity"], CellKey("bases", ""): ["latency"]}
        report = build(measured(metrics=metrics, failed=failed))
        assert "river-llama n=1000 seed=1 (bases) failed" in report.parity_warnings[0]
        assert "42%" in report.parity_warnings[0]
        assert report.missing == [
            "bases: the stage as a whole (latency)",
            "scale: river-qwen2 n=125 seed=1 (parity)",
        ]
        page = Page(render_html(report))
        assert "river-qwen2 n=125 seed=1" in page.text and "failed the parity check" in page.text

    def test_what_was_lost_without_failing_is_a_caveat(self):
        losses = {
            "train.dropped": {f"river-qwen2 n={n} seed=1": n for n in range(125, 132)},
            "score.dropped": {},
            "answer.truncated": {"smollm2-135m untrained": 9},
        }
        caveats = build(measured(losses=losses)).recommendation.caveats
        assert "Answers cut at decoding.max_new_tokens or at the context's end: smollm2-135m untrained (9)." in caveats
        (line,) = [line for line in caveats if "left out of training" in line]
        assert "river-qwen2 n=125 seed=1 (125), " in line and line.endswith("n=130 seed=1 (130), 1 more.")
        assert not any("without an NLL" in line for line in caveats)

    def test_the_judges_limits_are_told(self, report: d.ReportData):
        assert "does not understand negation" in report.not_claimed[0]

    def test_held_out_pairs_are_not_called_unseen(self):
        pairs = {(measure, ""): cells for (measure, stratum), cells in strata().items() if stratum == "unseen"}
        report = build(measured(strata=pairs))
        assert any("whether their facts are taught elsewhere" in line for line in report.not_claimed)
        text = Page(render_html(report)).text
        assert "Held-out pairs: whether their facts are taught elsewhere is not known." in text
        assert "test questions +" in text and "unseen facts" not in text and "shares no fact" not in text

    def test_the_same_measurements_in_another_order_give_the_same_bytes(self, report: d.ReportData):
        mixed = {key: cells[::-1] for key, cells in reversed(strata().items())}
        assert build(measured(strata=mixed)).model_dump_json() == report.model_dump_json()


class TestPage:
    def test_it_is_self_contained(self, html: str):
        page = Page(html)
        assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
        assert all(address.startswith("#") for address in page.addresses), page.addresses
        assert "@import" not in html and not re.search(r"url\((?!#)", html)
        assert set(re.findall(r"https?://[^\s\"'<>]+", html)) <= {"http://www.w3.org/2000/svg"}

    def test_ids_are_unique_and_references_lead_somewhere(self, html: str):
        page = Page(html)
        assert len(page.ids) == len(set(page.ids))
        assert {address[1:] for address in page.addresses} <= set(page.ids)
        assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(page.ids)

    def test_it_says_what_matters(self, html: str, report: d.ReportData):
        text = Page(html).text.replace("\u00a0", " ")
        sentence = report.recommendation.sentence
        assert sentence.partition(": ")[0] in text and sentence.partition(": ")[2][1:] in text
        for line in (*report.recommendation.caveats, *report.recommendation.rests_on, *report.not_claimed):
            assert line in text
        for expected in ("n* = 1 000", "河床の洗掘を防いで", "Reference: 床止め", "2 of 3 verdicts decided"):
            assert expected in text

    def test_answers_are_labelled_with_their_format_once(self, html: str):
        text = Page(html).text
        assert "river-qwen2 untrained · Q8_0" in text and "seed=1 Q4_K_M" in text and "Q4_K_M · Q4_K_M" not in text

    def test_divergences_say_how_many_prompts_they_rest_on(self, html: str):
        assert "over the answers to 4 test questions of each training" in Page(html).text

    def test_what_was_found_in_the_data_is_shown(self):
        found = d.DataReport(
            dropped=[d.Finding(what="near-duplicate question", count=17, examples=["p1 (bench b2)"])],
            odd=[d.Finding(what="over long answer", count=1, examples=["p9"])],
            ignored_columns=["note"],
        )
        text = Page(render_html(build(measured(data_report=found)))).text
        for expected in (
            "near-duplicate question",
            "17",
            "p1 (bench b2)",
            "over long answer",
            "mean nothing here: note",
        ):
            assert expected in text

    def test_texts_of_models_and_specs_are_escaped(self):
        attack = "<script>alert(1)</script><img src=x onerror=alert(2)>\" onload='x"
        question = example(attack).model_copy(update={"question": attack, "category": attack, "reference": attack})
        study = measured().study.model_copy(update={"name": attack, "hardware": [attack], "versions": {attack: attack}})
        page = Page(render_html(build(measured(examples=[question], study=study, hardware=attack))))
        assert not {"script", "img"} & set(page.tags)
        assert page.text.count(attack) >= 6

    def test_on_a_phone_wide_things_scroll_inside_their_frame(self, html: str):
        """Every table lies in a frame that scrolls; charts and grids shrink with the page."""
        assert html.count("<table>") == len(re.findall(r'<div class="scroll[^"]*"><table>', html))
        assert "width=device-width" in html and "overflow-x: auto" in html
        assert not re.search(r"(?<![-a-z])(?:min-)?width: ?\d{3,}px", html.split("<body>")[0])

    def test_equal_reports_give_equal_bytes(self, html: str):
        assert render_html(build(measured())) == html

    @pytest.mark.parametrize(
        "changes",
        [
            {"verdicts": {}, "strata": {}, "metrics": {}, "timings": {}, "examples": []},
            {"verdicts": {"scale": scale_verdict([], ["x"])}, "strata": {}},
            {"verdicts": {"bases": bases_verdict([], 1, []), "quantization": quantization_verdict([], [])}},
            {"timings": {}, "metrics": {}, "facts": {}},
            {"strata": {("nll", ""): [nll_cell(None, None, 3.0, ["a"], 5), nll_cell(125, 1, 3.0, ["a"], 5)]}},
        ],
        ids=["nothing", "scale failed", "all failed", "no timings", "one example"],
    )
    def test_a_study_with_holes_still_has_a_report(self, changes: dict[str, Any]):
        study = measured().study.model_copy(update={"state": "running"})
        page = Page(render_html(build(measured(study=study, **changes))))
        assert "This study is running" in page.text and "What this does not claim" in page.text


class TestMarkdown:
    def test_it_holds_the_pages_figures(self, report: d.ReportData):
        text = render_markdown(report).replace("\\", "")
        best = report.recommendation
        for line in (best.sentence, *best.caveats, *best.rests_on, *report.not_claimed):
            assert line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in text
        for row in report.formats:
            assert f"| {row.base} | {row.format}" in text and f"{row.score.estimate:.2f} [{row.score.low:.2f}" in text
        assert "2 of 3 verdicts decided" in text and "河床の洗掘を防いで" in text

    def test_every_table_has_as_many_cells_a_row_as_headings(self, report: d.ReportData):
        text = render_markdown(report)
        tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
        assert len(tables) >= 8
        for table in tables:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table

    def test_texts_of_models_and_specs_are_escaped(self):
        attack = "<script>x</script> | `a` [b](http://c) *d*\n\n# e"
        question = example(attack).model_copy(update={"question": attack, "reference": attack})
        study = measured().study.model_copy(update={"name": attack, "versions": {attack: attack}})
        text = render_markdown(build(measured(examples=[question], study=study, hardware=attack)))
        assert "<script>" not in text and "[b](" not in text and "\n# e" not in text
        assert r"&lt;script&gt;x&lt;/script&gt; \| \`a\` \[b\](http://c) \*d\* \# e" in text

    def test_a_study_with_holes_still_has_one(self):
        study = measured().study.model_copy(update={"state": "running"})
        empty = {"verdicts": {}, "strata": {}, "metrics": {}, "timings": {}, "examples": []}
        text = render_markdown(build(measured(study=study, **empty)))
        assert "This study is running" in text and "## Verdicts" not in text


class TestCharts:
    def drawn(self, report: d.ReportData) -> list[str]:
        formats = [(row.format, row.seconds) for row in report.formats if row.seconds]
        found = [
            *(charts.size_chart(report.sizes, measure, 1000) for measure in ("nll", "key_nll", "score")),
            charts.bases_chart(report.bases),
            charts.formats_chart(report.formats),
            charts.seconds_chart(formats, "seconds"),
            charts.bytes_chart(report.formats),
            charts.tradeoff_chart(report.formats),
        ]
        return [chart for chart in found if chart]

    def test_each_is_one_well_formed_svg_with_text_as_text(self, report: d.ReportData):
        drawn = self.drawn(report)
        assert len(drawn) == 8
        for chart in drawn:
            root = ElementTree.fromstring(chart)
            assert root.tag.endswith("svg") and root.get("role") == "img"
            assert any(element.tag.endswith("}text") for element in root.iter())
            assert not {"metadata", "style"} & {element.tag.rpartition("}")[2] for element in root.iter()}

    def test_they_are_the_same_each_time(self, report: d.ReportData):
        assert self.drawn(report) == self.drawn(report)

    def test_an_error_bar_is_as_long_as_its_interval(self):
        figure = d.Figure(estimate=2.0, low=1.5, high=3.0, items=9)
        assert charts._arms([figure]) == [[0.5], [1.0]]

    def test_without_data_there_is_no_chart(self):
        assert charts.size_chart([], "nll", None) is None
        assert charts.bases_chart([]) is None
        assert charts.formats_chart([]) is None
        assert charts.bytes_chart([]) is None
        assert charts.tradeoff_chart([]) is None
        assert charts.seconds_chart([], "x") is None
