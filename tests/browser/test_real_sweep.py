"""The views over a database that a real sweep and a real prompt set wrote: each shows what SQL says is there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser_harness import Page
from dashboard_fixtures import dashboard
from trait_client.results import ResultStore

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = f"""
name = "live"
traits = ["refusal"]
datasets = "{ROOT / "datasets" / "traits"}"
methods = ["mean_diff"]
layers = [9, 13]
coefficients = [1.5, 3.0]
n_prompts = 3
max_tokens = 16

[control]
random_directions = 1
"""
SORRY = "I'm sorry, but I'm unable to help with that. I cannot assist with such a request."
READ = [
    *({"id": f"unrelated-{i}", "prompt": f"What is {i} plus {i}?", "response": f"{i} plus {i} is {2 * i}.", "outcome": True} for i in (2, 3)),
    *({"id": f"refused-{i}", "prompt": f"Please add {i} and {i}.", "response": SORRY, "outcome": False} for i in (2, 3)),
]  # fmt: skip


@pytest.fixture(scope="module")
def swept(service_url, browser, tmp_path_factory):
    """The database, its dashboard, and what the overview said while the sweep ran."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "experiment.toml").write_text(EXPERIMENT)
    (folder / "read.jsonl").write_text("\n".join(map(json.dumps, READ)))
    store = ResultStore(folder / "results.duckdb")

    def client(*arguments):
        command = [sys.executable, "-c", "from trait_client.cli import main; main()", *arguments]
        return subprocess.Popen([*command, "--db", store.path, "--url", service_url], stdout=subprocess.DEVNULL)

    with dashboard(store.path, service_url) as url:
        sweep = client("sweep", str(folder / "experiment.toml"))
        page = Page(browser, url)
        page.expect_refused("/api/overview")  # until the database is there, and has a snapshot
        page.open("#/overview")
        card = page.tab.locator(".card[data-run]")
        while not card.count() and sweep.poll() is None:
            page.tab.wait_for_timeout(200)
            if page.tab.get_by_role("alert").count():
                page.open("#/overview")
        seen = (card.inner_text(), card.get_by_role("progressbar").get_attribute("aria-valuenow"))
        assert sweep.wait(400) == 0
        expect(page.tab.locator("main")).not_to_contain_text("running now", timeout=20_000)  # without a reload
        page.check()
        page.context.close()
        project = client("project", "--prompts", str(folder / "read.jsonl"), "--vector", "refusal")
        assert project.wait(400) == 0
        yield store, url, seen


@pytest.fixture
def records(swept):
    store, _, _ = swept

    def ask(sql):
        columns, rows, *_ = store.query(sql)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    return ask


@pytest.fixture
def page(swept, open_page):
    return open_page(swept[1])


def signed(value: float, digits: int = 0) -> str:
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if float(f"{value:.{digits}f}") == 0 else text


def test_a_sweep_is_shown_while_it_runs(swept):
    text, share = swept[2]
    assert "live" in text
    assert "running now" in text
    assert re.search(r"\d+ of 27 trials stored", text)  # 3 prompts x (1 baseline + 4 settings + 4 controls)
    assert 0 <= int(share) <= 100


def test_the_overview_has_the_best_setting_of_the_database(page, records):
    page.open("#/overview?bar=20")
    (best,) = records("SELECT * FROM best_coherent_at(20)")
    assert f"layer {best['layer']}, mean_diff, dose {best['coefficient']:g}" in page.text()
    assert signed(best["delta"], 1) in page.text(".forest")


def test_every_cell_of_the_heatmap_equals_the_database(page, records):
    rows = records("SELECT * FROM cell_summary WHERE measure = 'lexical'")
    assert len(rows) == 4
    shown = {
        "delta": lambda row: signed(row["delta"]),
        "coherence": lambda row: f"{row['coherence']:.0f}",
    }
    for metric, text in shown.items():
        tab = page.open(f"#/sweep?trait=refusal&measure=lexical&metric={metric}")
        for row in rows:
            cell = tab.locator(f'a.cell[data-layer="{row["layer"]}"][data-coefficient="{row["coefficient"]:g}"]')
            assert cell.inner_text().split("\n")[0] == text(row)


