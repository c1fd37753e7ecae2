# ruff: noqa: S608 - only constants of this file enter the SQL
"""A million trials: how long common queries take, and whether writing keeps up with a sweep.

python experiments/results_speed/bench.py            # under a minute on two idle cores; --trials 100000 for a tenth of it

The trials are made up and written into the tables that a sweep writes; what is measured afterwards are the sweep's own
writer and the views that everybody queries.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import duckdb
from trait_client.results import ResultStore, ResultWriter
from trait_client.results.rows import ProjectionRow, ScoreRow, TrialRow, utc_now

N_TRAITS, N_LAYERS, N_COEFFICIENTS, N_CONTROLS = 10, 10, 8, 4
N_CELLS = N_TRAITS * N_LAYERS * N_COEFFICIENTS * (1 + N_CONTROLS)
REPEATS = 5
BATCH_TRIALS = 30
"""Trials of one commit: with their seven scores about the recorder's 200 rows."""

QUERIES = {
    "best_coherent": "SELECT * FROM best_coherent",
    "cell_summary of a trait": "SELECT * FROM cell_summary WHERE trait = 'trait3'",
    "trait_summary": "SELECT * FROM trait_summary",
    "method_comparison": "SELECT * FROM method_comparison",
    "replies of a setting": (
        "SELECT p.text, b.text, t.text FROM cells c JOIN trials t ON t.cell_id = c.cell_id JOIN prompts p USING (prompt_id) "
        "JOIN trials b ON b.cell_id = c.baseline_id AND b.prompt_id = t.prompt_id WHERE c.setting_id = 's3-4-5-0'"
    ),
    "counts by cell": "SELECT cell_id, count(*) FROM trials GROUP BY cell_id",
    "mean score by trait": "SELECT trait, name, avg(value) FROM scores GROUP BY ALL",
}

CELLS = """
INSERT INTO cells (cell_id, setting_id, baseline_id, control_of, kind, trait, trait_sha256, sha256, trait_sign, method, layer,
    layers, read_layer, coefficient, unit, operation, scope, preserve_norm, precision, adapter, seed, max_tokens, temperature,
    top_p, model, config_digest, dtype, versions)
SELECT 'c' || k, 's' || k, 'base', CASE WHEN i > 0 THEN 's' || t || '-' || l || '-' || c || '-0' END,
    CASE WHEN i > 0 THEN 'control' ELSE 'steered' END, 'trait' || t, 'v' || t, CASE WHEN i > 0 THEN 'r' || i ELSE 'v' || t END, 1,
    'mean_diff', l, [l], l, 0.5 * (c + 1), 'dose', 'add', 'all', false, 'float32', 'none', 0, 48, 0.0, 1.0, 'm', 'd', 'float32', '{}'
FROM (SELECT t, l, c, i, t || '-' || l || '-' || c || '-' || i AS k
      FROM range(?) a(t), range(?) b(l), range(?) d(c), range(?) e(i))
"""
BASELINE = """
INSERT INTO cells (cell_id, setting_id, baseline_id, kind, precision, adapter, seed, max_tokens, temperature, top_p, model,
    config_digest, dtype, versions)
VALUES ('base', 'base', 'base', 'baseline', 'float32', 'none', 0, 48, 0.0, 1.0, 'm', 'd', 'float32', '{}')
"""
TEXT = "'A made up reply of the usual length, which says little and goes on for about as long as forty tokens do: ' || c.cell_id || p.prompt_id"


