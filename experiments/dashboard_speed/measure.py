"""How long the dashboard takes over a large prompt set, in a headless Chromium.

python experiments/dashboard_speed/measure.py build/speed.duckdb --chromium /usr/bin/chromium

Each number is the time from the key or click to the new content in the page, in milliseconds: the median of --repeats,
and the longest. "First view" is a fresh browser profile and a server that has not read the database yet.
"""

import argparse
import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, sync_playwright


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", type=Path)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        for _ in range(options.repeats):
            with dashboard(options.database) as url:
                for name, taken in measure(browser, url).items():
                    found.setdefault(name, []).append(taken)
    print(f"{'':42}{'median':>8}{'longest':>9}  ms, {options.repeats} repeats")
    for name, times in found.items():
        print(f"{name:42}{statistics.median(times):8.0f}{max(times):9.0f}")


def measure(browser: Browser, url: str) -> dict[str, float]:
    """One round: a fresh server and a fresh profile."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = context.new_page()
    times = {}
    began = time.perf_counter()
    tab.goto(f"{url}/#/prompts")
    tab.wait_for_selector(".item")
    times["prompts: first view"] = 1000 * (time.perf_counter() - began)
    times["next page"] = waited(tab, lambda: tab.keyboard.press("n"))
    times["filter by outcome"] = waited(tab, lambda: tab.click('[data-outcome="success"]'))
    tab.focus("input[type=search]")
    times["filter by text (one key)"] = waited(tab, lambda: tab.keyboard.press("4"))
    times["filter by text (second key)"] = waited(tab, lambda: tab.keyboard.press("2"))
    times["order by a trait's mean"] = waited(tab, lambda: tab.get_by_label("order").select_option(index=2))
    began = time.perf_counter()
    tab.click(".item a.open")
    tab.wait_for_selector(".inter svg path")
    times["token by token, from the list"] = 1000 * (time.perf_counter() - began)
    name = tab.locator(".dynamics h2").inner_text()
    began = time.perf_counter()
    tab.locator("body").press("n")
    tab.wait_for_selector(f".dynamics h2:not(:text-is('{name}'))")
    times["token by token, next prompt"] = 1000 * (time.perf_counter() - began)
    context.close()
    return times


def waited(tab: Page, act: Callable[[], object]) -> float:
    """Milliseconds until the list is drawn anew after `act`, the pause that waits for more keys included."""
    before = tab.locator(".prompts").get_attribute("data-shown")
    began = time.perf_counter()
    act()
    tab.wait_for_selector(f'.prompts:not([data-shown="{before}"])')
    return 1000 * (time.perf_counter() - began)


@contextlib.contextmanager
def dashboard(db: Path) -> Iterator[str]:
    """Start a dashboard in its own process, and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from trait_client.cli import main; main()", "dashboard", "--db", str(db)]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url).is_success:
                    break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
