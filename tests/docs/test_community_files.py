"""CONTRIBUTING.md, SECURITY.md, CITATION.cff and the list of examples: links, targets of make and licence are real."""

import re
import tomllib

import pytest
from fenced_blocks import ROOT

PAGES = ("CONTRIBUTING.md", "SECURITY.md", "docs/examples/README.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    targets = re.findall(r"\]\(([^)\s#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert targets
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


def test_every_named_target_of_make_exists():
    named = set(re.findall(r"(?:`| {4})make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"setup", "lint", "test"} <= named <= known


def test_named_places_of_the_code_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:docs|extraction|service|tests|experiments)/[\w/.]*)`", text)
    assert len(named) > 4
    assert [place for place in named if not (ROOT / place).exists()] == []


def test_the_citation_has_what_its_format_requires_and_the_packages_licence():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == project["license"]
    assert citation["title"].startswith(project["name"])
