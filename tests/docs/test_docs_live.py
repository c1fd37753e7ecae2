"""Every command and every example of README.md and docs/ is run, as a reader would: page by page, against a real service."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_harness import PageReader
from fenced_blocks import ROOT, RUN, Block, blocks, pages
from other_programs import MISSING
from service_harness import BIN
from trait_client.http import TraitClient

LONG = os.environ.get("TRAIT_DOCS_LONG") == "1"
SHORT_DEMO = {
    "n_prompts = 12": "n_prompts = 2",
    "max_tokens = 48": "max_tokens = 12",
    "directions = 4": "directions = 2",
}


def runnable(page: str) -> list[Block]:
    return [b for b in blocks(page) if b.language in RUN and b.excuse != "not run" and (LONG or b.excuse != "long")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory, service_url, smollm2_path) -> dict[str, str]:
    """A newcomer's: a home of its own, in which the small model was fetched, and the environment's programs first."""
    home = tmp_path_factory.mktemp("home")
    cache = home / ".cache" / "trait-steering" / "models" / "smollm2"
    cache.mkdir(parents=True)
    (cache / smollm2_path.name).symlink_to(smollm2_path)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRAIT_")}
    return {**kept, "HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", "TRAIT_SERVICE_URL": service_url}


@pytest.fixture(scope="module")
def demo_results(tmp_path_factory, environment) -> Path:
    """A database as `make demo` leaves it, of a shorter sweep."""
    folder = tmp_path_factory.mktemp("demo")
    text = (ROOT / "experiments" / "demo" / "experiment.toml").read_text()
    for long, short in SHORT_DEMO.items():
        assert long in text, long
        text = text.replace(long, short)
    (folder / "experiment.toml").write_text(text.replace("../../datasets", str(ROOT / "datasets")))
    command = [BIN / "trait-client", "sweep", "experiment.toml", "--db", "results.duckdb"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "results.duckdb"


@pytest.fixture
def checkout(tmp_path, demo_results) -> Path:
    """What a page may use: the checkout's data, and the demo's results."""
    folder = tmp_path / "checkout"
    for name in ("datasets", "experiments"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "demo").mkdir()
    shutil.copy(demo_results, folder / "demo" / "results.duckdb")
    return folder


@pytest.fixture
def registry(service_url) -> Iterator[None]:
    """Takes away what a page registers: other tests have the same service."""
    with TraitClient(service_url) as client:
        before = {vector.name for vector in client.vectors()}
        yield
        for vector in client.vectors():
            if vector.name not in before:
                client.delete_vector(vector.name)


@pytest.mark.engine
@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("page", [page for page in pages() if runnable(page)])
def test_a_page_can_be_worked_through(page, checkout, service_url, environment, monkeypatch):
    monkeypatch.chdir(checkout)
    reader = PageReader(checkout, service_url, environment)
    left_out = [block for block in runnable(page) if block.foreign] if MISSING else []
    for block in runnable(page):
        if block not in left_out:
            reader.run(block)
    if left_out:
        pytest.skip(f"{len(left_out)} blocks of the page need {MISSING}")
