"""`make screenshots`: every view of the dashboard as a picture, from a database and, where one is named, a running service.

    python tests/browser/screenshots.py --db demo/results.duckdb [--service URL] [--out build/screenshots/demo] [--docs]

1440 and 390 pixels wide, light and dark, whole pages. Fails where a page is wider than its window or complains. `--docs` also takes
the pictures of README.md and docs/ anew, from that database and from a made-up one, and notes in `docs/pictures.json` what
they were made from: a test says when they are out of date.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from browser_harness import ROOT, Page, chromium
from dashboard_fixtures import NOBODY, build, dashboard
from pictures import NOTE, PICTURES, inputs_digest, sha256

WIDE = 1440
WIDTHS = {WIDE: 900, 390: 844}
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
    parser.add_argument("--docs", action="store_true", help="also take the pictures of README.md and docs/")
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
        if options.docs:
            shoot_for_docs(browser, url)
        browser.close()
    print(f"pictures in {options.out}{' and docs' if options.docs else ''}")


def shoot_for_docs(browser: Browser, demo: str) -> None:
    """The pictures of the documentation; `demo` is the address of a dashboard over the demo's results."""
    with tempfile.TemporaryDirectory() as folder, dashboard(build(Path(folder) / "known.duckdb").path) as made_up:
        for name, (of_demo, address, link) in PICTURES.items():
            page = Page(browser, demo if of_demo else made_up, WIDE, WIDTHS[WIDE])
            page.expect_refused("/api/service")
            tab = page.open(f"#/{address}")
            if link is not None:
                tab.locator(link).first.click()
                tab.wait_for_selector(".pair")
            for scheme in ("light", "dark"):
                tab.emulate_media(color_scheme=scheme)
                tab.evaluate("scrollTo(0, 0)")
                tab.screenshot(path=ROOT / "docs" / f"{name}-{scheme}.png")
            page.check()
            page.context.close()
    pictures = sorted((ROOT / "docs").glob("dashboard-*.png"))
    note = {"inputs": inputs_digest(), "pictures": {path.name: sha256(path.read_bytes()) for path in pictures}}
    NOTE.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


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
