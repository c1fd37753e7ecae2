"""Whether the views read deltas by setting from the trials, or from tables that are made when the writer is done."""

import duckdb

STORED_FROM = 20_000
"""Trials from which summaries are stored: below, computing them takes less than a second."""

_NAMES = ("setting_deltas", "setting_quality")


def are_stored(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the views read the stored tables."""
    sql = "SELECT contains(sql, 'stored_') FROM duckdb_views() WHERE view_name = 'setting_deltas'"
    ((stored,),) = connection.execute(sql).fetchall()
    return bool(stored)


def read_live(connection: duckdb.DuckDBPyConnection) -> None:
    """Have the views read the trials: within the transaction that changes them, so that nothing stale is ever seen."""
    for name in _NAMES:
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM live_{name}")  # noqa: S608 - names of ours


def store(connection: duckdb.DuckDBPyConnection) -> bool:
    """Keep the summaries of a large database, and have the views read them; returns whether it is large."""
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
