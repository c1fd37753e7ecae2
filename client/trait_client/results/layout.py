"""Tables, views and macros of a result database: the first writer creates them, every writer brings them up to date."""

import re
from functools import cache
from importlib import resources
from pathlib import Path

import duckdb

from trait_client.results import summaries, upgrades
from trait_client.results.reader import ResultReader, ResultsError
from trait_core.model_identity import digest

VERSION = upgrades.FIRST + len(upgrades.STEPS)
"""Version of the tables. Versions 1 to 8 were written before 0.2 and are not read; later ones are brought up to date."""

_KINDS = """
SELECT count(*) FILTER (table_name = 'schema_version') > 0, count(*) FILTER (table_name = 'migrations') > 0
FROM duckdb_tables()
"""
_RECORDED = "SELECT version, views FROM schema_version"


def prepare(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Create the tables if the database is new, else bring them up to date; replace the views; all in one transaction.

    Stored summaries are no longer read if the views that computed them have changed.

    Raises:
        ResultsError: A version before 0.2 or a later version wrote the tables; the file is left as it is.
    """
    connection.begin()
    try:
        _make(connection, path)
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


def _make(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    ((has_version, is_older),) = connection.execute(_KINDS).fetchall()
    if is_older and not has_version:
        raise _older(path)
    if not has_version:
        connection.execute(_sql("tables.sql"))
        connection.execute("INSERT INTO schema_version VALUES (?, ?)", [VERSION, _views_digest()])
    ((version, views),) = connection.execute(_RECORDED).fetchall()
    _check_version(version, path)
    upgrades.apply(connection, version)
    connection.execute(_sql("views.sql"))
    if views != _views_digest():
        summaries.read_live(connection)
        connection.execute("UPDATE schema_version SET views = ?", [_views_digest()])


def check(reader: ResultReader, path: Path) -> None:
    """Refuse a database whose tables or views differ from those of this version.

    Raises:
        ResultsError: It holds no results, or another version wrote it; the message says what to do.
    """
    ((has_version, is_older),) = reader.query(_KINDS).rows
    if not has_version:
        raise _older(path) if is_older else ResultsError(f"{path} is a DuckDB file without results: a sweep makes one")
    ((version, views),) = reader.query(_RECORDED).rows
    _check_version(version, path)
    if version != VERSION or views != _views_digest():
        what = (
            f"tables of {path} are of version {version}, not {VERSION}"
            if version != VERSION
            else f"views of {path} are old"
        )
        raise ResultsError(
            f"the {what}: the next sweep into it, or `trait-client rescore` of a run in it, brings them up to date; "
            "nothing is lost"
        )


def _check_version(version: int, path: Path) -> None:
    if not upgrades.FIRST <= version <= VERSION:
        raise ResultsError(
            f"{path} was written by another version (schema {version}; this one knows {upgrades.FIRST} to {VERSION}): "
            "read it with that version, or start a new file"
        )


def _older(path: Path) -> ResultsError:
    return ResultsError(
        f"{path} was written by a version before 0.2, whose tables this one does not read: keep it with the older version, "
        "or start a new file"
    )


@cache
def _sql(name: str) -> str:
    return (resources.files("trait_client.results") / name).read_text(encoding="utf-8")


@cache
def _views_digest() -> str:
    """Digest of views.sql without its comments and line breaks."""
    return digest(" ".join(re.sub(r"--[^\n]*", "", _sql("views.sql")).split()))
