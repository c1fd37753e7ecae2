"""Every view of the dashboard is checked by axe-core, light and dark: names for screen readers, contrast, roles, structure."""

from pathlib import Path

import pytest
from browser_harness import VIEWS
from dashboard_fixtures import build_damaged, build_patching, dashboard
from fake_service import FakeService
from loopback import on_a_port
from vector_fixtures import made_vector

axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """The address of a dashboard over a patching."""
    with dashboard(build_patching(tmp_path_factory.mktemp("patching") / "patched.duckdb").path) as url:
        yield url


def violations(tab) -> list[str]:
    tab.evaluate(Path(axe.AXE_FILE_PATH).read_text())
    return [
        f"{each['id']} ({each['impact']}): {each['help']}: {node['html'][:160]}"
        for each in tab.evaluate("rules => axe.run(document, rules)", RULES)["violations"]
        for node in each["nodes"][:3]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_no_violation(open_page, known, view, scheme):
    page = open_page(known, scheme=scheme)
    if view == "playground":
        page.expect_refused("/api/service")
    assert violations(page.open(VIEWS[view])) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_effect_against_damage_has_no_violation(open_page, tmp_path, scheme):
    store = build_damaged(tmp_path / "damaged.duckdb")
    with dashboard(store.path) as url:
        tab = open_page(url, scheme=scheme).open("#/sweep?trait=refusal")
        tab.wait_for_selector(".scatter a.point")
        assert violations(tab) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_controls_of_a_condition_have_no_violation(open_page, tmp_path, scheme):
    vectors = [made_vector(range(4), 1, trait="shouting"), made_vector(range(4), 2, trait="harmful")]
    service = FakeService(*vectors, hook_points=["resid_post", "mlp_out"])
    with on_a_port(service.answer) as address, dashboard(tmp_path / "none.duckdb", address) as url:
        page = open_page(url, scheme=scheme)
        tab = page.open("#/playground?s=shouting:1.5&when=harmful%401%3E0.5")
        assert tab.get_by_label("bound of the condition").input_value() == "0.5"
        assert violations(tab) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("address", "view"), [("two_models", "variants"), ("patched", "patching")])
def test_a_coloured_map_has_no_violation(open_page, request, address, view, scheme):
    page = open_page(request.getfixturevalue(address), scheme=scheme)
    assert violations(page.open(f"#/{view}")) == []
