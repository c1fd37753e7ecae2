"""The documentation's site: its menu has every page once, and every link of the pages can be followed inside it."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("site_build", ROOT / "docs" / "site" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_menu_has_every_page_once(site):
    listed = ["README.md", "docs/README.md", *(page for pages in site.menu().values() for page in pages)]
    assert len(listed) == len(set(listed))
    assert set(listed) == {str(page) for page in site.gathered() if page.suffix == ".md"}
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")} <= set(listed)


def test_the_menu_follows_the_index(site):
    menu = site.menu()
    assert next(iter(menu)) == "Begin"
    assert menu["Begin"][0] == "docs/quickstart.md"
    assert all(pages for pages in menu.values())


def test_what_a_page_links_is_part_of_the_site(site):
    gathered = set(site.gathered())
    assert {Path(f"docs/dashboard-sweep-{scheme}.png") for scheme in ("light", "dark")} <= gathered
    assert all(set(site.linked(page)) <= gathered for page in gathered if page.suffix == ".md")
