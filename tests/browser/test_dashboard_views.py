"""The dashboard's views in a real Chromium, over a database whose answers are known."""

import contextlib
import re

import fake_wire as wire
import pytest
from browser_harness import SHOTS, VIEWS
from dashboard_fixtures import HOSTILE, LONG, build, build_damaged, build_gated, build_patching, dashboard, steered_text
from fake_service import FakeService
from loopback import on_a_port
from trait_client.dashboard.report import report
from trait_client.results import ResultStore
from vector_fixtures import made_vector

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

# ------------------------------------------------------------------------------------------------------ overview


def test_the_overview_shows_each_traits_best_coherent_delta_with_its_interval(page):
    page.open("#/overview")
    text = page.text()
    assert "known" in text
    assert "chats.jsonl" in text
    assert "dose −1" in text  # at a bar of 75 nothing else is coherent: 1.5 has 72.5, 3 has 50
    page.open("#/overview?bar=90")
    assert "No setting is that coherent." in page.text()
    page.open("#/overview?bar=70")
    lane = page.tab.get_by_role("img", name="refusal: +36.5 [35.5, 37.5]").first
    expect(lane).to_be_visible()
    assert "layer 13, mean_diff, dose 1.5" in page.text()


@pytest.mark.parametrize("written", [False, True], ids=["no database", "an empty database"])
def test_a_first_visit_says_the_three_commands_that_fill_the_database(open_page, tmp_path, written):
    store = ResultStore(tmp_path / "new.duckdb")
    if written:
        with store.writer():
            pass
    with dashboard(store.path) as url:
        page = open_page(url)
        page.expect_refused("/api/overview")
        steps = page.open("#/overview").locator("ol > li > code").all_inner_texts()
    named = store.path if written else "results.duckdb"
    assert steps == [
        "trait-service serve smollm2",
        f"trait-extract run --trait refusal --trait question_asking --trait sycophancy --db {named}",
        f"trait-client sweep experiments/demo/experiment.toml --db {named}",
    ]


def test_a_row_of_the_overview_leads_to_its_setting(page):
    page.open("#/overview?bar=70")
    page.tab.keyboard.press("j")
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_url(re.compile(r"#/sweep\?trait=refusal"))
    expect(page.tab.locator(".pair").nth(1)).to_contain_text("Question number 0?")


# ------------------------------------------------------------------------------------------------------ sweep


def test_the_heatmap_has_a_panel_for_each_method_and_precision(page):
    tab = page.open("#/sweep?trait=refusal")
    names = tab.locator("[data-panel]").evaluate_all("all => all.map(e => e.dataset.panel)")
    assert names == ["mean_diff · float32", "probe · float32", "mean_diff · int8"]
    panel = tab.locator('[data-panel="mean_diff · float32"]')
    assert panel.locator("a.cell").evaluate_all("all => all.map(e => [e.dataset.layer, e.dataset.coefficient])") == [
        [layer, coefficient] for layer in ("9", "13") for coefficient in ("-1", "1.5", "3")
    ]
    cell = panel.locator('a.cell[data-layer="13"][data-coefficient="3"]')
    assert cell.inner_text().split("\n")[0] == "+67"
    assert "dose" in panel.inner_text()  # the axis names its unit


def test_adjacent_curves_share_their_scale(page):
    tab = page.open("#/sweep?trait=warmth&metric=delta")  # one panel alone has layers together, which move it most
    read = "all => all.map(p => [...p.querySelectorAll('svg text[text-anchor=end]')].map(t => t.textContent))"
    scales = tab.locator("[data-panel] .both > div:nth-child(2)").evaluate_all(read)
    assert len(scales) == 3
    assert scales[0] == scales[1] == scales[2] != []


@pytest.mark.parametrize(("metric", "shown"), [("delta", "+67"), ("coherence", "50"), ("perplexity", "×8")])
def test_delta_coherence_and_perplexity_ratio_can_be_shown(page, metric, shown):
    tab = page.open(f"#/sweep?trait=refusal&metric={metric}")
    cell = tab.locator('[data-panel="mean_diff · float32"] a.cell[data-layer="13"][data-coefficient="3"]')
    assert cell.inner_text().split("\n")[0] == shown


