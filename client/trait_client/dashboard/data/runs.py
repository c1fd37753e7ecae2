"""Runs, their progress, and each trait's best coherent setting."""

import json
from typing import Any

from trait_client.dashboard.data.settings import layer_name
from trait_client.results import ResultReader

# Progress counts trials of all runs with the same definition, because a resumed run continues a killed one. Trials shared
# with another experiment are not counted, so `done` is a lower bound while a run is active.
_RUNS = """
WITH counted AS (
    SELECT run_id, count(*) FILTER (status = 'done') AS done, count(*) FILTER (status = 'failed') AS failed,
           max(finished_at) AS last_at, sum(n_generated) AS tokens,
           count(*) FILTER (finished_at > now()::TIMESTAMP - INTERVAL 60 SECOND) AS last_minute
    FROM trials GROUP BY run_id
    UNION ALL
    SELECT run_id, count(*), 0, max(finished_at), sum(n_response),
           count(*) FILTER (finished_at > now()::TIMESTAMP - INTERVAL 60 SECOND)
    FROM readings GROUP BY run_id
    UNION ALL
    SELECT p.run_id, count(DISTINCT (p.patching_id, c.layer)), 0, max(p.patched_at), 0, 0
    FROM patchings p JOIN patches c USING (patching_id) GROUP BY p.run_id
)
SELECT r.run_id, r.experiment, r.definition, r.started_at, r.finished_at, r.status, r.n_trials, r.message,
       coalesce(c.done, 0) AS done, coalesce(c.failed, 0) AS failed, c.last_at, coalesce(c.tokens, 0) AS tokens,
       coalesce(sum(c.done) OVER (PARTITION BY r.experiment, r.definition::VARCHAR), 0) AS done_so_far,
       coalesce(c.last_minute, 0) AS last_minute
FROM runs r LEFT JOIN counted c USING (run_id)
ORDER BY r.started_at DESC
"""

KINDS = {"project": "corpus", "compare-variants": "comparison", "patch": "patching"}
"""Kind of a run by the command in its definition; a sweep's definition has none."""


def runs(reader: ResultReader) -> list[dict[str, Any]]:
    """Every run, newest first; a run that no process is writing any more is `stopped`, not `running`."""
    rows = reader.records(_RUNS)
    for row in rows:
        definition = json.loads(row.pop("definition"))
        row["kind"] = KINDS.get(definition.get("command"), "sweep")
        row["definition"] = definition
        row["done_so_far"] = min(int(row["done_so_far"]), row["n_trials"])
        if row["status"] == "running" and reader.source == "database":
            row["status"] = "stopped"
    return rows


def best_coherent(reader: ResultReader, bar: float) -> list[dict[str, Any]]:
    """Each trait's setting with the largest delta among those with at least this mean coherence."""
    rows = reader.records(
        "SELECT b.*, q.n_failed FROM best_coherent_at(?) b JOIN setting_quality q USING (setting_id) "
        "ORDER BY b.trait, b.model, b.precision, b.adapter, b.hook_point, b.gate NULLS FIRST",
        [bar],
    )
    for row in rows:
        row["layer"] = layer_name(row)
    return rows


def counts(reader: ResultReader) -> dict[str, Any]:
    """Number of runs, trials, settings, traits, readings and vectors in the database."""
    return reader.records(
        "SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM trials WHERE status = 'done') AS trials, "
        "(SELECT count(DISTINCT setting_id) FROM cells WHERE kind = 'steered') AS settings, "
        "(SELECT count(DISTINCT trait) FROM cells) AS traits, (SELECT count(*) FROM readings) AS readings, "
        "(SELECT count(*) FROM vectors) AS vectors"
    )[0]


def overview(reader: ResultReader, bar: float) -> dict[str, Any]:
    """Data of the overview."""
    return {"source": reader.source, "counts": counts(reader), "runs": runs(reader), "best": best_coherent(reader, bar)}
