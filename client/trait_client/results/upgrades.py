"""Steps that bring the tables of an older result database up to date.

Change the tables in two places, in one commit: `tables.sql` holds them as they are now, for a new database, and one more
step here makes the same change in a database that exists. A new column comes last in its table and may be NULL. A step
that a release has shipped is never changed.
"""

import duckdb

FIRST = 9
"""The oldest version that is brought up to date: that of release 0.2."""

STEPS: tuple[str, ...] = (
    # 10: prompt sets with fields of their own.
    """
    ALTER TABLE readings ADD COLUMN prompt_set VARCHAR;
    ALTER TABLE readings ADD COLUMN metadata JSON;
    ALTER TABLE reading_projections ADD COLUMN cosines FLOAT[];
    """,
    # 11: comparisons of two models.
    """
    ALTER TABLE readings ADD COLUMN adapter VARCHAR;
    ALTER TABLE readings ADD COLUMN weights_digest VARCHAR;
    ALTER TABLE readings ADD COLUMN read_for VARCHAR;
    CREATE TABLE variant_comparisons (
        comparison_id VARCHAR PRIMARY KEY,
        run_id VARCHAR NOT NULL,
        name VARCHAR NOT NULL,
        base_model VARCHAR NOT NULL,
        variant_model VARCHAR NOT NULL,
        base_identity JSON NOT NULL,
        variant_identity JSON NOT NULL,
        max_tokens INTEGER,
        compared_at TIMESTAMP NOT NULL
    );
    CREATE TABLE variant_texts (
        comparison_id VARCHAR NOT NULL REFERENCES variant_comparisons (comparison_id),
        prompt_id VARCHAR NOT NULL,
        text VARCHAR NOT NULL CHECK (text IN ('base', 'variant', 'given')),
        base_reading_id VARCHAR NOT NULL REFERENCES readings (reading_id),
        variant_reading_id VARCHAR NOT NULL REFERENCES readings (reading_id),
        PRIMARY KEY (comparison_id, prompt_id, text)
    );
    CREATE TABLE variant_clause_bounds (
        comparison_id VARCHAR NOT NULL REFERENCES variant_comparisons (comparison_id),
        prompt_id VARCHAR NOT NULL,
        text VARCHAR NOT NULL,
        clause INTEGER NOT NULL,
        start INTEGER NOT NULL,
        stop INTEGER NOT NULL,
        words VARCHAR NOT NULL,
        PRIMARY KEY (comparison_id, prompt_id, text, clause)
    );
    CREATE TABLE variant_effects (
        comparison_id VARCHAR NOT NULL REFERENCES variant_comparisons (comparison_id),
        text VARCHAR NOT NULL,
        sha256 VARCHAR NOT NULL REFERENCES vectors (sha256),
        layer INTEGER NOT NULL,
        n INTEGER NOT NULL,
        base DOUBLE NOT NULL,
        variant DOUBLE NOT NULL,
        difference DOUBLE NOT NULL,
        low DOUBLE,
        high DOUBLE,
        separations DOUBLE,
        dz DOUBLE,
        dz_low DOUBLE,
        dz_high DOUBLE,
        random_dz DOUBLE,
        beyond_random DOUBLE,
        verdict VARCHAR NOT NULL,
        PRIMARY KEY (comparison_id, text, sha256, layer)
    );
    CREATE TABLE variant_spans (
        comparison_id VARCHAR NOT NULL REFERENCES variant_comparisons (comparison_id),
        text VARCHAR NOT NULL,
        sha256 VARCHAR NOT NULL REFERENCES vectors (sha256),
        layer INTEGER NOT NULL,
        rank INTEGER NOT NULL,
        prompt_id VARCHAR NOT NULL,
        start INTEGER NOT NULL,
        stop INTEGER NOT NULL,
        words VARCHAR NOT NULL,
        base DOUBLE NOT NULL,
        variant DOUBLE NOT NULL,
        difference DOUBLE NOT NULL,
        size DOUBLE NOT NULL,
        PRIMARY KEY (comparison_id, text, sha256, layer, rank)
    );
    """,
    # 12: activation patching.
    """
    CREATE TABLE patchings (
        patching_id VARCHAR PRIMARY KEY,
        run_id VARCHAR NOT NULL REFERENCES runs (run_id),
        name VARCHAR NOT NULL,
        source JSON NOT NULL,
        target JSON NOT NULL,
        source_tokens VARCHAR[] NOT NULL,
        target_tokens VARCHAR[] NOT NULL,
        source_left_out INTEGER[] NOT NULL,
        target_left_out INTEGER[] NOT NULL,
        answer_tokens VARCHAR[] NOT NULL,
        source_difference DOUBLE NOT NULL,
        target_difference DOUBLE NOT NULL,
        model VARCHAR NOT NULL,
        config_digest VARCHAR NOT NULL,
        weights_digest VARCHAR,
        dtype VARCHAR NOT NULL,
        n_layers INTEGER NOT NULL,
        patched_at TIMESTAMP NOT NULL
    );
    CREATE TABLE patches (
        patching_id VARCHAR NOT NULL REFERENCES patchings (patching_id),
        hook_point VARCHAR NOT NULL,
        layer INTEGER NOT NULL,
        part VARCHAR NOT NULL,
        position INTEGER NOT NULL,
        n INTEGER NOT NULL,
        positions INTEGER[] NOT NULL,
        source_positions INTEGER[] NOT NULL,
        source_answer DOUBLE NOT NULL,
        target_answer DOUBLE NOT NULL,
        difference DOUBLE NOT NULL,
        restored DOUBLE,
        PRIMARY KEY (patching_id, hook_point, layer, part, position, n)
    );
    """,
    # 13: the reasoning of a reply.
    """
    ALTER TABLE trials ADD COLUMN reasoning VARCHAR;
    """,
    # 14: hook points and gates of cells, and the positions at which a term acted.
    """
    ALTER TABLE cells ADD COLUMN hook_point VARCHAR;
    ALTER TABLE cells ADD COLUMN gate VARCHAR;
    ALTER TABLE cells ADD COLUMN gate_sha256 VARCHAR;
    ALTER TABLE trials ADD COLUMN acted_prompt INTEGER;
    ALTER TABLE trials ADD COLUMN acted_generated INTEGER;
    """,
    # 15: damage beside effect.
    """
    ALTER TABLE searches ADD COLUMN kl DOUBLE;
    ALTER TABLE searches ADD COLUMN max_kl DOUBLE;
    CREATE TABLE damage (
        setting_id VARCHAR NOT NULL,
        definition VARCHAR NOT NULL,
        kl DOUBLE NOT NULL,
        kl_low DOUBLE,
        kl_high DOUBLE,
        coverage DOUBLE NOT NULL,
        nll_rise DOUBLE NOT NULL,
        nll_rise_low DOUBLE,
        nll_rise_high DOUBLE,
        n_passages INTEGER NOT NULL,
        baseline_accuracy DOUBLE,
        accuracy DOUBLE,
        accuracy_delta DOUBLE,
        accuracy_low DOUBLE,
        accuracy_high DOUBLE,
        n_questions INTEGER NOT NULL,
        measured_at TIMESTAMP NOT NULL,
        PRIMARY KEY (setting_id, definition)
    );
    """,
)
"""SQL of each step; the first leads from version 9 to 10."""

_COLUMNS_OF_9 = """
ALTER TABLE cells ADD COLUMN IF NOT EXISTS raw BOOLEAN;
ALTER TABLE cells ADD COLUMN IF NOT EXISTS chat_template_kwargs JSON;
ALTER TABLE readings ADD COLUMN IF NOT EXISTS chat_template_kwargs JSON;
"""
"""Columns that version 9 gained before steps existed."""


def apply(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    """Bring tables of this version up to date; the caller's transaction keeps them whole.

    Args:
        connection: Open for writing, in a transaction.
        version: Version of the tables, from `FIRST` on.
    """
    if version == FIRST:
        connection.execute(_COLUMNS_OF_9)
    for number, step in enumerate(STEPS[version - FIRST :], start=version + 1):
        connection.execute(step)
        connection.execute("UPDATE schema_version SET version = ?", [number])