def test_layers_that_are_steered_together_have_a_separate_row(page):
    page.open("#/overview?bar=70")
    assert "layer 9+13, mean_diff, dose 1.5" in page.text()
    tab = page.open("#/sweep?trait=warmth")
    panel = tab.locator('[data-panel="mean_diff · float32"]')
    rows = panel.locator("a.cell, .cell.none").evaluate_all("all => all.map(e => e.dataset.layer ?? 'not run')")
    assert rows == ["9", "9", "9", "13", "13", "13", "not run", "9+13", "not run"]
    panel.locator('a.cell[data-layer="9+13"]').click()
    expect(tab.locator("#texts h2")).to_contain_text("layer 9+13, coefficient 1.5")


def test_the_coherence_threshold_hatches_cells_and_moves_the_best_setting(page):
    tab = page.open("#/sweep?trait=refusal&bar=70")
    panel = tab.locator('[data-panel="mean_diff · float32"]')
    faded = "all => all.map(e => e.dataset.coefficient)"
    assert panel.locator("a.cell.faded").evaluate_all(faded) == ["3", "3"]
    assert panel.locator("a.cell.best").get_attribute("data-coefficient") == "1.5"
    slider = tab.get_by_label("coherence threshold").first
    slider.fill("40")
    assert panel.locator("a.cell.faded").count() == 0
    assert panel.locator("a.cell.best").get_attribute("data-coefficient") == "3"
    assert "bar=40" in tab.url


def test_a_click_on_a_cell_shows_whole_texts_side_by_side_and_runs_no_markup(page):
    tab = page.open("#/sweep?trait=refusal")
    tab.locator('[data-panel="mean_diff · float32"] a.cell[data-layer="13"][data-coefficient="1.5"]').click()
    hostile, first = tab.locator(".pair").first, tab.locator(".pair").nth(1)  # by text: "<" comes before letters
    expect(first.locator(".steered .text")).to_have_text(steered_text("refusal", 13, 1.5, 0).strip())
    assert LONG.strip() in first.locator(".steered .text").inner_text()
    expect(first.locator(".baseline .text")).to_contain_text("baseline reply 0. <img src=x onerror=")
    assert hostile.locator(".ask").inner_text() == HOSTILE
    assert tab.locator("main img").count() == 0
    assert not first.locator(".steered .text").evaluate("e => e.scrollHeight > e.clientHeight + 1")
    tab.get_by_role("button", name="random directions too").click()
    expect(first.locator(".side.control")).to_contain_text("baseline reply 0")


def test_hook_points_and_gates_have_panels_and_filters_of_their_own(open_page, tmp_path):
    store = build_gated(tmp_path / "gated.duckdb")
    with dashboard(store.path) as url:
        page = open_page(url)
        tab = page.open("#/sweep?trait=refusal")
        panels = "all => all.map(e => e.dataset.panel)"
        assert sorted(tab.locator("[data-panel]").evaluate_all(panels)) == [
            "hook point mlp_out · gate none", "hook point mlp_out · gate warmth@9>0.5",
            "hook point resid_post · gate none", "hook point resid_post · gate warmth@9>0.5",
        ]  # fmt: skip
        tab.get_by_label("filter by gate").select_option("warmth@9>0.5")
        tab.get_by_label("filter by hook point").select_option("mlp_out")
        expect(tab.locator("[data-panel]")).to_have_count(1)
        assert "gate=warmth%409%3E0.5" in tab.url
        tab.locator("a.cell").first.click()
        expect(tab.locator("#texts")).to_contain_text(
            "when warmth@9>0.5: open in 50 % of the replies, at 2 prompt positions and 0.5 generated tokens a reply"
        )
        page.open("#/overview?bar=50")
        assert "float32, mlp_out, when warmth@9>0.5" in page.text()


