"""Sweeps on a real service with SmolLM2: the effects on held-out prompts, and a kill in the middle."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trait_client.experiment import Experiment
from trait_client.http import AsyncTraitClient
from trait_client.results import ResultsError, ResultStore
from trait_client.sweep import run_sweep

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.engine

EXPECTED = {
    # trait: (layer, coefficient, least delta, least coherence)
    "refusal": (13, 1.5, 50, 85),
    "question_asking": (17, 2.0, 25, 75),
    "sycophancy": (17, 2.0, 18, 85),
}


def sweep(experiment, url, store):
    async def go():
        async with AsyncTraitClient(url) as client:
            return await run_sweep(experiment, client, store)

    return asyncio.run(go())


def one(store, sql):
    columns, rows = store.query(sql)
    assert len(rows) == 1, rows
    return dict(zip(columns, rows[0], strict=True))


@pytest.fixture(scope="module")
def held_out(service_url, tmp_path_factory):
    """Every trait's setting and four random directions at the same dose, on 12 held-out prompts each."""
    values = {
        "name": "held-out",
        "traits": list(EXPECTED),
        "datasets": str(ROOT / "datasets" / "traits"),
        "coefficients": [1.0],
        "n_prompts": 12,
        "max_tokens": 48,
        "trait": {t: {"layers": [layer], "coefficients": [coef]} for t, (layer, coef, _, _) in EXPECTED.items()},
    }
    store = ResultStore(tmp_path_factory.mktemp("held_out") / "results.duckdb")
    return store, sweep(Experiment.from_values(values), service_url, store)


def test_every_trial_is_done_and_scored(held_out):
    store, outcome = held_out
    assert (outcome.status, outcome.trials_failed, outcome.unscored, outcome.errors) == ("ok", 0, 0, ())
    assert outcome.trials_total == outcome.trials_run == 12 * 3 * 5 + 12 * 3
    assert one(store, "SELECT count(*) AS n, count(DISTINCT (cell_id, prompt_id)) AS d FROM trials") == {
        "n": outcome.trials_total,
        "d": outcome.trials_total,
    }


@pytest.mark.parametrize("trait", EXPECTED)
def test_the_trait_rises_beyond_random_directions_and_the_text_stays_coherent(held_out, trait):
    store, _ = held_out
    layer, coefficient, least_delta, least_coherence = EXPECTED[trait]
    row = one(store, f"SELECT * FROM best_coherent WHERE trait = '{trait}'")
    print(row)
    assert (row["layer"], row["coefficient"], row["n"], row["measure"]) == (layer, coefficient, 12, "lexical")
    assert row["delta"] >= least_delta
    assert row["coherence"] >= least_coherence
    assert row["effect"] is True
    assert row["delta"] > row["control_high"]


@pytest.mark.parametrize("trait", ["refusal", "sycophancy"])
def test_the_projection_of_the_reply_rises_with_the_trait(held_out, trait):
    store, _ = held_out
    row = one(store, f"SELECT * FROM cell_summary WHERE trait = '{trait}' AND measure = 'projection'")
    assert row["delta"] > 0


def test_what_was_applied_is_what_was_asked(held_out):
    store, _ = held_out
    mismatches = store.query(
        "SELECT trial_id FROM trials JOIN cells USING (cell_id) WHERE kind <> 'baseline' AND NOT ("
        "(steering->>'$.applied[0].sha256') = sha256 AND (steering->>'$.applied[0].layer')::INTEGER = layer "
        "AND (steering->>'$.positions.generated')::INTEGER = n_generated - 1)"
    )[1]
    assert mismatches == []


def test_a_killed_sweep_resumes_with_no_trial_lost_or_doubled(service_url, tmp_path):
    definition = tmp_path / "experiment.toml"
    definition.write_text(
        f'name = "killed"\ntraits = ["refusal"]\ndatasets = "{ROOT / "datasets" / "traits"}"\n'
        "layers = [9, 13, 17]\ncoefficients = [1.0, 1.5]\nn_prompts = 8\nmax_tokens = 24\n"
        "[control]\nrandom_directions = 2\n"
    )
    store = ResultStore(tmp_path / "results.duckdb")
    command = "from trait_client.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "sweep", str(definition), "--db", str(store.path), "--url", service_url],
        stdout=subprocess.DEVNULL,
    )
    seen = wait_for_trials(store, process, at_least=8)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    before = stored(store)
    assert {key: before.get(key) for key in seen} == seen
    outcome = sweep(Experiment.load(definition), service_url, store)
    after = stored(store)
    assert (outcome.status, outcome.trials_resumed) == ("ok", len(before))
    assert len(after) == outcome.trials_total == 8 * 18 + 8
    assert {key: after[key] for key in before} == before
    assert one(store, "SELECT count(*) AS n FROM trials") == {"n": outcome.trials_total}
    assert store.query("SELECT status FROM runs ORDER BY started_at")[1] == [("interrupted",), ("ok",)]


def wait_for_trials(store, process, at_least):
    """Replies that a running sweep has published, once there are enough."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, "the sweep ended before it could be killed"
        try:
            found = stored(store)
        except ResultsError:  # not begun
            found = {}
        if len(found) >= at_least:
            return found
        time.sleep(0.1)
    raise AssertionError("no trial was published in 300 s")


def stored(store):
    rows = store.query("SELECT cell_id, prompt_id, text FROM trials WHERE status = 'done'")[1]
    return {(cell, prompt): text for cell, prompt, text in rows}
