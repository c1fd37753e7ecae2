"""Does the coefficient search find what a full grid finds, in a quarter of its trials?

Settled beforehand: grid and search have the same traits, layers, prompts and bar of coherence; the search climbs two steps from
its usual start. It succeeds on a trait where its setting is coherent and its delta lies within the 95 per cent interval of the best
coherent setting of the grid.
"""

import json

from study.lab import Lab, repeated
from trait_client.sweeps.experiment import Experiment

TRAITS = ("refusal", "question_asking", "sycophancy")
STEPS = 2
N_PROMPTS, MAX_TOKENS = 6, 20

BEST = "select trait, layer, coefficient, delta, ci_low, ci_high, coherence from best_coherent order by trait"
TRIALS = (
    "select c.trait, count(*) as trials from trials t join cells c using (cell_id) where c.kind = 'steered' "
    "group by c.trait order by c.trait"
)


def measure(lab: Lab) -> None:
    names = repeated("--trait", TRAITS)
    layers = ",".join(map(str, Experiment.load(lab.folder / "experiment.toml").layers))
    with lab.serving() as url:
        at_url = ("--url", url)
        lab.extract(url, traits=TRAITS, methods=["mean_diff"])
        search = ("trait-client", "search", *names, "--layers", layers, "--search-steps", STEPS, "--random", 0)
        lab.run(
            *search, "--n-prompts", N_PROMPTS, "--max-tokens", MAX_TOKENS, "--db", lab.work / "search.duckdb", *at_url
        )
        lab.run("trait-client", "sweep", lab.folder / "experiment.toml", "--db", lab.db, *at_url)


def report(lab: Lab) -> None:
    searched = lab.work / "search.duckdb"
    found = {row["trait"]: row for row in lab.sql("select * from best_settings", searched)}
    taken = {row["trait"]: row["trials"] for row in lab.sql(TRIALS, searched)}
    of_grid = {row["trait"]: row["trials"] for row in lab.sql(TRIALS)}
    rows = []
    for best in lab.sql(BEST):
        trait = best["trait"]
        mine = found.get(trait)
        within = mine is not None and mine["delta"] >= best["ci_low"] and mine["coherence"] >= mine["bar"]
        rows.append(
            {
                "trait": trait,
                "grid_layer": best["layer"], "grid_coefficient": best["coefficient"], "grid_delta": best["delta"],
                "grid_ci_low": best["ci_low"], "grid_ci_high": best["ci_high"], "grid_coherence": best["coherence"],
                "grid_trials": of_grid[trait],
                "search_layer": mine and mine["layer"], "search_coefficient": mine and mine["coefficient"],
                "search_delta": mine and mine["delta"], "search_ci_low": mine and mine["ci_low"],
                "search_ci_high": mine and mine["ci_high"], "search_coherence": mine and mine["coherence"],
                "search_trials": taken[trait], "share_of_trials": taken[trait] / of_grid[trait],
                "within_the_interval": within,
            }
        )  # fmt: skip
    lab.table("search_against_grid", rows)
    print(json.dumps(rows, indent=1))
