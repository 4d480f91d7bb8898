"""The pages of docs/ are what `make docs` writes now, and their links and those of README.md lead to files."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_pages_are_current(generator: ModuleType) -> None:
    for name, make in generator.PAGES.items():
        written = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert written == make(), f"docs/{name} is stale: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_pages_name_only_metrics_and_problems_that_are_there(generator: ModuleType) -> None:
    known = {metric.name for metric in generator.METRICS}
    for page in PAGES:
        named = set(re.findall(r"`(triptych_[a-z_]+)`", page.read_text(encoding="utf-8"))) - {"triptych_"}
        assert named <= known, page.name
