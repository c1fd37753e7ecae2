"""A headless Chromium that records what it asks for and what it complains about."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "screenshots"
FINDER = ROOT / "deploy" / "chromium.py"
VIEWS = {
    "overview": "#/overview",
    "sweep": "#/sweep?trait=refusal&setting=refusal-mean_diff-13-1.5-float32",
    "dynamics": "#/dynamics?id=r00000&t=3",
    "prompts": "#/prompts",
    "fingerprints": "#/prompts?show=fingerprints",
    "vectors": "#/vectors",
    "sql": "#/sql",
    "playground": "#/playground",
}
"""View of the dashboard -> its address, over the known database."""


def chromium() -> str:
    """The path of a Chromium that runs; the test is skipped, with what to install, where there is none."""
    done = subprocess.run([sys.executable, FINDER, "--find"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr.strip())
    return done.stdout.strip()


class Page:
    """A tab; `check` fails on a console error, an uncaught error, or a request that left this machine."""

    def __init__(self, browser, base: str, width: int = 1440, height: int = 900, scheme: str = "light") -> None:
        self.base = base
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(10_000)
        self.complaints: list[tuple[str, str]] = []  # text, path of what it is about
        self.refused: set[str] = set()
        self.requests: list[str] = []
        self.tab.on("console", self._hear)
        self.tab.on("pageerror", lambda error: self.complaints.append((str(error), "")))
        self.tab.on("request", lambda request: self.requests.append(request.url))

    def open(self, address: str):
        """Go to a view, and wait until it is drawn."""
        self.tab.goto("about:blank")
        self.tab.goto(f"{self.base}/{address}" if address.startswith("#") else address)
        self.tab.wait_for_selector("main[data-ready]")
        return self.tab

    def text(self, selector: str = "main") -> str:
        return self.tab.locator(selector).first.inner_text()

    def expect_refused(self, path: str) -> None:
        """Chromium notes an answer of 400 and above in its console; of this path it is meant."""
        self.refused.add(path)

    def _hear(self, message) -> None:
        path = urlsplit(message.location["url"]).path
        if message.type in {"error", "warning"} and not (path in self.refused and "Failed to load" in message.text):
            self.complaints.append((message.text, path))

    def check(self) -> None:
        assert self.complaints == []
        ours = urlsplit(self.base).netloc
        assert [u for u in self.requests if urlsplit(u).netloc not in {ours, ""}] == []
        assert self.tab.title() != "owned"
