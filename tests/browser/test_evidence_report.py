"""The page of `trait-extract report` in a real Chromium, over a report whose numbers are known."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from browser_harness import SHOTS
from trait_core.schema import LayerEvidence, LayerLens, LensToken, VectorMetadata
from trait_core.vectors.file import VectorFile
from trait_extraction.fitting.layer_choice import BY_EVIDENCE
from trait_extraction.report import TraitReport, page
from trait_extraction.report.content import Neighbour, Text

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

N_LAYERS, D_MODEL, CHOSEN = 24, 16, 13
METHODS = ("mean_diff", "probe", "random")
HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


def evidence(layer: int, quality: float) -> LayerEvidence:
    rise = quality * np.exp(-(((layer - CHOSEN) / 8) ** 2))
    auc, accuracy, d = 0.5 + 0.49 * rise, 0.5 + 0.45 * rise, 3 * rise
    return LayerEvidence(
        separation=1 + layer * quality, centre=0.5, residual_norm=10.0 + layer,
        auc=auc, auc_interval=(auc - 0.03, min(1.0, auc + 0.03)),
        accuracy=accuracy, accuracy_interval=(accuracy - 0.05, accuracy + 0.04),
        cohens_d=d, cohens_d_interval=(d - 0.4, d + 0.4),
    )  # fmt: skip


def vector(method: str, quality: float) -> VectorFile:
    metadata = VectorMetadata(
        trait="warmth", model="smol", config_digest="c", n_layers=N_LAYERS, d_model=D_MODEL, method=method,
        positions="response[:]", n_positive=64, n_negative=64, n_held_out=32, style="written",
        layers={layer: evidence(layer, quality) for layer in range(N_LAYERS)},
        chosen_layer=CHOSEN, chosen_because=f"{BY_EVIDENCE}: AUC 0.99",
    )  # fmt: skip
    return VectorFile(metadata, {layer: np.eye(D_MODEL, dtype=np.float32)[0] for layer in range(N_LAYERS)})


def known(texts: list[Text] | None = None, missing: str | None = None) -> TraitReport:
    draw = np.random.default_rng(0)
    vectors = {method: vector(method, quality) for method, quality in zip(METHODS, (1.0, 0.8, 0.1), strict=True)}
    held_out = {method: (draw.normal(1, 0.5, 32), draw.normal(-1, 0.5, 32)) for method in METHODS}
    return TraitReport(
        "warmth", vectors, held_out, [Neighbour("candour", 0.31), Neighbour("envy", -0.08)], texts, missing
    )


TEXTS = [
    Text("positive" if i < 6 else "negative", 2.0 - i / 3, f"Question {i}?", f"Reply {i}. {HOSTILE}") for i in range(12)
]


@pytest.fixture
def show(open_page, tmp_path):
    def make(report: TraitReport, **options):
        path = tmp_path / "page.html"
        path.write_text(page(report))
        opened = open_page("file://", **options)
        return opened, opened.open(f"file://{path}")

    return make


def test_the_curves_have_a_point_for_each_method_and_layer_and_tell_its_interval(show):
    opened, tab = show(known(TEXTS))
    for measure in ("auc", "accuracy", "cohens_d", "relative_separation"):
        assert tab.locator(f'[data-measure="{measure}"] circle').count() == N_LAYERS * len(METHODS)
    chart = tab.locator('[data-measure="auc"] svg')
    box = chart.bounding_box()
    marked = float(chart.locator("line.cross").first.get_attribute("x1"))
    tab.mouse.move(box["x"] + marked, box["y"] + box["height"] / 2)
    expect(tab.locator('[data-measure="auc"] .tip')).to_contain_text(f"layer {CHOSEN}")
    expect(tab.locator('[data-measure="auc"] .tip')).to_contain_text("mean_diff 0.99 [0.96, 1]")
    assert f"chosen by evidence: {BY_EVIDENCE}: AUC 0.99" in opened.text()


def test_the_table_has_the_numbers_of_the_chosen_layer(show):
    _, tab = show(known(TEXTS))
    row = tab.locator("table").first.locator("tbody tr").first.locator("td").all_inner_texts()
    assert row == [
        "mean_diff", "0.99", "[0.96, 1.00]", "0.95", "[0.90, 0.99]", "3.00", "[2.60, 3.40]", "14.00", "0.61",
    ]  # fmt: skip


def test_the_histogram_counts_every_held_out_text_once(show):
    _, tab = show(known(TEXTS))
    for method in METHODS:
        titles = tab.locator(f'[data-method="{method}"] rect title').all_text_contents()
        for side in ("positive", "negative"):
            counts = [int(found[1]) for each in titles if (found := re.match(rf"{side}: (\d+) from", each))]
            assert sum(counts) == 32


def test_the_texts_at_both_ends_are_whole_and_never_markup(show):
    _, tab = show(known(TEXTS))
    ends = {end: tab.locator(f'[data-end="{end}"] .pair').all_inner_texts() for end in ("highest", "lowest")}
    assert [len(texts) for texts in ends.values()] == [4, 4]
    assert "Question 0?" in ends["highest"][0]
    assert ends["highest"][0].startswith("+2.00 positive")
    assert f"Reply 11. {HOSTILE}" in ends["lowest"][0]
    assert tab.locator("table").nth(1).locator("tbody tr").first.inner_text().split() == ["candour", "+0.31"]
    tab.screenshot(path=SHOTS / "evidence-1440-light.png", full_page=True)


def test_similarities_and_tokens_are_drawn(show):
    tokens = [LensToken(id=i, text=f" word{i}{HOSTILE}", z=5.0 - i) for i in range(3)]
    opened, tab = show(replace(known(TEXTS), lens=LayerLens(layer=CHOSEN, promoted=tokens, suppressed=tokens[::-1])))
    assert tab.locator('[data-cosines="layers"] [title]').count() == N_LAYERS**2
    assert tab.locator('[data-measure="agreement"] circle').count() == N_LAYERS * 3, "three pairs of methods"
    first = tab.locator('[data-lens="promoted"] tbody tr').first.locator("td").all_inner_texts()
    assert first == [json.dumps(tokens[0].text), "+5.00"]
    opened, tab = show(known(TEXTS))
    assert "trait-extract report --lens" in opened.text()


def test_a_report_without_texts_says_why(show):
    opened, tab = show(
        known(None, "the trait's dataset was not found: give --datasets"), width=390, height=844, scheme="dark"
    )
    assert "the trait's dataset was not found" in opened.text()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.screenshot(path=SHOTS / "evidence-390-dark.png", full_page=True)


def test_a_script_without_the_pages_nonce_is_refused(browser, tmp_path):
    html = page(known(TEXTS)).replace("</main>", "</main><script>document.title = 'owned'</script>")
    path = tmp_path / "page.html"
    path.write_text(html)
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(f"file://{path}")
    tab.wait_for_selector("main[data-ready]")
    assert tab.title() == "warmth · trait vectors"
    context.close()
