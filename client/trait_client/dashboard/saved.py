"""Predefined queries of the SQL view."""

SAVED: list[dict[str, str]] = [
    {"name": "Best coherent setting of each trait", "sql": "SELECT * FROM best_coherent"},
    {
        "name": "Delta by layer and coefficient",
        "sql": (
            "SELECT trait, method, layer, coefficient, n, round(delta, 1) AS delta, round(ci_low, 1) AS ci_low,\n"
            "       round(ci_high, 1) AS ci_high, round(coherence, 1) AS coherence, effect\n"
            "FROM cell_summary\nWHERE measure = 'lexical'\nORDER BY trait, method, layer, coefficient"
        ),
    },
    {
        "name": "Most effect for least damage",
        "sql": (
            "SELECT trait, method, layer, coefficient, scope, hook_point, gate, trait_delta, kl, accuracy, baseline_accuracy\n"
            "FROM pareto_front"
        ),
    },
    {"name": "Methods compared", "sql": "SELECT * FROM method_comparison"},
    {"name": "Precisions compared", "sql": "SELECT * FROM precision_delta"},
    {
        "name": "What coherence costs",
        "sql": (
            "SELECT coefficient, avg(coherence) AS coherence, avg(delta) AS delta\nFROM cell_summary\n"
            "WHERE measure = 'lexical'\nGROUP BY coefficient\nORDER BY coefficient"
        ),
    },
    {
        "name": "Most incoherent steered replies",
        "sql": (
            "SELECT c.trait, c.layer, c.coefficient, round(s.value, 1) AS coherence, p.text AS prompt, t.text AS reply\n"
            "FROM trials t\nJOIN cells c USING (cell_id)\nJOIN prompts p USING (prompt_id)\n"
            "JOIN scores s ON s.trial_id = t.trial_id AND s.name = 'coherence'\n"
            "WHERE c.kind = 'steered'\nORDER BY s.value\nLIMIT 20"
        ),
    },
    {
        "name": "Held-out evidence by layer",
        "sql": (
            "SELECT layer, trait, method, auc, auc_low, auc_high, cohens_d, separation / residual_norm AS relative\n"
            "FROM vector_layers\nWHERE method <> 'random'\nORDER BY layer, trait, method"
        ),
    },
    {
        "name": "Projection by outcome",
        "sql": (
            "SELECT trait, layer, outcome, part, count(*) AS tokens, avg(value) AS mean, stddev_samp(value) AS sd\n"
            "FROM token_projections\nGROUP BY ALL\nORDER BY ALL"
        ),
    },
    {
        "name": "Fingerprint of each prompt set",
        "sql": (
            "SELECT prompt_set, part, vector, avg(separations) AS separations, stddev_samp(separations) AS sd, avg(cosine) AS cosine\n"
            "FROM fingerprints\nGROUP BY ALL\nORDER BY prompt_set, part, separations DESC"
        ),
    },
    {
        "name": "Tables, views and columns",
        "sql": "SELECT table_name, column_name, data_type\nFROM duckdb_columns()\nWHERE NOT internal\nORDER BY ALL",
    },
]
