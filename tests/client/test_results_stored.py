"""A large database keeps its summaries, and never shows stale ones."""

import asyncio

import duckdb
import pytest
from sweep_fixtures import MemoryService, experiment_of, write_datasets
from trait_client.results import ResultStore, summaries
from trait_client.results.rows import ScoreRow
from trait_client.sweeps import run_sweep

SUMMARY = "SELECT * EXCLUDE (versions) FROM cell_summary ORDER BY ALL"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(summaries, "STORED_FROM", 10)
    write_datasets(tmp_path / "datasets")
    store = ResultStore(tmp_path / "r.duckdb")
    sweep(store)
    return store


def sweep(store, **values):
    async def go():
        async with MemoryService().client() as client:
            await run_sweep(experiment_of(store.path.parent, **values), client, store)

    asyncio.run(go())


def reads(store):
    return store.query("SELECT split_part(sql, 'FROM ', 2) FROM duckdb_views() WHERE view_name = 'setting_deltas'")[1]


def test_a_sweep_that_ends_leaves_stored_summaries_that_equal_the_computed_ones(store):
    stored = store.query(SUMMARY)[1]
    assert reads(store) == [("stored_setting_deltas;",)]
    with store.writer() as writer:
        writer.write([])
        assert writer.query(SUMMARY) == stored
        assert writer.query("SELECT count(*) FROM stored_setting_deltas") != [(0,)]


def test_later_writes_are_visible_at_once(store):
    ((trial, before),) = store.query(
        "SELECT trial_id, value FROM scores JOIN trials USING (trial_id) JOIN cells USING (cell_id) "
        "WHERE name = 'lexical' AND kind = 'steered' ORDER BY trial_id LIMIT 1"
    )[1]
    ((definition,),) = store.query(f"SELECT definition FROM scores WHERE trial_id = '{trial}' AND name = 'lexical'")[1]
    old = store.query("SELECT sum(delta) FROM cell_summary WHERE measure = 'lexical'")[1]
    with store.writer() as writer:
        writer.write([ScoreRow(trial, "shouting", "lexical", before - 50, definition)])
        assert writer.query("SELECT sum(delta) FROM cell_summary WHERE measure = 'lexical'") != old
    assert store.query("SELECT sum(delta) FROM cell_summary WHERE measure = 'lexical'")[1] != old


def test_a_writer_that_dies_leaves_computed_summaries(store):
    writer = store.writer()
    writer.write([])
    writer.close()  # as a kill: without the end of its block
    assert reads(store) == [("live_setting_deltas;",)]


def test_summaries_stored_by_other_views_are_not_read(store):
    assert reads(store) == [("stored_setting_deltas;",)]
    with duckdb.connect(store.path) as database:
        database.execute("UPDATE schema_version SET views = 'another'; UPDATE stored_setting_deltas SET delta = 0")
    with store.writer() as writer:
        assert writer.query("SELECT count(*) FROM setting_deltas WHERE delta <> 0") != [(0,)]
    assert reads(store) == [("stored_setting_deltas;",)]
    assert store.query("SELECT count(*) FROM setting_deltas WHERE delta <> 0")[1] != [(0,)]


def test_a_small_database_stores_nothing(tmp_path):
    write_datasets(tmp_path / "datasets")
    small = ResultStore(tmp_path / "r.duckdb")
    sweep(small)
    assert reads(small) == [("live_setting_deltas;",)]
    assert small.query("SELECT count(*) FROM stored_setting_deltas")[1] == [(0,)]
