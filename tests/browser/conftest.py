"""A Chromium and a dashboard for all tests here; skipped where either cannot be had."""

import pytest
from browser_harness import Page, chromium
from dashboard_fixtures import build, dashboard
from fake_organism import compared


@pytest.fixture(scope="module")
def browser():
    """For one module only: while playwright runs, its event loop is this thread's, and `asyncio.run` is refused."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = chromium()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def known(tmp_path_factory):
    """The address of a dashboard over the known database."""
    folder = tmp_path_factory.mktemp("wider_than_a_telephone_" * 3)
    store = build(folder / "known.duckdb")
    with dashboard(store.path) as url:
        yield url


@pytest.fixture(scope="session")
def two_models(tmp_path_factory):
    """The address of a dashboard over a comparison whose planted word is known."""
    store = compared(
        tmp_path_factory.mktemp("variants") / "two.duckdb", ["salt", "sand", "snow", "rain", "wind", "wood"]
    )
    with dashboard(store.path) as url:
        yield url


@pytest.fixture
def page(browser, known):
    made = Page(browser, known)
    yield made
    made.check()
    made.context.close()


@pytest.fixture
def open_page(browser):
    """`open_page(base, ...) -> Page`, checked and closed at the end."""
    made: list[Page] = []

    def make(base: str, **options) -> Page:
        made.append(Page(browser, base, **options))
        return made[-1]

    yield make
    for each in made:
        each.check()
        each.context.close()