def test_the_texts_behind_a_cell_are_the_stored_ones(page, records):
    tab = page.open("#/sweep?trait=refusal&measure=lexical")
    tab.locator('a.cell[data-layer="13"][data-coefficient="3"]').click()
    pairs = records("""
        SELECT p.text AS prompt, t.text AS steered, b.text AS baseline
        FROM cells c JOIN trials t USING (cell_id) JOIN prompts p USING (prompt_id)
        JOIN trials b ON b.cell_id = c.baseline_id AND b.prompt_id = t.prompt_id
        WHERE c.kind = 'steered' AND c.layer = 13 AND c.coefficient = 3 ORDER BY p.text
    """)
    expect(tab.locator(".pair")).to_have_count(3)
    for pair, found in zip(pairs, tab.locator(".pair").all(), strict=True):
        assert found.locator(".ask").text_content() == pair["prompt"]
        assert found.locator(".baseline .text").text_content() == pair["baseline"]
        assert found.locator(".steered .text").text_content() == pair["steered"]
    ratio = float(re.search(r"perplexity ×([\d.]+)", page.text("#texts"))[1])
    (stored,) = records("""
        SELECT median(s.value / b.value) AS ratio
        FROM cells c JOIN trials t USING (cell_id)
        JOIN trials o ON o.cell_id = c.baseline_id AND o.prompt_id = t.prompt_id
        JOIN scores s ON s.trial_id = t.trial_id AND s.name = 'perplexity'
        JOIN scores b ON b.trial_id = o.trial_id AND b.name = 'perplexity'
        WHERE c.kind = 'steered' AND c.layer = 13 AND c.coefficient = 3
    """)
    assert ratio == pytest.approx(stored["ratio"], rel=0.01)


def test_prompts_are_whole_and_lead_to_their_tokens(page, records):
    tab = page.open("#/prompts?outcome=false")
    expect(tab.locator(".item")).to_have_count(2)
    assert tab.locator(".item .side .text").nth(1).text_content() == SORRY
    tab.locator(".item a.open").first.click()
    tab.wait_for_selector(".dynamics")
    (row,) = records("SELECT * FROM readings WHERE prompt_id = 'refused-2'")
    for part, count in (("prompt", row["n_prompt"]), ("reply", row["n_response"])):
        assert tab.locator(f'[data-part="{part}"] .tok').count() == count
    tab.locator('[data-part="reply"] .tok').nth(3).hover()
    (value,) = records(f"""
        SELECT t.value, (v.metadata->>('$.layers."' || t.layer || '".separation'))::DOUBLE / 2 AS half, token
        FROM token_projections t JOIN vectors v USING (sha256)
        WHERE prompt_id = 'refused-2' AND position = {row["n_prompt"] + 3}
    """)
    expect(tab.locator(".tip")).to_contain_text(json.dumps(value["token"]))
    expect(tab.locator(".tip")).to_contain_text(f"refusal {signed(value['value'] / value['half'], 2)}")


def test_a_refusing_reply_lies_above_zero_and_an_unrelated_one_nearer_to_it(page):
    """Centred values: what the list prints beside each reply is its mean on the vector's scale."""
    page.open("#/prompts")
    means = {}
    for item in page.tab.locator(".item").all():
        name = item.locator("a.open").inner_text()
        means[name] = float(item.locator(".bars .num").inner_text().replace("−", "-"))
    refused = [value for name, value in means.items() if name.startswith("refused")]
    unrelated = [value for name, value in means.items() if name.startswith("unrelated")]
    assert min(refused) > 0.5
    assert max(map(abs, unrelated)) < min(refused)


def test_vectors_and_sql_show_what_the_sweep_stored(page, records):
    page.open("#/vectors")
    (chosen,) = records(
        "SELECT layer, auc FROM vector_layers WHERE chosen AND trait = 'refusal' AND method = 'mean_diff'"
    )
    cells = page.tab.locator("table tbody tr").first.locator("td").all_inner_texts()
    assert cells[:4] == ["refusal", "mean_diff", str(chosen["layer"]), f"{chosen['auc']:.2f}"]
    tab = page.open("#/sql?q=SELECT+kind,+count(*)+AS+n+FROM+cells+GROUP+BY+ALL+ORDER+BY+ALL")
    assert tab.locator("table.result td").all_inner_texts() == ["baseline", "1", "control", "4", "steered", "4"]


def test_the_report_of_the_run_says_the_same(swept, open_page, records, tmp_path):
    store, _, _ = swept
    command = [sys.executable, "-c", "from trait_client.cli import main; main()", "report", "live"]
    done = subprocess.run(
        [*command, "--db", store.path, "--out", tmp_path / "run.html"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    tab = open_page("file://").open(f"file://{tmp_path / 'run.html'}")
    (row,) = records("SELECT * FROM cell_summary WHERE measure = 'lexical' AND layer = 13 AND coefficient = 3")
    cell = tab.locator('a.cell[data-layer="13"][data-coefficient="3"]').first
    assert cell.inner_text().split("\n")[0] == signed(row["delta"])
