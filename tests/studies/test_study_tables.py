"""The committed tables of the studies: derived figures follow from the others, and each page has the figures of both models."""

import csv

import both_models
import pytest
from damage_beside_effect.study import ratios
from study.lab import ROOT
from trait_map.page import page
from trait_map.study import EFFECT, best, predictors

EXPERIMENTS = ROOT / "experiments"
ROUNDED = 0.002
"""Share of a value that its four written digits may lack, in sums of several."""


def tables(name):
    return [
        pytest.param(path, id=str(path.relative_to(EXPERIMENTS).parent))
        for path in sorted(EXPERIMENTS.glob(f"**/{name}.csv"))
    ]


def rows_of(path):
    """Rows with numbers as numbers; an empty cell is None."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [{key: parsed(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def parsed(cell):
    try:
        return float(cell) if cell else None
    except ValueError:
        return {"True": True, "False": False}.get(cell, cell)


@pytest.mark.parametrize("study", both_models.STUDIES)
def test_a_page_has_the_figures_of_both_models_as_the_tables_give_them(study):
    page = (EXPERIMENTS / study / "README.md").read_text(encoding="utf-8")
    lines = both_models.side_by_side(EXPERIMENTS / study)
    assert len(lines) > 3
    assert f"python experiments/both_models.py {study}" in page
    assert "\n".join(lines) in page, "\n".join(lines)


@pytest.mark.parametrize("path", [*tables("by_method"), *tables("by_precision")])
def test_a_delta_and_its_verdict_follow_from_the_cells(path):
    for row in rows_of(path):
        assert row["delta"] == pytest.approx(row["steered"] - row["baseline"], abs=0.02)
        assert row["ci_low"] <= row["delta"] <= row["ci_high"]
        effect = (row["delta"] > row["control_high"] and row["ci_low"] > 0) or (
            row["delta"] < row["control_low"] and row["ci_high"] < 0
        )
        assert (row["verdict"] == "effect") == effect, row


@pytest.mark.parametrize("path", tables("paired"))
def test_all_traits_together_are_their_mean_and_a_verdict_is_that_of_the_interval(path):
    groups = {}
    for row in rows_of(path):
        key = tuple(row[name] for name in ("measure", "precision", "vector", "method") if name in row)
        groups.setdefault(key, {})[row["trait"]] = row
        assert (row["verdict"] == "not distinguishable from 0") == (row["low"] <= 0 <= row["high"]), row
    for group in groups.values():
        together = group.pop("all traits")
        n = sum(row["n"] for row in group.values())
        mean = sum(row["n"] * row["difference"] for row in group.values()) / n
        assert (together["n"], together["difference"]) == (n, pytest.approx(mean, abs=0.02))


@pytest.mark.parametrize("path", tables("search_against_grid"))
def test_a_search_succeeds_within_the_grids_interval(path):
    for row in rows_of(path):
        assert row["share_of_trials"] == pytest.approx(row["search_trials"] / row["grid_trials"], rel=ROUNDED)
        if row["within_the_interval"]:
            assert row["search_delta"] >= row["grid_ci_low"] * (1 - ROUNDED)
        elif row["search_delta"] is not None and row["search_coherence"] >= row["grid_coherence"]:
            assert row["search_delta"] < row["grid_ci_low"]


@pytest.mark.parametrize("path", [*tables("separation"), *tables("layers")])
def test_an_interval_holds_its_estimate_and_both_classes_are_there(path):
    for row in rows_of(path):
        assert min(row["n_in"], row["n_out"]) > 0
        for name in ("auc", "d"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], row


@pytest.mark.parametrize("path", tables("wrappers"))
def test_refusals_by_wrapper_add_up_to_those_of_the_comparison(path):
    wrappers = rows_of(path)
    (separation,) = [
        row
        for row in rows_of(path.parent / "separation.csv")
        if (row["part"], row["compared"]) == ("last prompt token", "all prompts")
    ]
    assert sum(row["n_refused"] for row in wrappers) == separation["n_in"]
    assert sum(row["n"] for row in wrappers) == separation["n_in"] + separation["n_out"] == 364
    for row in wrappers:
        assert row["refused_percent"] == pytest.approx(100 * row["n_refused"] / row["n"], rel=ROUNDED)


@pytest.mark.parametrize("path", tables("gain"))
def test_a_gain_is_the_difference_of_two_areas(path):
    areas = {
        (row["pair"], row["score"]): row["auc"]
        for row in rows_of(path.parent / "separation.csv")
        if "three others" in row["task"]
    }
    for row in rows_of(path):
        joint = areas[row["pair"], "joint (surface - intent)"]
        assert row["auc_gain"] == pytest.approx(joint - areas[row["pair"], row["over"]], abs=0.001)


@pytest.mark.parametrize("path", tables("map"))
def test_the_best_settings_and_the_predictors_are_those_of_the_map(path):
    settings, before = rows_of(path), rows_of(path.with_name("evidence.csv"))
    for name, computed in (("best", best(settings)), ("predictors", predictors(settings, before))):
        stored = rows_of(path.with_name(f"{name}.csv"))
        assert len(stored) == len(computed)
        for ours, theirs in zip(computed, stored, strict=True):
            for key, value in ours.items():
                same = pytest.approx(value, rel=0.02, abs=0.02) if isinstance(value, float) else value
                assert theirs[key] == same, (ours, theirs)


@pytest.mark.parametrize("path", tables("map"))
def test_an_effect_excludes_0_and_lies_beyond_both_random_directions(path):
    for row in rows_of(path):
        assert row["low"] <= row["delta"] <= row["high"]
        beyond = row["low"] > 0 and row["delta"] > row["random_high"]
        assert (row["verdict"] == EFFECT) == beyond, row


@pytest.mark.parametrize("path", tables("replies"))
def test_the_page_of_replies_is_printed_from_their_table(path):
    assert path.with_suffix(".md").read_text(encoding="utf-8") == "\n".join(page(path.parent)) + "\n"


@pytest.mark.parametrize("path", tables("ratios"))
def test_the_ratios_to_random_directions_are_those_of_the_settings(path):
    computed = ratios(rows_of(path.with_name("settings.csv")))
    stored = rows_of(path)
    assert len(stored) == len(computed)
    for ours, theirs in zip(computed, stored, strict=True):
        assert theirs == pytest.approx(ours, rel=0.01)
