"""The documents say what the code does."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from jsm_queue import errors
from jsm_queue.settings import OTHER_VARIABLES, Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def load_reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    return module


reference = load_reference()


@pytest.mark.parametrize("name", ["cli", "settings", "errors", "benchmarks"])
def test_a_generated_page_is_current(name: str) -> None:
    written = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert written == getattr(reference, f"{name}_page")(), f"docs/{name}.md is old: run `make docs`"


def test_every_error_has_a_code_of_its_own_with_cause_and_cure() -> None:
    kinds = errors.all_errors()
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds[1:]:  # the first is for what has no name
        assert kind.__doc__ and kind.cure, kind
        assert 400 <= kind.status < 600 and 1 <= kind.exit_code <= 6


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_description_default_unit_and_an_example_that_it_takes(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description and reference.unit(field) and not field.is_required()
    assert field.examples and field.examples[0] != field.default
    Settings.model_validate({name: field.examples[0]})


def test_every_variable_of_the_code_is_documented() -> None:
    documented = {f"JSM_{name.upper()}" for name in Settings.model_fields} | set(OTHER_VARIABLES)
    sources = [path for folder in ("jsm_queue", "workers", "api", "scripts") for path in (ROOT / folder).rglob("*.py")]
    sources += [ROOT / "compose.yaml", ROOT / "Makefile", ROOT / "README.md", *DOCS.glob("*.md")]
    found = {name for path in sources for name in re.findall(r"JSM_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))}
    assert {name for name in found - documented if not name.startswith("JSM_JUDGE_")} == set()


def test_the_operations_page_names_every_check_of_the_doctor() -> None:
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    checks = (ROOT / "jsm_queue" / "cli" / "checks.py").read_text(encoding="utf-8")
    names = set(re.findall(r'Check\(\n?\s*f?"([a-z_]+)', checks))
    assert len(names) > 10
    assert {name for name in names if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_protocol_page_names_every_path_of_a_worker() -> None:
    """Read from the routes' source, so that this test needs no api."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    files = [ROOT / "api" / "routes" / name for name in ("worker.py", "logs.py")]
    routes = "".join(file.read_text(encoding="utf-8") for file in files)
    paths = re.findall(r'@router\.\w+\("([^"]+)"', routes)
    assert paths
    missing = [path for path in paths if re.sub(r"{\w+_id}", "{id}", f"/v1{path}") not in text]
    assert missing == []


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z%-]+):", makefile, re.MULTILINE)
    described = re.findall(r"^([a-z%-]+):.*## ", makefile, re.MULTILINE)
    assert targets == described
