"""The database: its layout, identity, and what survives a kill.

Run as a script (`python test_results.py DB`) this file writes for ever and reports each commit: the process that the
kill test kills.
"""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
from trait_client.results import ResultsError, ResultStore, layout
from trait_client.results.rows import ROW_TYPES, CellRow, PromptRow, RunCellRow, ScoreRow, TrialRow, utc_now
from trait_client.results.runs import find_run, recorded_run
from trait_core.errors import InvalidRequestError

BASELINE = {
    "cell_id": "base", "setting_id": "base", "baseline_id": "base", "kind": "baseline", "precision": "float32",
    "adapter": "none", "seed": 0, "max_tokens": 8, "temperature": 0.0, "top_p": 1.0, "model": "m",
    "config_digest": "c", "dtype": "float32", "versions": "{}",
}  # fmt: skip


def cell(**values):
    empty = dict.fromkeys(CellRow.__dataclass_fields__.keys() - {"table"})
    return CellRow(**(empty | BASELINE | values))


def trial(run_id, number, status="done", **values):
    defaults = {
        "trial_id": f"t{number}", "cell_id": "base", "prompt_id": f"p{number}", "run_id": run_id, "status": status,
        "text": "text" if status == "done" else None, "finish_reason": "stop", "n_prompt": 1, "n_generated": 1,
        "steering": None, "seconds": 0.1, "error": None if status == "done" else "boom",
        "finished_at": utc_now(),
    }  # fmt: skip
    return TrialRow(**(defaults | values))


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "deep" / "r.duckdb", patience=0.3)


def test_a_new_database_has_all_tables_and_the_version_of_their_schema(store):
    for _ in range(2):
        with store.writer():
            pass
    assert store.query("SELECT version FROM schema_version")[1] == [(layout.VERSION,)]
    _, tables, *_ = store.query(
        "SELECT table_name FROM duckdb_tables() WHERE table_name <> 'schema_version' ORDER BY ALL"
    )
    assert [name for (name,) in tables] == [
        "cells",
        "cosines",
        "damage",
        "judge_agreement",
        "judgements",
        "judges",
        "patches",
        "patchings",
        "projections",
        "prompts",
        "reading_projections",
        "readings",
        "run_cells",
        "run_judges",
        "runs",
        "scores",
        "searches",
        "stored_setting_deltas",
        "stored_setting_quality",
        "trials",
        "variant_clause_bounds",
        "variant_comparisons",
        "variant_effects",
        "variant_spans",
        "variant_texts",
        "vectors",
    ]


@pytest.mark.parametrize("row_type", ROW_TYPES, ids=lambda row_type: row_type.table)
def test_a_row_has_the_columns_of_its_table_in_their_order(store, row_type):
    """`runs` has no row type; every other table is written from the fields of one dataclass."""
    with store.writer():
        pass
    sql = f"SELECT column_name FROM information_schema.columns WHERE table_name = '{row_type.table}' ORDER BY ordinal_position"
    assert [name for (name,) in store.query(sql)[1]] == [field.name for field in dataclasses.fields(row_type)]


def test_every_table_is_written_from_a_row_type_or_by_the_writer_itself(store):
    with store.writer():
        pass
    tables = {name for (name,) in store.query("SELECT table_name FROM duckdb_tables()")[1]}
    own = {"runs", "schema_version", "stored_setting_deltas", "stored_setting_quality"}
    assert tables - own == {row_type.table for row_type in ROW_TYPES}


def test_a_writer_makes_the_views_anew(store):
    with store.writer():
        pass
    with duckdb.connect(store.path) as database:
        database.execute("CREATE OR REPLACE VIEW best_settings AS SELECT 1 AS old")
    with store.writer():
        pass
    assert "trait" in store.query("SELECT * FROM best_settings")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "DROP TABLE schema_version; CREATE TABLE migrations (number INTEGER)",
            "r.duckdb was written by a version before 0.2.*keep it with the older version, or start a new file",
        ),
        (
            f"UPDATE schema_version SET version = {layout.VERSION + 1}",
            f"r.duckdb was written by another version .schema {layout.VERSION + 1}; .*start a new file",
        ),
    ],
)
def test_a_database_of_another_version_is_refused_and_left_as_it_is(store, change, message):
    with store.writer():
        pass
    with duckdb.connect(store.path) as database:
        database.execute(change)
    before = store.path.read_bytes()
    with pytest.raises(ResultsError, match=message):
        store.writer()
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("view", ["cell_summary", "best_coherent", "method_comparison", "precision_delta"])
def test_views_of_an_empty_database_are_empty(store, view):
    with store.writer():
        pass
    columns, rows, *_ = store.query(f"SELECT * FROM {view}")
    assert {"delta", "n"} <= set(columns)
    assert rows == []