def fill(path: Path, n_trials: int) -> float:
    """Write about `n_trials`; returns seconds."""
    began = time.monotonic()
    n_prompts = max(2, n_trials // N_CELLS)
    store = ResultStore(path)
    with store.writer() as writer:
        run = writer.start_run("made up", "{}", n_trials)
    connection = duckdb.connect(path)
    vectors = [*(f"v{t}" for t in range(N_TRAITS)), *(f"r{i}" for i in range(N_CONTROLS + 1))]
    for vector in vectors:
        connection.execute(
            "INSERT INTO vectors VALUES (?, ?, ?, 'mean_diff', 'm', 'd', 5, '{}')", [vector, vector, vector]
        )
    connection.execute("INSERT INTO prompts SELECT 'p' || i, 'prompt ' || i FROM range(?) r(i)", [n_prompts])
    connection.execute(BASELINE)
    connection.execute(CELLS, [N_TRAITS, N_LAYERS, N_COEFFICIENTS, 1 + N_CONTROLS])
    connection.execute("SELECT setseed(0.5)")
    connection.execute(
        f"INSERT INTO trials SELECT c.cell_id || '/' || p.prompt_id, c.cell_id, p.prompt_id, ?, 'done', {TEXT}, 'stop', 30, 40, "
        "NULL, 1.0, NULL, now()::TIMESTAMP FROM cells c, prompts p",
        [run],
    )
    noise = "100 * random()"
    scored = "FROM trials t JOIN cells c USING (cell_id)"
    names = {
        "lexical": "coalesce(c.trait, 'trait0')",
        "coherence": "'*'",
        "relevance": "'*'",
        "perplexity": "'*'",
        "distinct3": "'*'",
    }
    for name, trait in names.items():
        lift = "+ CASE WHEN c.kind = 'steered' THEN 10 * c.coefficient ELSE 0 END" if name == "lexical" else ""
        value = "70 + 30 * random()" if name == "coherence" else noise
        connection.execute(
            f"INSERT INTO scores SELECT t.trial_id, {trait}, '{name}', {value} {lift}, '1', 'computed', NULL, 'none' {scored}"
        )
    for t in range(1, N_TRAITS):
        connection.execute(
            f"INSERT INTO scores SELECT t.trial_id, 'trait{t}', 'lexical', {noise}, '1', 'computed', NULL, NULL {scored} "
            "WHERE c.kind = 'baseline'"
        )
    connection.execute(
        f"INSERT INTO projections SELECT t.trial_id, c.trait_sha256, c.layer, 'response[:]', {noise}, 'none' {scored} "
        "WHERE c.trait IS NOT NULL"
    )
    connection.close()
    with store.writer() as writer:
        writer.finish_run(run, "ok")
    return time.monotonic() - began


def timed(store: ResultStore) -> dict[str, float]:
    """Median seconds of each query, the opening of the database included."""
    seconds = {}
    for name, query in QUERIES.items():
        runs = []
        for _ in range(REPEATS):
            began = time.monotonic()
            assert store.query(query)[1]
            runs.append(time.monotonic() - began)
        seconds[name] = statistics.median(runs)
        print(f"{name:28} {seconds[name]:7.2f} s", flush=True)
    return seconds


def ingestion(writer: ResultWriter, n_batches: int) -> float:
    """Trials a second that the writer commits, each with its seven scores, into the full database."""
    ((run,),) = writer.query("SELECT run_id FROM runs LIMIT 1")
    ((prompt,),) = writer.query("SELECT prompt_id FROM prompts LIMIT 1")
    ((cell,),) = writer.query("SELECT cell_id FROM cells WHERE kind = 'steered' LIMIT 1")
    tag = f"{time.monotonic()}"
    began = time.monotonic()
    for batch in range(n_batches):
        rows: list = []
        for i in range(BATCH_TRIALS):
            trial = f"new/{tag}/{batch}/{i}"
            rows.append(
                TrialRow(trial, cell, prompt, run, "failed", "text " * 40, "stop", 30, 40, None, 1.0, None, utc_now())
            )
            rows += [
                ScoreRow(trial, "*", name, 50.0, "1") for name in ("coherence", "relevance", "perplexity", "distinct3")
            ]
            rows += [ScoreRow(trial, "trait0", "lexical", 50.0, "1"), ProjectionRow(trial, "v0", 5, "response[:]", 1.0)]
        writer.write(rows)
    return n_batches * BATCH_TRIALS / (time.monotonic() - began)


def main() -> None:
    """Fill, query, write, and leave `results.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--db", type=Path, default=Path("build/results_speed.duckdb"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    options.db.parent.mkdir(exist_ok=True)
    options.db.unlink(missing_ok=True)
    store = ResultStore(options.db)
    found: dict = {"fill_seconds": fill(options.db, options.trials)}
    ((found["trials"],),) = store.query("SELECT count(*) FROM trials")[1]
    found["megabytes"] = options.db.stat().st_size / 1e6
    print(json.dumps(found), flush=True)
    found["query_seconds"] = timed(store)
    with store.writer() as writer:
        found["ingested_trials_per_second"] = ingestion(writer, 20)
        began = time.monotonic()
        writer.publish_snapshot()
        found["snapshot_seconds"] = time.monotonic() - began
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
