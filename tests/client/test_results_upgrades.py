"""A database of an earlier version is brought up to date by the next writer; nothing in it is lost."""

from pathlib import Path

import duckdb
import pytest
from trait_client.results import ResultsError, ResultStore, layout, upgrades
from trait_client.results.rows import ReadingLabels, ReadingProjectionRow, ReadingRow, VectorRow, utc_now

TABLES_OF_9 = (Path(__file__).parent.parent / "data" / "results_version_9.sql").read_text(encoding="utf-8")
"""tables.sql as release 0.2 had it."""

ROWS_OF_9 = """
INSERT INTO schema_version VALUES (9, 'older views');
INSERT INTO runs VALUES ('run', 'greetings', '{}', '2026-01-02', '2026-01-03', 'ok', 1, NULL);
INSERT INTO prompts VALUES ('p1', 'Hello');
INSERT INTO vectors VALUES ('f00', 'warm', 'warmth', 'probe', 'm', 'c', 3, '{"layers": {"3": {"separation": 2.0}}}');
INSERT INTO readings BY NAME SELECT 'r1' AS reading_id, 'run' AS run_id, 'p1' AS prompt_id, 'Hi all' AS text, false AS given,
    2 AS n_prompt, 1 AS n_response, [5, 6, 7] AS token_ids, ['Hi', ' all', '!'] AS tokens, 'm' AS model, 'c' AS config_digest,
    TIMESTAMP '2026-01-02' AS finished_at;
INSERT INTO reading_projections VALUES ('r1', 'f00', 3, 0.5, [1.0, 2.0]);
"""

TABLES = "SELECT table_name, sql FROM duckdb_tables() ORDER BY ALL"


@pytest.fixture
def store(tmp_path):
    store = ResultStore(tmp_path / "old.duckdb", patience=0.3)
    with duckdb.connect(store.path) as database:
        database.execute(TABLES_OF_9)
        database.execute(ROWS_OF_9)
    return store


def test_the_next_writer_gives_an_old_database_the_tables_of_a_new_one(store, tmp_path):
    new = ResultStore(tmp_path / "new.duckdb")
    for opened in (store, new):
        with opened.writer():
            pass
    assert store.query(TABLES).rows == new.query(TABLES).rows
    assert store.query("SELECT version FROM schema_version").rows == [(layout.VERSION,)]


def test_nothing_of_an_old_database_is_lost(store):
    tables = ("runs", "prompts", "vectors", "readings", "reading_projections")
    with duckdb.connect(store.path, read_only=True) as database:
        before = {name: database.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
    with store.writer():
        pass
    for name, rows in before.items():
        kept = [row[: len(rows[0])] for row in store.query(f"SELECT * FROM {name}").rows]
        assert kept == rows
        added = [value for row in store.query(f"SELECT * FROM {name}").rows for value in row[len(rows[0]) :]]
        assert set(added) <= {None}
    assert store.query("SELECT token, value FROM token_projections ORDER BY position").rows == [
        ("Hi", 1.0), (" all", 2.0), ("!", 2.0),
    ]  # fmt: skip


def test_an_old_database_takes_new_rows_once_it_is_up_to_date(store):
    """Its keys and references work as in a new database: a reading is updated, a projection of it is added."""
    with store.writer() as writer:
        reading = ReadingRow(
            "r2", "run", "set/2", None, None, "Hi", None, False, None, None, 1, 0, [5], ["Hi"], "m", "c", utc_now(),
            prompt_set="set", metadata='{"note": "short"}',
        )  # fmt: skip
        vector = VectorRow("f01", "cold", "warmth", "pca", "m", "c", 3, "{}")
        writer.write([vector, reading, ReadingProjectionRow("r1", "f01", 3, 0.0, [1.0, 1.0])])
        writer.label_readings({"r1": ReadingLabels("met", None, None)})
    with store.writer():  # an up-to-date database is left as it is
        pass
    assert store.query("SELECT reading_id, outcome, metadata->>'note' FROM readings ORDER BY 1").rows == [
        ("r1", "met", None), ("r2", None, "short"),
    ]  # fmt: skip
    assert store.query("SELECT count(*) FROM reading_projections WHERE reading_id = 'r1'").rows == [(2,)]


def test_reading_an_old_database_says_how_to_bring_it_up_to_date(store):
    before = store.path.read_bytes()
    with (
        store.reader() as reader,
        pytest.raises(
            ResultsError,
            match=f"old.duckdb are of version 9, not {layout.VERSION}: the next sweep into it, or .*nothing is lost",
        ),
    ):
        layout.check(reader, store.path)
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("version", [upgrades.FIRST - 1, layout.VERSION + 1])
def test_a_version_that_has_no_way_to_this_one_is_refused(store, version):
    with duckdb.connect(store.path) as database:
        database.execute("UPDATE schema_version SET version = ?", [version])
    with pytest.raises(ResultsError, match=f"schema {version}; this one knows 9 to {layout.VERSION}.*start a new file"):
        store.writer()
    with store.reader() as reader, pytest.raises(ResultsError, match="another version"):
        layout.check(reader, store.path)


def test_a_step_that_fails_leaves_the_file_as_it_was(store, monkeypatch):
    monkeypatch.setattr(upgrades, "STEPS", (*upgrades.STEPS, "ALTER TABLE no_such_table ADD COLUMN a INTEGER"))
    with pytest.raises(duckdb.CatalogException):
        store.writer()
    with duckdb.connect(store.path, read_only=True) as database:
        assert database.execute("SELECT version FROM schema_version").fetchall() == [(9,)]
        assert "metadata" not in {name for name, *_ in database.execute("DESCRIBE readings").fetchall()}
