"""The database's schema as numbered SQL files; each is applied once, in order, and recorded."""

from importlib import resources

import duckdb

from trait_client.results.clock import utc_now


def migrate(connection: duckdb.DuckDBPyConnection) -> list[int]:
    """Bring a database to the newest schema.

    Returns:
        The numbers that were applied: none where it was up to date.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name VARCHAR NOT NULL, "
        "applied_at TIMESTAMP NOT NULL)"
    )
    done = {number for (number,) in connection.execute("SELECT number FROM migrations").fetchall()}
    applied = []
    for number, name, sql in _files():
        if number in done:
            continue
        connection.begin()
        try:
            connection.execute(sql)
            connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", [number, name, utc_now()])
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        applied.append(number)
    return applied


def newest() -> int:
    """The number of the newest schema."""
    return max(number for number, _, _ in _files())


def _files() -> list[tuple[int, str, str]]:
    folder = resources.files(__name__)
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), name, (folder / name).read_text(encoding="utf-8")) for name in names]