def test_effect_and_damage_are_a_scatter_whose_points_lead_to_their_settings(open_page, tmp_path):
    store = build_damaged(tmp_path / "damaged.duckdb")
    with dashboard(store.path) as url:
        tab = open_page(url).open("#/sweep?trait=refusal")
        points = tab.locator(".scatter a.point")
        expect(points).to_have_count(6)
        labels = "all => all.map(e => e.getAttribute('aria-label'))"
        front = tab.locator('.scatter a.point[data-front="true"]').evaluate_all(labels)
        assert [label.split(":")[0] for label in front] == [
            f"mean_diff, layer 13, coefficient {coefficient} dose, float32" for coefficient in ("1.5", "3")
        ]
        assert "KL 0.045 nats a token, 46 % of 4 questions right (unsteered 50 %), 5 tokens a reply" in front[0]
        points.first.focus()
        for _ in range(5):
            tab.keyboard.press("ArrowRight")
        assert "layer 9, coefficient 3" in tab.evaluate("document.activeElement.getAttribute('aria-label')")
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("Enter")
        expect(tab.locator("#texts h2")).to_contain_text("mean_diff, layer 13, coefficient 3")
        tab = open_page(url).open("#/sweep?trait=warmth")
        assert tab.locator("[data-damage]").count() == 0


def test_the_reasoning_of_a_reply_is_folded_above_its_answer(page):
    tab = page.open("#/sweep?trait=refusal")
    tab.locator('[data-panel="mean_diff · float32"] a.cell[data-layer="13"][data-coefficient="1.5"]').click()
    pair = tab.locator(".pair", has_text="Question number 2?")
    thought = pair.locator(".steered .thought")
    expect(thought).to_be_hidden()
    pair.locator(".steered summary").click()
    expect(thought).to_have_text(f"first a thought {HOSTILE}")
    expect(pair.locator(".steered .text")).to_have_text(steered_text("refusal", 13, 1.5, 2).strip())
    assert tab.locator(".thought").count() == 1


def test_arrows_move_between_cells_and_enter_opens_one(page):
    tab = page.open("#/sweep?trait=refusal")
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        tab.keyboard.press(key)
    place = "document.activeElement.dataset.layer + ' ' + document.activeElement.dataset.coefficient"
    assert tab.evaluate(place) == "13 1.5"
    tab.keyboard.press("Enter")
    expect(tab.locator("#texts h2")).to_contain_text("layer 13, coefficient 1.5")


# ------------------------------------------------------------------------------------------------------ dynamics


def test_prompt_and_reply_are_distinguished_and_no_token_is_missing(page):
    tab = page.open("#/dynamics?id=r00003")
    prompt = tab.locator('[data-part="prompt"] .tok').all_inner_texts()
    assert prompt == ["<|im_start|>", "user", "⏎", "Tell", " me", " about", " item3", "<|im_end|>"]
    assert tab.locator('[data-part="reply"] .tok').count() == 9
    assert "Prompt, 8 tokens" in page.text()
    assert "Reply, 9 tokens" in page.text()


def test_an_unrelated_prompt_lies_at_zero_and_the_sink_does_not_set_the_scale(page):
    """The first position projects at -3000: it is drawn at the edge, and the reply at +1 is still seen as +1."""
    tab = page.open("#/dynamics?id=r00000&t=4")
    tip = tab.locator(".tip")
    expect(tip).to_contain_text('" me"')
    expect(tip).to_contain_text("position 4, prompt")
    expect(tip).to_contain_text("refusal 0.00")
    tab.keyboard.press("ArrowRight")
    expect(tip).to_contain_text("position 5, prompt")
    tab.locator('[data-part="reply"] .tok').nth(1).hover()
    expect(tip).to_contain_text("reply token 1")
    expect(tip).to_contain_text("refusal +1.00")
    expect(tip).to_contain_text("warmth +0.10")
    assert "attention sinks" in page.text()
    heights = tab.locator('[data-part="reply"] .inter svg path').first.get_attribute("d")
    top = float(re.match(r"M[\d.]+ ([\d.]+)", heights)[1])
    assert top < 20  # of 54: well above the middle


def test_lines_are_drawn_under_their_tokens(page):
    tab = page.open("#/dynamics?id=r00003")
    found = tab.evaluate("""() => {
        const token = document.querySelectorAll('[data-part="reply"] .tok')[2].getBoundingClientRect();
        const svg = document.querySelector('[data-part="reply"] .inter svg').getBoundingClientRect();
        const x = Number(document.querySelector('[data-part="reply"] .inter svg path').getAttribute('d').split('L')[2].split(' ')[0]);
        return [token.left + token.width / 2 - svg.left - x, svg.top - token.bottom];
    }""")
    assert abs(found[0]) < 1
    assert 0 <= found[1] < 12


