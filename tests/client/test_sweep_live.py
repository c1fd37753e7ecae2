"""Sweeps on a real service with SmolLM2: the effects on held-out prompts, and damage on neutral text. Kills in the middle: `test_kill_live.py`."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from trait_client.http import AsyncTraitClient
from trait_client.results import ResultStore
from trait_client.scoring.damage import damage, read_damage_set
from trait_client.scoring.damage_set import CHOICES, NEUTRAL, read_choices, read_passages
from trait_client.sweeps import run_sweep
from trait_client.sweeps.experiment import Experiment
from trait_core.schema import Steering, SteeringTerm
from trait_core.vectors.inline import inline_vector

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
    columns, rows, *_ = store.query(sql)
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


def test_damage_grows_with_the_dose_and_an_equal_reading_has_none(service_url):
    """A random direction of 5 residual units changes neutral text by little, one of 50 by far more."""
    folder = ROOT / "datasets" / "damage"
    passages, choices = read_passages(folder / NEUTRAL)[:4], read_choices(folder / CHOICES)[:4]
    direction = inline_vector(np.random.default_rng(0).standard_normal(576))

    async def readings():
        async with AsyncTraitClient(service_url) as client:
            plain = [await read_damage_set(client, passages, choices) for _ in range(2)]
            steered = []
            for a in (5.0, 50.0):
                term = SteeringTerm(vector=direction, coefficient=a, unit="raw", layers=[12])
                steered.append(await read_damage_set(client, passages, choices, Steering(terms=[term])))
            return plain, steered

    (plain, again), steered = asyncio.run(readings())
    none, little, much = (damage(plain, other) for other in (again, *steered))
    print(none, little, much)
    assert abs(none.kl) < 0.01
    assert none.kl < little.kl < much.kl
    assert 0.5 < none.coverage <= 1
    assert much.nll_rise > little.nll_rise
    assert {len(row) for row in plain.choices.values()} == {4}


def test_gates_scopes_and_damage_of_a_sweep_are_those_of_the_service(service_url, tmp_path):
    """A gate that is never open leaves the replies as they are and does no damage; an open one acts where the scope says."""
    values = {
        "name": "gated",
        "traits": ["refusal"],
        "datasets": str(ROOT / "datasets" / "traits"),
        "layers": [13],
        "coefficients": [2.0],
        "n_prompts": 2,
        "max_tokens": 8,
        "scope": ["all", "response[:4]"],
        "when": ["none", "refusal@11>100000", "refusal@11>-100000, latch"],
        "control": {"random_directions": 0},
        "damage": {"passages": 2, "questions": 1},
    }
    store = ResultStore(tmp_path / "results.duckdb")
    outcome = sweep(Experiment.from_values(values), service_url, store)
    assert (outcome.status, outcome.trials_total, outcome.damage_missing) == ("ok", 2 * (1 + 2 * 3), 0)
    never, always = "refusal@11>100000.0", "refusal@11>-100000.0, latch"
    openings = store.query(
        "SELECT DISTINCT scope, gate, acted_in, acted_generated FROM cell_summary WHERE gate IS NOT NULL ORDER BY ALL"
    )
    assert [row[:3] for row in openings.rows] == [
        ("all", always, 1.0), ("all", never, 0.0), ("response[:4]", always, 1.0), ("response[:4]", never, 0.0),
    ]  # fmt: skip
    assert [row[3] for row in openings.rows if row[1] == always] == [7.0, 4.0]
    same = "SELECT count(*) FROM trials t JOIN cells c USING (cell_id) JOIN trials b ON b.cell_id = c.baseline_id AND b.prompt_id = t.prompt_id"
    assert store.query(f"{same} WHERE gate = '{never}' AND t.text <> b.text").rows == [(0,)]
    of_scope = (
        "SELECT gate, prompt_id, text FROM trials JOIN cells USING (cell_id) WHERE kind = 'steered' AND scope = 'all'"
    )
    texts = {(gate, prompt): text for gate, prompt, text in store.query(of_scope).rows}
    prompts = {prompt for _, prompt in texts}
    assert len(prompts) == 2
    assert all(texts[None, prompt] == texts[always, prompt] != texts[never, prompt] for prompt in prompts)
    kl = dict(store.query("SELECT coalesce(gate, 'none'), kl FROM effect_and_damage WHERE scope = 'all'").rows)
    assert kl[never] < 0.01 < kl["none"]
    assert kl[always] == pytest.approx(kl["none"], rel=0.05)
    assert store.query("SELECT count(*) FROM effect_and_damage WHERE scope <> 'all'").rows == [(0,)]
