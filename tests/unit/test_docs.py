"""The documents say what the code does."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from jsm_queue.settings import Settings

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


@pytest.mark.parametrize(("name", "page"), [("cli.md", "cli_page"), ("settings.md", "settings_page")])
def test_a_generated_page_is_current(name: str, page: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == getattr(reference, page)(), f"docs/{name} is old: run `make docs`"


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_protocol_page_names_every_path_of_a_worker() -> None:
    """Read from the routes' source, so that this test needs no api."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    routes = (ROOT / "api" / "routes" / "worker.py").read_text(encoding="utf-8")
    paths = re.findall(r'@router\.\w+\("([^"]+)"', routes)
    assert paths
    missing = [
        path for path in paths if f"/v1{path}".replace("{run_id}", "{id}").replace("{attempt_id}", "{id}") not in text
    ]
    assert missing == []


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z%-]+):", makefile, re.MULTILINE)
    described = re.findall(r"^([a-z%-]+):.*## ", makefile, re.MULTILINE)
    assert targets == described