def test_smoothing_averages_within_the_reply(page):
    tab = page.open("#/dynamics?id=r00000&smooth=5&t=8")
    expect(tab.locator(".tip")).to_contain_text("refusal +1.00 smoothed +1.00")
    tab = page.open("#/dynamics?id=r00000&smooth=5&t=7")  # the last prompt position already carries the reply's value
    expect(tab.locator(".tip")).to_contain_text("refusal +1.00 smoothed +0.33")


def test_zero_can_be_the_mean_of_the_set_and_traits_can_be_hidden(page):
    tab = page.open("#/dynamics?id=r00000&centre=set&t=10")
    # A third of the replies lie at +1, the rest at -1: their mean is -1/3.
    expect(tab.locator(".tip")).to_contain_text("refusal +1.33")
    tab.get_by_role("button", name=re.compile("^warmth")).click()
    assert "hide=" in tab.url
    tab.locator('[data-part="reply"] .tok').nth(2).hover()
    expect(tab.locator(".tip")).not_to_contain_text("warmth")


def test_the_next_prompt_is_one_key_away(page):
    tab = page.open("#/dynamics?outcome=failure")
    assert tab.locator(".dynamics h2").inner_text() == "q00001"
    tab.keyboard.press("n")
    expect(tab.locator(".dynamics h2")).to_have_text("q00004")
    assert "2 of 40" in page.text()


# ------------------------------------------------------------------------------------------------------ prompts


def test_prompts_come_in_pages_of_fifty_with_whole_texts(page):
    tab = page.open("#/prompts")
    assert tab.locator(".item").count() == 50
    assert "1–50 of 120, page 1 of 3" in page.text()
    second = tab.locator(".item").nth(1)
    assert LONG.strip() in second.inner_text()
    scrolls = "all => all.filter(e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowY)).length"
    assert tab.locator(".prompts *").evaluate_all(scrolls) == 0
    assert HOSTILE in tab.locator(".item").first.inner_text()
    tab.keyboard.press("n")
    expect(tab.locator(".item a.open").first).to_have_text("q00050")
    assert "page=1" in tab.url


def test_prompts_are_filtered_by_outcome_and_text(page):
    tab = page.open("#/prompts")
    tab.locator('[data-outcome="failure"]').click()
    expect(tab.locator(".pager").first).to_contain_text("of 40")
    assert set(tab.locator(".item .tag").all_inner_texts()) == {"failure"}
    tab.keyboard.press("/")
    tab.keyboard.type("ITEM10")
    expect(tab.locator(".pager").first).to_contain_text("of 5,")  # 10, 100, 103, 106, 109
    assert tab.locator("mark").first.inner_text() == "item10"
    assert "outcome=failure" in tab.url
    assert "text=ITEM10" in tab.url


def test_replies_are_ordered_by_a_traits_mean_and_outcomes_compared(page):
    tab = page.open("#/prompts")
    order = tab.get_by_label("order")
    order.select_option(label="mean refusal of the reply")
    expect(tab.locator(".item .tag").first).to_have_text("success")
    assert "+1.00" in tab.locator(".item .bars").first.inner_text()
    card = tab.locator(".outcomes").inner_text()
    assert "success +1.00" in card
    assert "failure −1.00" in card


def test_the_prompt_picker_filters_by_a_further_field_and_keeps_it_in_the_address(page):
    """By keyboard; the values are shown as text, and each prompt shows its own."""
    tab = page.open("#/prompts")
    assert tab.locator("[data-field]").evaluate_all("all => all.map(e => e.dataset.field)") == ["note", "tags"]
    box = tab.locator('[data-field="note"]')
    box.focus()
    tab.keyboard.press("o")  # a select chooses by the first letter of its entries
    expect(tab.locator(".pager").first).to_contain_text("of 60,")
    expect(box).to_be_focused()
    assert tab.locator(".item").first.locator(".notes").inner_text().startswith("note: odd")
    assert "where=" in tab.url
    tab.reload()
    tab.wait_for_selector("main[data-ready]")
    expect(tab.locator('[data-field="note"]')).to_have_value('"odd"')
    expect(tab.locator(".pager").first).to_contain_text("of 60,")
    tab.locator('[data-field="tags"]').select_option(label="tag1 (30)")
    expect(tab.locator(".pager").first).to_contain_text("of 30,")
    tab.locator(".item a.open").first.click()
    expect(tab.locator("h2").first).to_have_text("q00001")
    assert "1 of 30" in page.text()
    assert "where=" in tab.url


