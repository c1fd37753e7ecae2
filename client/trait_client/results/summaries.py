"""Summaries by setting: the views compute them from the trials, or read tables that a writer stored at its end."""

import duckdb

STORED_FROM = 20_000
"""Number of trials from which summaries are stored; below it, computing them takes less than a second."""

_NAMES = ("setting_deltas", "setting_quality")


def are_stored(connection: duckdb.DuckDBPyConnection) -> bool:
    """Return whether the views read the stored tables."""
    sql = "SELECT contains(sql, 'stored_') FROM duckdb_views() WHERE view_name = 'setting_deltas'"
    ((stored,),) = connection.execute(sql).fetchall()
    return bool(stored)


def read_live(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the views read the trials; call it in the transaction that changes them, so that no reader sees stale values."""
    for name in _NAMES:
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM live_{name}")  # noqa: S608 - names of ours


def store(connection: duckdb.DuckDBPyConnection) -> bool:
    """Store the summaries of a large database, and make the views read them; return whether it is large."""
    ((n_trials,),) = connection.execute("SELECT count(*) FROM trials").fetchall()
    if n_trials < STORED_FROM:
        return False
    connection.begin()
    try:
        for name in _NAMES:
            connection.execute(f"CREATE OR REPLACE TABLE stored_{name} AS SELECT * FROM live_{name}")  # noqa: S608 - names of ours
            connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM stored_{name}")  # noqa: S608 - names of ours
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
    return True
