"""Settings of a sweep (cells with pooled seeds), and the replies of one setting."""

from typing import Any

from trait_client.results import ResultReader
from trait_core.errors import InvalidRequestError

# Median over prompts of steered / baseline perplexity: how much less likely the unsteered model finds the reply.
_PERPLEXITY_RATIO = """
SELECT c.setting_id, median(s.value / b.value) AS perplexity_ratio, median(b.value) AS baseline_perplexity
FROM cells c
JOIN trials t ON t.cell_id = c.cell_id AND t.status = 'done'
JOIN trials o ON o.cell_id = c.baseline_id AND o.prompt_id = t.prompt_id AND o.status = 'done'
JOIN scores s ON s.trial_id = t.trial_id AND s.name = 'perplexity'
JOIN scores b ON b.trial_id = o.trial_id AND b.name = 'perplexity'
WHERE c.kind = 'steered'
GROUP BY c.setting_id
"""

_BASELINE_COHERENCE = """
SELECT c.setting_id, avg(b.value) AS baseline_coherence
FROM (SELECT DISTINCT setting_id, baseline_id FROM cells WHERE kind = 'steered') c
JOIN trials o ON o.cell_id = c.baseline_id AND o.status = 'done'
JOIN scores b ON b.trial_id = o.trial_id AND b.name = 'coherence'
GROUP BY c.setting_id
"""

_RUNS = "SELECT DISTINCT setting_id, run_id FROM run_cells JOIN cells USING (cell_id) ORDER BY ALL"

_PAIRS = """
SELECT p.prompt_id, p.text AS prompt, c.seed, c.system, t.trial_id, t.text, t.reasoning, t.status, t.error,
       t.finish_reason, t.n_generated, t.steering, b.trial_id AS baseline_trial_id, b.text AS baseline_text,
       b.reasoning AS baseline_reasoning,
       b.finish_reason AS baseline_finish_reason, b.n_generated AS baseline_n_generated
FROM cells c
JOIN trials t ON t.cell_id = c.cell_id
JOIN prompts p ON p.prompt_id = t.prompt_id
LEFT JOIN trials b ON b.cell_id = c.baseline_id AND b.prompt_id = t.prompt_id AND b.status = 'done'
WHERE c.setting_id = ? AND c.kind = 'steered'
ORDER BY p.text, c.seed
"""

_CONTROLS = """
SELECT t.prompt_id, c.seed, c.sha256, v.name AS vector, t.trial_id, t.text, t.reasoning, t.finish_reason, t.n_generated
FROM cells c
JOIN trials t ON t.cell_id = c.cell_id AND t.status = 'done'
JOIN vectors v ON v.sha256 = c.sha256
WHERE c.control_of = ?
ORDER BY v.name, c.seed
"""

_SCORES = """
SELECT trial_id, name, trait, value FROM scores WHERE trial_id IN (SELECT unnest(?::VARCHAR[]))
UNION ALL
SELECT p.trial_id, 'projection', v.trait, p.value
FROM projections p JOIN vectors v USING (sha256)
WHERE p.trial_id IN (SELECT unnest(?::VARCHAR[])) AND p.sha256 = ? AND p.layer = ?
"""


def all_settings(reader: ResultReader) -> list[dict[str, Any]]:
    """One row per setting and measure, with its perplexity ratio and its runs."""
    ratios = {row.pop("setting_id"): row for row in reader.records(_PERPLEXITY_RATIO)}
    coherence = {row["setting_id"]: row["baseline_coherence"] for row in reader.records(_BASELINE_COHERENCE)}
    nothing = {"perplexity_ratio": None, "baseline_perplexity": None}
    rows = reader.records(
        "SELECT * EXCLUDE (versions) FROM cell_summary ORDER BY trait, measure, precision, method, layer, coefficient"
    )
    runs = _runs_of_settings(reader)
    for row in rows:
        setting = row["setting_id"]
        row.update(ratios.get(setting, nothing))
        row["baseline_coherence"] = coherence.get(setting)
        row["runs"] = runs.get(setting, [])
        row["layer"] = layer_name(row)
    return rows


def _runs_of_settings(reader: ResultReader) -> dict[str, list[str]]:
    """Setting -> ids of the runs that asked for it, whichever of them stored its trials."""
    found: dict[str, list[str]] = {}
    for setting_id, run_id in reader.query(_RUNS).rows:
        found.setdefault(setting_id, []).append(run_id)
    return found


def layer_name(row: dict[str, Any]) -> int | str:
    """The layer, or layers that are steered together: `9+13`."""
    return row["layer"] if row["layer"] is not None else "+".join(map(str, row["layers"]))


def setting(reader: ResultReader, setting_id: str) -> dict[str, Any]:
    """A setting's replies with the replies of the baseline and of random directions, prompt by prompt.

    Raises:
        InvalidRequestError: The setting does not exist.
    """
    cells = reader.records(
        "SELECT * EXCLUDE (cell_id, seed) FROM cells WHERE setting_id = ? AND kind = 'steered' LIMIT 1", [setting_id]
    )
    if not cells:
        raise InvalidRequestError(f"no steered setting {setting_id[:80]!r} is in the database", param="setting")
    pairs = reader.records(_PAIRS, [setting_id])
    controls = reader.records(_CONTROLS, [setting_id])
    trials = [row["trial_id"] for row in (*pairs, *controls)]
    trials += [row["baseline_trial_id"] for row in pairs if row["baseline_trial_id"]]
    scores = _scores(reader, trials, cells[0])
    for pair in pairs:
        pair["scores"] = scores.get(pair.pop("trial_id"), {})
        pair["baseline_scores"] = scores.get(pair.pop("baseline_trial_id"), {})
        pair["controls"] = [_control(row, scores) for row in controls if row["prompt_id"] == pair["prompt_id"]]
    return {"cell": cells[0], "pairs": pairs}


def _control(row: dict[str, Any], scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    kept = ("vector", "seed", "text", "reasoning", "finish_reason", "n_generated")
    return {name: row[name] for name in kept} | {"scores": scores.get(row["trial_id"], {})}


def _scores(reader: ResultReader, trials: list[str], cell: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Trial -> its scores: those without a trait, and those for the cell's trait."""
    found: dict[str, dict[str, Any]] = {}
    for row in reader.records(
        _SCORES,
        [trials, trials, cell["trait_sha256"], cell["layer"] if cell["read_layer"] is None else cell["read_layer"]],
    ):
        if row["trait"] in {"*", cell["trait"]}:
            found.setdefault(row["trial_id"], {})[row["name"]] = row["value"]
    return found
