"""The map of traits: deltas on one scale, beside random directions; what predicts them; texts before and after."""

import asyncio
import itertools
import json

import pytest
from study.lab import Lab
from sweep_fixtures import QUESTIONS, MemoryService, experiment_of, vector_file, write_datasets
from trait_client.results import ResultStore
from trait_client.sweeps import run_sweep
from trait_map.study import EFFECT, SETTINGS, best, predictors, replies, steerability

LAYERS = [1, 2]
SEPARATION = 2.0
"""Separation of the vectors that are made for tests."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A study whose two sweeps have run: `shouting` has a lexical metric, `quiet` has none; both by two methods."""
    folder = tmp_path_factory.mktemp("map")
    write_datasets(folder / "datasets")
    quiet = folder / "datasets" / "style" / "quiet"
    quiet.mkdir()
    (quiet / "steering.json").write_text(json.dumps({"questions": QUESTIONS, "direction": "positive", "metric": None}))
    service = MemoryService()
    service.files = {
        f"{trait}.{method}": vector_file(trait, method, seed).to_bytes()
        for seed, (trait, method) in enumerate(itertools.product(("shouting", "quiet"), ("mean_diff", "probe")))
    }
    lab = Lab("trait_map", work=folder / "work")
    lab.folder = folder
    asyncio.run(sweep(lab, service))
    return lab


async def sweep(lab, service):
    shared = {"traits": ["shouting", "quiet"], "layers": LAYERS, "coefficients": [2.0], "n_prompts": 4}
    async with service.client() as client:
        for methods, n_random in ((["mean_diff"], 2), (["mean_diff", "probe"], 0)):
            experiment = experiment_of(lab.folder, **shared, methods=methods, control={"random_directions": n_random})
            outcome = await run_sweep(experiment, client, ResultStore(lab.db))
            assert outcome.status == "ok"


@pytest.fixture(scope="module")
def settings(lab):
    return lab.sql(SETTINGS)


def test_every_method_is_compared_with_the_random_directions_of_its_layer(settings):
    found = [(row["trait"], row["method"], row["layer"]) for row in settings]
    assert found == [
        (trait, method, layer)
        for trait in ("quiet", "shouting")
        for method in ("mean_diff", "probe")
        for layer in LAYERS
    ]
    assert {(row["random_low"], row["random_high"]) for row in settings} == {(0.0, 0.0)}
    assert {row["verdict"] for row in settings} == {EFFECT}


def test_points_are_those_of_the_metric_or_hundredths_of_the_separation(settings):
    by_trait = {trait: [row for row in settings if row["trait"] == trait] for trait in ("shouting", "quiet")}
    assert {row["measure"] for row in by_trait["shouting"]} == {"lexical"}
    assert {row["measure"] for row in by_trait["quiet"]} == {"projection"}
    assert all(90 < row["delta"] <= 100 for row in by_trait["shouting"])
    for row in by_trait["quiet"]:
        assert row["low"] <= row["delta"] <= row["high"]
        assert row["delta"] > 100 / SEPARATION * 0.5  # a reply that shouts lies about 1 unit along the direction


def test_the_best_setting_is_coherent_and_its_replies_are_shown_before_and_after(lab, settings):
    rows = best(settings)
    assert [(row["trait"], row["method"], row["layers"]) for row in rows] == [
        (trait, method, len(LAYERS)) for trait in ("quiet", "shouting") for method in ("mean_diff", "probe")
    ]
    for row in replies(lab, settings):
        assert row["steered"] == row["baseline"].upper() != row["baseline"]
        assert row["prompt"] in QUESTIONS


def test_what_was_measured_before_predicts_where_the_ranks_agree():
    middle = {"random_low": -2.0, "random_high": 4.0, "method": "mean_diff"}
    rows = [
        middle | {"trait": trait, "layer": layer, "delta": sign * layer + 1.0}
        for trait, sign in (("a", 1), ("b", 1), ("c", -1))
        for layer in range(5)
    ]
    assert [steerability(row) for row in rows[:2]] == [0.0, 1.0]
    before = [
        {"trait": row["trait"], "method": "mean_diff", "layer": row["layer"], "auc": row["layer"] / 10}
        | dict.fromkeys(("cohens_d", "relative_separation", "cosine_previous_layer"))
        for row in rows
    ]
    found = {row["measured_before"]: row for row in predictors(rows, before)}
    assert set(found) == {"auc", "layer"}
    assert found["auc"]["mean_rho"] == pytest.approx(1 / 3)
    assert found["auc"]["traits"] == 3
    assert found["auc"]["low"] <= 1 / 3 <= found["auc"]["high"]