def test_nothing_is_stored_twice(store):
    with store.writer() as writer:
        run_id = writer.start_run("x", "{}", 1)
        for _ in range(3):
            writer.write(
                [trial(run_id, 1), PromptRow("p1", "hello"), cell(), ScoreRow("t1", "*", "coherence", 1.0, "1")]
            )
    for table in ("trials", "prompts", "cells", "scores"):
        assert store.query(f"SELECT count(*) FROM {table}")[1] == [(1,)]


def test_a_failed_trial_is_replaced_and_a_done_one_is_final(store):
    with store.writer() as writer:
        first = writer.start_run("x", "{}", 1)
        writer.write([PromptRow("p1", "hello"), cell(), trial(first, 1, "failed")])
        second = writer.start_run("x", "{}", 1)
        writer.write([trial(second, 1)])
        writer.write([trial(second, 1, "failed")])
        writer.write([trial(second, 1, text="another")])
    assert store.query("SELECT status, text, error, run_id FROM trials")[1] == [("done", "text", None, second)]
    assert store.query("SELECT status FROM runs ORDER BY started_at")[1] == [("interrupted",), ("running",)]


def test_a_transaction_is_stored_whole_or_not_at_all(store):
    with store.writer() as writer:
        run_id = writer.start_run("x", "{}", 1)
        with pytest.raises(Exception, match="foreign key"):
            writer.write([PromptRow("p1", "hello"), trial(run_id, 1)])  # its cell is not there
        assert writer.query("SELECT count(*) FROM prompts") == [(0,)]
        writer.write([PromptRow("p1", "hello")])
    assert store.query("SELECT count(*) FROM prompts")[1] == [(1,)]


def test_texts_are_stored_unchanged(store):
    text = "Zeile\nzwei\t\"'; DROP TABLE trials; -- \U0001f600 \u4e2d\0"
    with store.writer() as writer:
        writer.write([PromptRow("p1", text)])
    assert store.query("SELECT text FROM prompts")[1] == [(text,)]


def test_a_run_is_recorded_with_its_outcome_or_as_interrupted(store):
    ended = SimpleNamespace(status="partial", errors=(("boom", 3), ("late", 1)), line="")
    with store.writer() as writer:
        with recorded_run(writer, "ends", "{}", 2) as run:
            assert writer.query("SELECT status FROM runs") == [("running",)]
            run.outcome = ended
        with pytest.raises(KeyboardInterrupt), recorded_run(writer, "breaks", "{}", 2):
            raise KeyboardInterrupt
    sql = "SELECT experiment, status, message, finished_at IS NOT NULL FROM runs ORDER BY started_at"
    assert store.query(sql)[1] == [
        ("ends", "partial", "3 x boom; 1 x late", True),
        ("breaks", "interrupted", None, True),
    ]


@pytest.fixture
def runs(store):
    """Two sweeps of one experiment, then a prompt set; ids are `aa1`, `ab2` and `cc3`."""
    with store.writer() as writer:
        writer.write([cell()])
        for day, (run_id, name) in enumerate([("aa1", "layers"), ("ab2", "layers"), ("cc3", "chats.jsonl")], start=1):
            values = [run_id, name, f"2026-01-0{day}"]
            writer.query("INSERT INTO runs VALUES (?, ?, '{}', ?::TIMESTAMP, NULL, 'ok', 1, NULL)", values)
        writer.write([RunCellRow("aa1", "base"), RunCellRow("ab2", "base")])
    return store


@pytest.mark.parametrize(
    ("text", "sweeps_only", "found"),
    [
        ("aa1", False, "aa1"),
        ("ab", False, "ab2"),
        ("layers", False, "ab2"),  # the newest of the name
        ("latest", False, "cc3"),
        ("latest", True, "ab2"),
    ],
)
def test_a_run_is_found_by_id_prefix_name_or_latest(runs, text, sweeps_only, found):
    with runs.reader() as reader:
        assert find_run(reader.rows, text, sweeps_only=sweeps_only).run_id == found


