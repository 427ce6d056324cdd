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


BENCH = [f"b{i:02d}" for i in range(24)]


def bases_cells() -> list[CellValues]:
    cells = [score_cell("river-qwen2", 1000, seed, 0.58, BENCH) for seed in (1, 2)]
    cells += [score_cell("river-llama", 1000, seed, 0.42, BENCH) for seed in (1, 2)]
    cells += [score_cell(base, None, None, 0.07, BENCH) for base in (*BASES, "smollm2-135m")]
    bits = {"river-qwen2": 0.31, "river-llama": 0.36, "smollm2-135m": 1.72}
    return [replace(c, metrics={"bits_per_byte": bits[c.base] + (0 if c.n else 0.4), "parity_ok": 1.0}) for c in cells]


def format_cells() -> list[CellValues]:
    cells = [score_cell("river-qwen2", 1000, seed, 0.58, BENCH, fmt) for fmt in FORMATS for seed in (1, 2)]
    return [
        replace(c, metrics={"bytes": FORMATS[c.format or ""][0], "kl": FORMATS[c.format or ""][1]}) for c in cells
    ]


def timed(seconds: float) -> Timed:
    rng = random.Random(seconds)
    taken = [seconds * rng.lognormvariate(0, 0.25) for _ in range(24)]
    return Timed(taken, [0.2 * value for value in taken], [18 / value for value in taken])


def example(text: str = "") -> d.ExampleQuestion:
    wrong = "床止めは、河川の水位を観測するための施設です。"
    right = text or "床止めは、河床の洗掘を防いで河道の勾配を安定させるために設ける施設です。"
    answers = [
        d.Answer(cell="river-qwen2 untrained", text="。、、の", score=0.0, missing=["河床", "勾配"]),
        d.Answer(cell="river-qwen2 n=1000 seed=1", text=right, score=3.0, found=["河床", "勾配"]),
        d.Answer(cell="river-llama n=1000 seed=1", text=wrong, score=0.0, missing=["河床", "勾配"]),
        d.Answer(cell="smollm2-135m untrained", text="The floor stop is " * 12, score=0.0, missing=["河床"], cut=True),
        d.Answer(cell="river-qwen2 n=1000 seed=1 Q4_K_M", text=right, score=1.5, found=["河床"], missing=["勾配"]),
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
    metrics = {CellKey("bases", c.cell): {"parity.ok": 1.0, "convert.bytes": 6.3e6} for c in bases_cells()}
    for c in format_cells():
        metrics[CellKey("quantization", c.cell)] = {
            "convert.bytes": c.metrics["bytes"], "parity.kl": c.metrics["kl"], "parity.agree": 1 - c.metrics["kl"],
            "parity.ok": 1.0,
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
        "data": d.DataSummary(train=1180, validation=60, test_taught=60, test_unseen=60, bench=24, dropped=17),
        "verdicts": verdicts,
        "strata": cells,
        "metrics": metrics,
        "timings": timings,
        "hardware": "CPU, 2 cores",
        "facts": {"river-qwen2": BaseFacts(family="qwen2", parameters=4_900_000)},
        "examples": [example()],
    }  # fmt: skip
    return Measured(**(values | changes))
