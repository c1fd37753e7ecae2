"""First-run walkthrough, timed: clone, `make demo`, a new trait and its sweep, SQL, the dashboard.

Everything is done in build/stranger, with an empty home: no model, no environment and no pip cache is found there.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs" / "generate"), str(ROOT / "tests" / "support")]

from docs_harness import PageReader  # noqa: E402 - of the checkout, found above
from fenced_blocks import RUN, blocks  # noqa: E402
from trait_client.http.local_service import free_port  # noqa: E402

PAGES = ("docs/quickstart.md", "docs/howto-new-trait.md", "docs/howto-dashboard.md")
BASE = ROOT / "build" / "stranger"
CLONE = BASE / "trait-steering"


def main() -> None:
    """Run all steps; stop at the first failure."""
    began = time.monotonic()
    shutil.rmtree(BASE, ignore_errors=True)
    home = BASE / "home"
    home.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRAIT_", "PYTHON"))}
    environment.update(HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"))
    step("git clone", ["git", "clone", "-q", str(ROOT), str(CLONE)], BASE, environment)
    step("make demo", ["make", "demo"], CLONE, environment)
    environment["PATH"] = f"{CLONE / '.venv' / 'bin'}:{environment['PATH']}"
    url = f"http://127.0.0.1:{free_port()}"
    serve = ["trait-service", "serve", "smollm2", "--enforce-eager", "--vectors", "demo/registry"]
    with (BASE / "service.log").open("w") as log:
        service = subprocess.Popen(
            [CLONE / ".venv" / "bin" / serve[0], *serve[1:], "--port", url.rpartition(":")[2]],
            cwd=CLONE, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            ready = f"until curl -sf {url}/v1/health/ready; do sleep 0.5; done"
            step(" ".join(serve), ["timeout", "600", "bash", "-c", ready], CLONE, environment)
            read_pages(url, {**environment, "TRAIT_SERVICE_URL": url})
        finally:
            service.terminate()
            service.wait(60)
    print(f"{time.monotonic() - began:7.1f} s  all of it")


def step(title: str, command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a command and print its time."""
    began = time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, check=True)
    print(f"{time.monotonic() - began:7.1f} s  {title}", flush=True)


def read_pages(url: str, environment: dict[str, str]) -> None:
    """Work through the pages in the clone; the demo's database exists."""
    os.chdir(CLONE)
    for page in PAGES:
        reader = PageReader(CLONE, url, environment)
        for block in blocks(page):
            if block.language in RUN and block.excuse in (None, "serves"):
                began = time.monotonic()
                reader.run(block)
                print(
                    f"{time.monotonic() - began:7.1f} s  {block.where}  {block.text.splitlines()[0][:80]}", flush=True
                )


if __name__ == "__main__":
    main()
