"""`make screenshots`: every view of the dashboard as a picture, from a database and, where one is named, a running service.

    python tests/browser/screenshots.py --db demo/results.duckdb [--service URL] [--out build/screenshots/demo]

1440 and 390 pixels wide, light and dark, whole pages. Fails where a page is wider than its window or complains.
"""

import argparse
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from browser_harness import ROOT, Page, chromium
from dashboard_fixtures import NOBODY, dashboard

WIDTHS = {1440: 900, 390: 844}
QUESTION = (
    "SELECT layer, coefficient, delta, ci_low, ci_high, coherence FROM cell_summary "
    "WHERE measure = 'lexical' AND trait = 'refusal' AND method = 'mean_diff' ORDER BY ALL"
)
VIEWS = {
    "overview": "overview",
    "sweep": "sweep?trait=refusal",
    "dynamics": "dynamics",
    "prompts": "prompts",
    "vectors": "vectors",
    "sql": f"sql?q={QUESTION.replace(' ', '+')}&px=coefficient&py=delta&pg=layer&pk=line",
    "playground": "playground?s=refusal:1.5:13&m=refusal&tokens=48&q=Can+you+give+me+a+simple+recipe+for+pancakes%3F",
}


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description="Every view of the dashboard as a picture.")
    parser.add_argument("--db", type=Path, default=ROOT / "demo" / "results.duckdb")
    parser.add_argument("--service", help="address of a running service; the playground then chats")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "screenshots" / "demo")
    parser.add_argument("--view", action="append", metavar="NAME[=ADDRESS]", help="only this one, or one of your own")
    options = parser.parse_args()
    try:
        path = chromium()
    except pytest.skip.Exception as none:
        sys.exit(str(none))
    options.out.mkdir(parents=True, exist_ok=True)
    named = dict(name.split("=", 1) if "=" in name else (name, VIEWS[name]) for name in options.view or VIEWS)
    with sync_playwright() as driver, dashboard(options.db, options.service or NOBODY) as url:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for width in WIDTHS:
            shoot(browser, url, width, named, options.out, chat=bool(options.service))
        browser.close()
    print(f"pictures in {options.out}")


def shoot(browser: Browser, url: str, width: int, views: dict[str, str], out: Path, *, chat: bool) -> None:
    """Each view at one width, light and dark."""
    page = Page(browser, url, width, WIDTHS[width])
    if not chat:
        page.expect_refused("/api/service")
    for name, address in views.items():
        tab = page.open(f"#/{address}")
        if chat and name == "playground":
            tab.get_by_role("button", name="Send").click()
            for side in ("baseline", "steered"):
                tab.wait_for_selector(f"[data-side={side}] .scores span", timeout=120_000)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is wider than {width} pixels"
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            tab.evaluate("scrollTo(0, 0)")
            tab.screenshot(path=out / f"{name}-{width}-{scheme}.png", full_page=True)
    page.check()
    page.context.close()


if __name__ == "__main__":
    main()
