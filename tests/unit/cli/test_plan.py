"""The job grid as `jsm plan` shows it."""

from jsm_queue import planner
from jsm_queue.cli import plan, resolve
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
