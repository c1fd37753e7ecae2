"""The playground against a real service with SmolLM2."""

import re

import pytest
from browser_harness import SHOTS
from dashboard_fixtures import dashboard
from trait_client.http import TraitClient
from vector_fixtures import random_vector

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

pytestmark = pytest.mark.engine

PANCAKES = "#/playground?s=refusal:1.5:13&m=refusal&tokens=24&q=Can+you+give+me+a+simple+recipe+for+pancakes%3F"


@pytest.fixture
def crowded(service_url):
    """Eight vectors more, before the trait's in the alphabet: as many as one request may watch."""
    names = [f"another{i}" for i in range(8)]
    with TraitClient(service_url) as client:
        info = client.info()
        for seed, name in enumerate(names):
            client.put_vector(name, random_vector(info, seed, trait=name, method="mean_diff").to_bytes())
        yield
        for name in names:
            client.delete_vector(name)


@pytest.mark.usefixtures("crowded")
def test_baseline_and_steered_replies_stream_side_by_side_coloured_by_the_trait(service_url, open_page, tmp_path):
    with dashboard(tmp_path / "none.duckdb", service_url) as url:
        page = open_page(url)
        tab = page.open(PANCAKES)
        assert tab.locator('[data-slider="refusal"]').input_value() == "1.5"
        tab.get_by_role("button", name="Send").click()
        for side in ("baseline", "steered"):
            expect(tab.locator(f"[data-side={side}] .scores")).to_contain_text("tokens", timeout=60_000)
        baseline, steered = (
            tab.locator(f"[data-side={side}] .turn > .text").last.inner_text() for side in ("baseline", "steered")
        )
        assert "happy to help" in baseline
        assert "sorry" in steered
        expect(tab.locator("[data-side=steered] .scores")).to_contain_text(
            re.compile(r"refusal layer 13: a 22\.\d+, relative dose 0\.15")
        )
        pieces = tab.locator("[data-side=steered] .piece")
        assert pieces.count() > 10  # a piece a token: it streamed
        colours = pieces.evaluate_all("all => new Set(all.map(e => e.style.backgroundColor)).size")
        assert colours > 3
        assert re.search(r"refusal \(layer \d+\): [+−]\d", pieces.first.get_attribute("title"))

        tab.locator("[data-form=curl] summary").click()
        curl = tab.locator("[data-form=curl] pre").inner_text()
        assert '"coefficient": 1.5' in curl
        assert "$TRAIT_API_KEY" in curl
        SHOTS.mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=SHOTS / "playground-live-1440-light.png", full_page=True)

        tab.get_by_label("message").fill("Thank you. And waffles?")
        tab.get_by_role("button", name="Send").click()
        expect(tab.locator("[data-side=steered] .turn")).to_have_count(2)
        expect(tab.locator("[data-side=steered] .turn").last.locator(".scores")).to_contain_text(
            "tokens", timeout=60_000
        )


def test_the_commands_that_the_page_gives_do_what_the_page_did(service_url, open_page, tmp_path):
    import subprocess
    import sys

    with dashboard(tmp_path / "none.duckdb", service_url) as url:
        tab = open_page(url).open(PANCAKES)
        tab.locator("[data-form=Python] summary").click()
        script = tab.locator("[data-form=Python] pre").inner_text()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "sorry" in done.stdout
        tab.locator("[data-form='command line'] summary").click()
        command = tab.locator("[data-form='command line'] pre").inner_text()
        command = command.replace("trait-client", f"{sys.executable} -c 'from trait_client.cli import main; main()'", 1)
        done = subprocess.run(
            ["sh", "-c", command + " --json"], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "sorry" in done.stdout


def test_under_a_condition_that_is_never_met_the_reply_is_the_baseline(service_url, open_page, tmp_path):
    with dashboard(tmp_path / "none.duckdb", service_url) as url:
        tab = open_page(url).open(f"{PANCAKES}&when=refusal@11%3E100000")
        tab.get_by_role("button", name="Send").click()
        expect(tab.locator("[data-side=steered] .scores")).to_contain_text(
            "when refusal@11>100000: acted at 0 + 0 positions", timeout=60_000
        )
        expect(tab.locator("[data-side=baseline] .scores")).to_contain_text("tokens", timeout=60_000)
        baseline, steered = (
            tab.locator(f"[data-side={side}] .turn > .text").last.inner_text() for side in ("baseline", "steered")
        )
        assert steered == baseline


def test_the_key_stays_in_the_server(service_url, open_page, tmp_path):
    """The key goes to the service with each request and is in nothing that the page gets."""
    import os

    secret = "sk-never-in-the-page"
    with dashboard(tmp_path / "none.duckdb", service_url, env={**os.environ, "TRAIT_API_KEY": secret}) as url:
        page = open_page(url)
        bodies: list[str] = []
        page.tab.on("response", lambda answer: bodies.append(answer.text()))
        tab = page.open(PANCAKES)
        tab.get_by_role("button", name="Send").click()
        expect(tab.locator("[data-side=steered] .scores")).to_contain_text("tokens", timeout=60_000)
        assert len(bodies) > 5
        assert secret not in tab.content()
        assert not [body for body in bodies if secret in body]