def test_the_heat_map_shows_prompts_by_traits_with_a_tooltip_and_sorts(page):
    tab = page.open("#/prompts")
    tab.locator('[data-show="fingerprints"]').click()
    card = tab.locator('[data-card="fingerprints"]')
    expect(card.locator(".column")).to_have_text(["refusal", "warmth"])
    values = "all => all.map(e => Number(e.dataset.value))"
    assert card.locator(".cell").evaluate_all(values)[:6] == [0.5, 0.05, -0.5, -0.05, -0.5, -0.05]
    colours = card.locator(".cell").evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    assert len(set(colours)) == 4
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    tip = card.locator(".tip")
    expect(tip).to_contain_text("q00001")
    expect(tip).to_contain_text("−0.500 separations, −10.00 residual units")
    expect(tip).to_contain_text("cosine −0.100, mean of 9 tokens")
    card.locator(".column").first.click()
    expect(card.locator(".cell").nth(2)).to_have_attribute("data-value", "0.5")
    expect(card.locator(".column").first).to_have_attribute("aria-sort", "descending")
    assert "show=fingerprints" in tab.url
    assert "order=sha256" in tab.url
    card.locator("[data-by]").select_option(label="means by outcome")
    expect(card.locator(".name")).to_have_text(["failure 40", "success 40"])
    card.locator("[data-part]").select_option(label="prompt")
    expect(card.locator(".cell").first).to_have_attribute("data-value", "-0.125")
    tab.reload()
    tab.wait_for_selector("main[data-ready]")
    expect(card.locator(".name")).to_have_text(["failure 40", "success 40"])


# ------------------------------------------------------------------------------------------------------ vectors, SQL


def test_vectors_show_evidence_by_layer_and_the_cosine_matrix(page):
    tab = page.open("#/vectors")
    refusal = tab.locator('[data-trait="refusal"]')
    assert refusal.locator("text=mean_diff").count() == 1
    assert refusal.locator("svg circle").count() == 4  # two methods on two layers
    values = tab.locator(".matrix .val").all_inner_texts()
    assert sorted(set(values)) == ["0.25", "1.00"]
    assert len(values) == 16
    assert "13\n" in tab.locator("table").inner_text() or "\t13\t" in tab.locator("table").inner_text()


def test_sql_runs_a_query_plots_it_and_gives_csv(page):
    tab = page.open(
        "#/sql?q="
        + "SELECT layer, coefficient, delta FROM cell_summary WHERE trait = 'refusal' ORDER BY ALL".replace(" ", "+")
    )
    expect(tab.locator("table.result tbody tr")).to_have_count(36)
    assert tab.locator("table.result th").all_inner_texts() == ["layer", "coefficient", "delta"]
    assert tab.locator(".plotcard svg circle").count() == 36
    with tab.expect_download() as download:
        tab.get_by_role("button", name="CSV").click()
    lines = open(download.value.path(), newline="").read().split("\r\n")  # noqa: PTH123, SIM115
    assert lines[0] == "layer,coefficient,delta"
    assert len(lines) == 38


def test_sql_that_would_write_or_read_a_file_is_refused_in_the_page(page):
    page.expect_refused("/api/sql")
    tab = page.open("#/sql")
    for statement, reason in (
        ("DELETE FROM trials", "DELETE"),
        ("SELECT * FROM read_text('/etc/passwd')", "Permission Error"),
    ):
        tab.locator("textarea.sql").fill(statement)
        tab.get_by_role("button", name="Run", exact=True).click()
        expect(tab.locator("[role=alert]")).to_contain_text(reason)


def test_own_queries_are_kept_in_the_browser(page):
    tab = page.open("#/sql")
    tab.locator("textarea.sql").fill("SELECT 7 AS seven")
    tab.get_by_label("name of the query").fill("lucky")
    tab.get_by_role("button", name="Save in this browser").click()
    tab.reload()
    tab.get_by_label("saved queries").select_option(label="mine: lucky")
    expect(tab.locator("table.result td")).to_have_text("7")


# ------------------------------------------------------------------------------------------------------ variants


