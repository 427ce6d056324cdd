"""Every study that ships is one that a newcomer can plan."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from jsm_queue import costs
from jsm_queue.cli import plan, resolve
from jsm_queue.cli.main import app
from jsm_queue.planner import preview
from jsm_queue.spec import read_spec

ROOT = Path(__file__).resolve().parents[2]
STUDIES = [ROOT / "examples" / "blueprint.yaml", ROOT / "examples" / "river" / "study.yaml"]
ALL = [*sorted((ROOT / "examples").glob("*.yaml")), STUDIES[1]]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_shipped_study_parses_and_plans(path: Path) -> None:
    shown = CliRunner().invoke(app, ["plan", str(path), "--dry-run", "--json"])
    assert shown.exit_code == 0, shown.output
    grid = json.loads(shown.stdout)
    assert grid["total"] > 0 and grid["seconds"]["middle"] > 0
    assert {word for line in grid["warnings"] for word in line.split()[:1]} <= {"data.source:", "data.bench:"}


def test_the_current_japanese_bases_are_among_them() -> None:
    sources = {base.source.lower() for path in ALL for base in read_spec(path).bases}
    for family in ("llama-3.1-swallow", "qwen3", "gemma", "llm-jp", "sarashina", "tinyswallow"):
        assert any(family in source for source in sources), family
    hub = [path for path in ALL if any("/" in base.source and ":" not in base.source for base in read_spec(path).bases)]
    for path in set(hub) - {STUDIES[0], STUDIES[1]}:
        assert read_spec(path).limits.vram_gib == 16
        assert "icence" in path.read_text(encoding="utf-8").split("name:")[0], "says under which licences"


def test_smollm2_is_trained_within_three_quarters_of_an_hour_on_two_cores() -> None:
    path = ROOT / "examples" / "smollm2.yaml"
    spec = read_spec(path)
    resolved, warnings = resolve.sketch(spec, path.parent)
    assert warnings == [] and [base.train for base in spec.bases] == [True]
    told = costs.estimate(preview(spec, resolved.inputs), spec, resolved.inputs.facts, costs.cpu(2))
    assert told.high <= 45 * 60
    tokens = sum(n * len(spec.stages.scale.seeds) * spec.training.epochs for n in spec.stages.scale.sizes) * 90  # type: ignore[union-attr]
    assert tokens / 60 < 45 * 60, "even at the slowest rate that was seen, tokens a second"


def test_the_blueprint_is_the_papers_grid() -> None:
    spec = read_spec(STUDIES[0])
    assert [base.source.split("/")[0] for base in spec.bases] == ["tokyotech-llm", "elyza", "Qwen", "weblab-GENIAC"]
    training = spec.training
    assert (training.r, training.alpha, training.lr, training.schedule) == (16, 16, 2e-4, "cosine")
    assert (training.warmup, training.epochs, training.batch) == (0.05, 3, 8)
    assert spec.stages.scale and spec.stages.scale.sizes == [1000, 2000, 3000, 4000, 5000]
    assert spec.stages.quantization and spec.stages.quantization.formats == ["F16", "Q8_0", "Q5_K_M", "Q4_K_M"]


def test_the_blueprint_plans_without_its_data_and_without_the_hub() -> None:
    spec = read_spec(STUDIES[0])
    resolved, warnings = resolve.sketch(spec, STUDIES[0].parent)
    grid = plan.summary(spec, preview(spec, resolved.inputs))
    assert len(warnings) == 2  # its corpus and its bench
    assert [stage["jobs"].get("train", 0) for stage in grid["stages"]] == [15, 6, 0]


def test_the_demo_has_what_it_claims() -> None:
    spec = read_spec(STUDIES[1])
    assert spec.stages.scale and len(spec.stages.scale.sizes) >= 3
    assert len(spec.stages.scale.seeds) >= 3
    assert sum(base.train for base in spec.bases) >= 2
    assert any(not base.train for base in spec.bases)


def test_the_demos_files_are_there() -> None:
    spec = read_spec(STUDIES[1])
    _, warnings = resolve.sketch(spec, STUDIES[1].parent)
    assert warnings == []


def test_the_containers_are_described_in_valid_yaml() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    assert set(compose["services"]) == {"postgres", "redis", "setup", "api", "worker", "flower"}
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
