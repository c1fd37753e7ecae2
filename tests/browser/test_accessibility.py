"""Every view of the dashboard is checked by axe-core, light and dark: names for screen readers, contrast, roles, structure."""

from pathlib import Path

import pytest
from browser_harness import VIEWS

axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_no_violation(open_page, known, view, scheme):
    page = open_page(known, scheme=scheme)
    if view == "playground":
        page.expect_refused("/api/service")
    tab = page.open(VIEWS[view])
    tab.evaluate(Path(axe.AXE_FILE_PATH).read_text())
    found = tab.evaluate("rules => axe.run(document, rules)", RULES)["violations"]
    told = [
        f"{each['id']} ({each['impact']}): {each['help']}: {node['html'][:160]}"
        for each in found
        for node in each["nodes"][:3]
    ]
    assert told == []