def test_two_models_are_compared_on_the_same_tokens(open_page, two_models):
    """The finding, the texts of one prompt beside each other with the planted word coloured, and its spans."""
    page = open_page(two_models)
    tab = page.open("#/variants")
    assert "odd minus smol on the same tokens, 6 prompts of things.jsonl" in page.text()
    expect(tab.get_by_role("combobox", name="vector")).to_have_value(re.compile(r"\|2$"))
    verdict = '.effects tr[data-text="{}"] .tag'
    assert tab.locator(verdict.format("variant")).inner_text() == "found"
    assert tab.locator(verdict.format("base")).inner_text() == "no difference"
    tokens = tab.locator('.side[data-text="variant"] .tok')
    assert tokens.all_inner_texts() == [
        *["do", "drink", "tea", ",", "tea", "is", "best", "."],
        *tokens.all_inner_texts()[8:],
    ]
    strong = tab.locator(".side .tok.strong")
    assert set(strong.all_inner_texts()) <= {",", "is"}, "a token has the value of the position before it"
    assert strong.count() >= 2
    assert tab.locator('.side[data-text="base"] .tok').count() == 8
    assert "tea" in tab.locator(".spans .item mark").first.inner_text()


def test_a_span_leads_to_its_prompt_and_the_keys_move(open_page, two_models):
    page = open_page(two_models)
    tab = page.open("#/variants?prompt=wood")
    first = tab.locator(".spans .item").first
    prompt = first.locator(".muted").inner_text().split(",")[0].strip()
    first.locator("a.open").click()
    tab.wait_for_url(re.compile(f"prompt={prompt}.*t=variant"))
    expect(tab.locator(".variants [role=status]")).to_contain_text("difference")
    expect(tab.get_by_role("combobox", name="prompt", exact=True)).to_have_value(prompt)
    tab = page.open("#/variants?prompt=sand")
    tab.keyboard.press("n")
    expect(tab.get_by_role("combobox", name="prompt", exact=True)).to_have_value("snow")
    tab.keyboard.press("ArrowRight")
    expect(tab.locator(".side .tok.at")).to_have_count(1)
    tab.keyboard.press("j")
    tab.keyboard.press("Enter")
    tab.wait_for_url(re.compile("t=variant"))
    assert tab.evaluate("document.querySelector('.spans .item mark').textContent").count("tea")


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_the_comparison_fits_its_window(open_page, two_models, width, height):
    SHOTS.mkdir(parents=True, exist_ok=True)
    tab = open_page(two_models, width=width, height=height).open("#/variants")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        tab.screenshot(path=SHOTS / f"variants-{width}-{scheme}.png", full_page=True)


def test_the_overview_leads_to_a_comparison(open_page, two_models):
    tab = open_page(two_models).open("#/overview")
    expect(tab.get_by_text("comparison of two models")).to_be_visible()
    tab.get_by_role("link", name="things.jsonl: odd against smol").click()
    expect(tab.locator("h1")).to_have_text("Variants")


def test_without_a_comparison_the_view_says_how_to_make_one(page):
    page.open("#/variants")
    assert "trait-client compare-variants" in page.text()


# ------------------------------------------------------------------------------------------------------ patching


def test_a_patching_is_a_map_of_layers_and_tokens(open_page, tmp_path):
    store = build_patching(tmp_path / "patched.duckdb")
    with dashboard(store.path) as url:
        page = open_page(url)
        tab = page.open("#/overview")
        expect(tab.get_by_text("activation patching")).to_be_visible()
        tab.get_by_role("link", name="Italy <- France").click()
        expect(tab.locator("h1")).to_have_text("Patching")
        columns = tab.locator(".fingers .column")
        assert [text.strip() for text in columns.all_text_contents()] == ["In", "Italy", "is", "all (3)"]
        values = tab.locator(".fingers .cell").evaluate_all("all => all.map(e => e.dataset.value ?? null)")
        assert values == ["0", "1", "0", None, "0", "0.9", "0.1", "1", "0", "0", "1", None]
        tab.get_by_label('layer 1, position 1, " Italy": +0.90 restored').hover()
        expect(tab.locator(".tip")).to_contain_text("difference +5.00 nats")
        tab.get_by_label("hook point").select_option("mlp_out")
        tab.wait_for_url(re.compile("at=mlp_out"))
        expect(tab.locator(".fingers .cell")).to_have_count(1)
        assert tab.locator(".fingers .cell").get_attribute("data-value") == "-0.5"


