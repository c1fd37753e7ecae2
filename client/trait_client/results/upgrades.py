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