@pytest.mark.parametrize(
    ("text", "sweeps_only", "message"),
    [
        ("a", False, r"'a' matches several runs: ab2 \(layers\), aa1 \(layers\)"),
        ("cc3", True, r"no sweep matches 'cc3': .*; there are ab2 \(layers\), aa1"),
        ("", False, "no run matches ''"),
    ],
)
def test_a_run_that_is_not_found_names_those_there_are(runs, text, sweeps_only, message):
    with runs.reader() as reader, pytest.raises(InvalidRequestError, match=message):
        find_run(reader.rows, text, sweeps_only=sweeps_only)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO prompts VALUES ('a', 'b')",
        "DROP TABLE trials",
        "COPY prompts TO '/tmp/prompts.csv'",
        "SELECT * FROM read_text('/etc/hostname')",
        "ATTACH '/tmp/other.duckdb'",
        "SET enable_external_access = true",
        "SELEC 1",
        "SELECT * FROM nowhere",
    ],
)
def test_a_query_reads_this_database_and_nothing_else(store, statement):
    with store.writer():
        pass
    with pytest.raises(InvalidRequestError, match="the query fails"):
        store.query(statement)


def test_a_query_without_a_database_says_so(store):
    with pytest.raises(ResultsError, match="run a sweep first"):
        store.query("SELECT 1")


def test_a_file_that_is_not_a_database_is_refused(store):
    store.path.parent.mkdir()
    store.path.write_text("nonsense" * 1000)
    with pytest.raises(ResultsError, match="cannot be read"):
        store.query("SELECT 1")
    with pytest.raises(ResultsError, match="cannot be opened"):
        store.writer()


def test_a_query_reads_the_snapshot_while_somebody_writes(store):
    with store.writer() as writer:
        with pytest.raises(ResultsError, match="no snapshot yet"):
            store.query("SELECT 1")
        writer.write([PromptRow("p1", "hello")])
        assert writer.publish_snapshot()
        assert not writer.publish_snapshot()  # nothing new
        writer.write([PromptRow("p2", "hello")])
        read = store.query("SELECT count(*) FROM prompts")
        assert (read.rows, read.source) == ([(1,)], "snapshot")
        assert store.query("SELECT count(*) FROM best_coherent")[1] == [(0,)]
    read = store.query("SELECT count(*) FROM prompts")
    assert (read.rows, read.source) == ([(2,)], "database")


def test_a_second_writer_is_refused_after_a_snapshot_was_copied(store):
    with store.writer() as writer:
        writer.write([PromptRow("p1", "hello")])
        writer.publish_snapshot()
        program = "import sys, duckdb; duckdb.connect(sys.argv[1])"
        command = [sys.executable, "-c", program, str(store.path)]
        other = subprocess.run(command, check=False, capture_output=True, text=True)
        assert other.returncode == 1
        assert "lock" in other.stderr


def test_thousands_of_rows_are_written_in_a_moment(store):
    with store.writer() as writer:
        started = time.perf_counter()
        writer.write(PromptRow(f"p{i}", f"text {i}") for i in range(20_000))
        assert time.perf_counter() - started < 5  # row by row it takes a minute
    assert store.query("SELECT count(*) FROM prompts")[1] == [(20_000,)]


def test_a_kill_while_writing_loses_no_committed_row_and_doubles_none(store):
    process = subprocess.Popen([sys.executable, __file__, str(store.path)], stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 2000:
        pass
    process.send_signal(signal.SIGKILL)
    reported = max((int(line) for line in process.stdout.read().split("\n")[:-1]), default=2000)
    process.wait()
    _, [(n, distinct, highest)], *_ = store.query(
        "SELECT count(*), count(DISTINCT trial_id), max(n_prompt) FROM trials"
    )
    assert n == distinct == highest + 1  # 0 .. highest, each once
    assert reported <= n <= reported + 100
    with store.writer() as writer:
        run_id = writer.start_run("x", "{}", 1)
        writer.write([PromptRow(f"p{i}", "x") for i in range(n + 1)])
        writer.write([trial(run_id, i, n_prompt=i) for i in range(n + 1)])
    assert store.query("SELECT count(*) FROM trials")[1] == [(n + 1,)]


def write_for_ever(path):
    with ResultStore(path).writer() as writer:
        run_id = writer.start_run("x", "{}", 1)
        writer.write([cell()])
        start = 0
        while True:
            numbers = range(start, start + 100)
            writer.write([PromptRow(f"p{i}", "x") for i in numbers] + [trial(run_id, i, n_prompt=i) for i in numbers])
            start += 100
            print(start, flush=True)
            if start % 500 == 0:
                writer.publish_snapshot()


if __name__ == "__main__":
    write_for_ever(Path(sys.argv[1]))
