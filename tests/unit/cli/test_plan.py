"""The job grid as `jsm plan` shows it."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jsm_queue import costs, planner
from jsm_queue.cli import plan, resolve
from jsm_queue.cli.main import app
from jsm_queue.spec import parse_spec

SPEC = parse_spec(
    {
        "name": "s",
        "data": {"source": "data.jsonl"},
        "bases": [{"name": "a", "source": "org/a"}, {"name": "b", "source": "org/b", "train": False}],
        "stages": {
            "scale": {"base": "a", "sizes": [10, 20], "seeds": [1, 2]},
            "bases": {"seeds": [1]},
            "quantization": {"formats": ["F16", "Q4_K_M"]},
        },
    }
)


def test_every_job_is_counted_once_and_in_its_first_stage(tmp_path) -> None:
    resolved, _ = resolve.sketch(SPEC, tmp_path)
    wanted = planner.preview(SPEC, resolved.inputs)
    grid = plan.summary(SPEC, wanted)
    assert grid["total"] == len({w.job.id for w in wanted}) == sum(stage["total"] for stage in grid["stages"])
    assert [stage["stage"] for stage in grid["stages"]] == ["scale", "bases", "quantization"]
    assert grid["stages"][0]["jobs"]["train"] == 4
    assert "train" not in grid["stages"][2]["jobs"]


def test_cells_are_told_in_a_line_a_base() -> None:
    labels = ["a untrained", "a n=10 seed=1", "a n=10 seed=2", "a n=20 seed=1", "a n=20 seed=2", "b untrained"]
    assert plan.cell_lines(labels) == ["a: untrained, n=10 20 × seeds 1 2", "b: untrained"]
    assert plan.cell_lines(["a n=20 seed=1 F16", "a n=20 seed=1 Q8_0"]) == ["a: n=20 × seed 1 × F16 Q8_0"]
    assert plan.cell_lines(["m adapter F16", "m adapter Q8_0"]) == ["m: adapter × F16 Q8_0"]
    assert plan.cell_lines(["m untrained", "m adapter"]) == ["m: untrained, adapter"]


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        ((4.2, 5.6, 7.0), "about 6 min (4–7) on 2 CPU slots"),
        ((0.1, 0.2, 0.3), "about 1 min (1–1) on 2 CPU slots"),
        ((1140, 1920, 2700), "about 32 h (19–45) on 2 CPU slots"),
    ],
)
def test_a_time_is_told_with_its_range_and_its_machine(minutes: tuple[float, float, float], said: str) -> None:
    assert plan.about(costs.Estimate(*(60 * each for each in minutes)), costs.cpu(2)) == said


def test_the_demo_study_is_planned_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "machine_for", lambda spec, facts, *_: costs.machine_for(spec, facts, slots=2))
    study = str(Path(__file__).resolve().parents[3] / "examples" / "river" / "study.yaml")
    shown = CliRunner().invoke(app, ["plan", study, "--dry-run"])
    assert re.search(r"jobs, about \d+ min \(\d+–\d+\) on 2 CPU slots", shown.output)
    told = json.loads(CliRunner().invoke(app, ["plan", study, "--dry-run", "--json"]).stdout)
    assert told["seconds"]["low"] < told["seconds"]["middle"] < told["seconds"]["high"]
    assert told["machine"] == "2 CPU slots"