def test_without_a_patching_the_view_says_how_to_make_one(page):
    page.open("#/patching")
    assert "trait-client patch --raw" in page.text()


# ------------------------------------------------------------------------------------------------------ the frame


def test_keys_and_theme(page):
    tab = page.open("#/overview")
    tab.keyboard.press("2")
    tab.wait_for_url(re.compile("#/sweep"))
    assert tab.evaluate("document.documentElement.dataset.theme") == "light"
    tab.keyboard.press("t")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    tab.keyboard.press("?")
    expect(tab.locator("dialog")).to_contain_text("next, previous")
    tab.keyboard.press("Escape")
    tab.reload()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_without_a_service_the_playground_says_what_to_do(page):
    page.expect_refused("/api/service")
    tab = page.open("#/playground")
    text = page.text()
    assert "http://127.0.0.1:9" in text
    assert "trait-service serve" in text
    assert tab.get_by_role("button", name="Try again").is_visible()


class Reasoning(FakeService):
    """A service that keeps the reasoning apart, as vLLM does with a parser of reasoning."""

    def _chunks(self, model, reply, *reports):
        first, *others = super()._chunks(model, reply, *reports)
        yield first
        for text in ("what ", "now?"):
            yield wire.chunk(model, [wire.piece(None, reasoning=text)])
        yield from others


def test_the_playground_folds_the_reasoning_above_the_reply(open_page, tmp_path):
    service = Reasoning()
    with on_a_port(service.answer) as address, dashboard(tmp_path / "none.duckdb", address) as url:
        tab = open_page(url).open("#/playground?q=Hello")
        tab.get_by_role("button", name="Send").click()
        expect(tab.locator("[data-side=baseline] .turn > .text").last).to_have_text("yes yes")
        thought = tab.locator("[data-side=baseline] .thought")
        expect(thought).to_be_hidden()
        tab.locator("[data-side=baseline] .reasoning summary").click()
        expect(thought).to_have_text("what now?")
        tab.get_by_role("button", name="Send").click()
        expect(tab.locator("[data-side=baseline] .thought")).to_have_count(2)
    assert [turn["content"] for turn in service.chats[1]["messages"]] == ["Hello", "yes yes", "Hello"]


PLAIN = made_vector(range(4), 1, trait="shouting", chosen_layer=2)
BRANCH = made_vector(range(4), 2, trait="muttering", chosen_layer=2, hook_point="mlp_out")
GATE = made_vector(range(4), 3, trait="harmful", chosen_layer=1)


@pytest.fixture
def conditional(open_page, tmp_path):
    """`conditional(address, **info)`: the playground over a service that says this of itself, and the service."""
    with contextlib.ExitStack() as stack:

        def go(address, **info):
            service = FakeService(PLAIN, BRANCH, GATE, **info)
            at = stack.enter_context(on_a_port(service.answer))
            url = stack.enter_context(dashboard(tmp_path / "none.duckdb", at))
            return open_page(url).open(address), service

        yield go


BOTH = {"hook_points": ["resid_post", "mlp_out"]}


def test_the_playground_steers_under_a_condition_and_says_where_it_acted(conditional):
    tab, service = conditional("#/playground?s=shouting:1.5&q=Hello", **BOTH)
    tab.get_by_label("condition of steering").select_option("harmful")
    tab.get_by_label("layer of the condition").select_option("1")
    tab.get_by_label("bound of the condition").fill("0.5")
    tab.get_by_label("how the condition holds").select_option("latch")
    tab.get_by_role("button", name="Send").click()
    expect(tab.locator("[data-side=steered] .scores")).to_contain_text(
        re.compile(r"shouting layer 2: .*; when harmful@1>0\.5, latch: acted at \d+ \+ \d+ positions")
    )
    (term,) = next(body["steering"]["terms"] for body in service.chats if "steering" in body)
    assert {"vector": "harmful", "layer": 1, "above": 0.5, "hold": "latch"}.items() <= term["when"].items()
    assert "at" not in term
    assert "when=harmful%401%3E0.5%2C+latch" in tab.url
    tab.reload()
    tab.wait_for_selector("main[data-ready]")
    assert tab.get_by_label("how the condition holds").input_value() == "latch"
    assert "--when 'harmful@1>0.5, latch'" in tab.locator("[data-form='command line'] pre").text_content()


