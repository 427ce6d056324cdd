"""Every study that ships is one that a newcomer can plan."""

from pathlib import Path

import pytest
import yaml

from jsm_queue.cli import plan, resolve
from jsm_queue.planner import preview
from jsm_queue.spec import read_spec

ROOT = Path(__file__).resolve().parents[2]
STUDIES = [ROOT / "examples" / "blueprint.yaml", ROOT / "examples" / "river" / "study.yaml"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_a_shipped_study_parses_and_plans(path: Path) -> None:
    spec = read_spec(path)
    resolved, _ = resolve.sketch(spec, path.parent)
    assert preview(spec, resolved.inputs)


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