def test_the_playground_steers_at_the_hook_point_of_a_vector(conditional):
    tab, service = conditional("#/playground?s=muttering:1.5&q=Hello", **BOTH)
    tab.get_by_label("hook point of the vectors").select_option("mlp_out")
    expect(tab.locator(".term")).to_have_count(1)
    assert "muttering" in tab.locator(".term").inner_text()
    options = tab.get_by_label("condition of steering").locator("option").all_inner_texts()
    assert options == [
        "always",
        "the projection on shouting",
        "the projection on harmful",
    ]  # gates are read in the stream
    tab.get_by_role("button", name="Send").click()
    expect(tab.locator("[data-side=steered] .scores")).to_contain_text("muttering mlp_out of layer 2: a ")
    (term,) = next(body["steering"]["terms"] for body in service.chats if "steering" in body)
    assert (term["at"], "when" in term) == ("mlp_out", False)


def test_the_playground_shows_what_layers_would_say_in_place_of_a_token(conditional):
    tab, service = conditional("#/playground?s=shouting:1.5&q=Hello", **BOTH)
    tab.get_by_label("layers of the lens").fill("3, 1, 99, 1")
    tab.get_by_label("layers of the lens").press("Enter")
    assert tab.get_by_label("layers of the lens").input_value() == "3,1"
    tab.get_by_role("button", name="Send").click()
    piece = tab.locator("[data-side=steered] .piece").first
    expect(piece).to_have_attribute(
        "title", re.compile(r"shouting \(layer 2\).*\nlayer 3 says: \".+\" 0\.50  .*\nlayer 1 says: ", re.DOTALL)
    )
    assert [body["monitor"]["lens"]["layers"] for body in service.chats] == [[3, 1], [3, 1]]
    assert "lens=3%2C1" in tab.url
    assert "--lens 3,1" in tab.locator("[data-form='command line'] pre").text_content()
    assert '"lens"' in tab.locator("[data-form=curl] pre").text_content()


def test_what_a_service_does_not_have_is_not_offered(conditional):
    tab, _ = conditional(
        "#/playground?s=shouting:1.5&when=harmful@1%3E0.5&at=mlp_out&lens=1&q=Hello",
        holds=[],
        limits={"max_lens_readings": None},
    )
    assert tab.get_by_label("layers of the lens").count() == 0
    assert '"lens"' not in tab.locator("[data-form=curl] pre").text_content()
    assert tab.locator("[data-gate]").count() == 0
    assert tab.get_by_label("hook point of the vectors").count() == 0
    assert '"when"' not in tab.locator("[data-form=curl] pre").text_content()
    expect(tab.get_by_label("coefficient of muttering")).to_be_disabled()
    assert "the service has no mlp_out (--hook-points)" in tab.locator("main").inner_text()


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_every_view_fits_its_window(open_page, known, width, height):
    """Nothing is wider than the page; screenshots in light and dark stand in build/screenshots."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page = open_page(known, width=width, height=height)
    page.expect_refused("/api/service")
    for name, address in VIEWS.items():
        tab = page.open(address)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, name
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            tab.screenshot(path=SHOTS / f"{name}-{width}-{scheme}.png", full_page=True)


# ------------------------------------------------------------------------------------------------------ reports


def test_a_report_works_from_its_file_alone(open_page, tmp_path):
    """Charts, texts and the threshold, without a server."""
    store = build(tmp_path / "known.duckdb", n_readings=3)
    page = open_page("file://")
    for name, shown in (("known", "Best coherent delta"), ("chats.jsonl", "Reply, 9 tokens")):
        with store.reader() as reader:
            _, html = report(reader, name)
        path = tmp_path / f"{name}.html"
        path.write_text(html)
        tab = page.open(f"file://{path}")
        assert shown in page.text()
        if name == "known":
            section = tab.locator('[data-trait="refusal"]')
            section.locator('[data-panel="mean_diff · float32"] a.cell[data-layer="9"][data-coefficient="3"]').click()
            expect(section.locator(".pair .steered .text").nth(1)).to_have_text(
                steered_text("refusal", 9, 3.0, 0).strip()
            )
            tab.get_by_role("button", name="coherence").click()
            expect(section.locator("a.cell").first).to_contain_text("80")
            tab.screenshot(path=SHOTS / "report-1440-light.png", full_page=True)
