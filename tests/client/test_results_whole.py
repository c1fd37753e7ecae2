"""Results as a whole: two runs compared, and the tables as Parquet."""

import json

import duckdb
import pytest
from cli_harness import runner
from loopback import on_a_port
from sweep_fixtures import MemoryService, write_datasets

TOML = """
name = "{name}"
traits = ["shouting"]
datasets = "datasets"
layers = [1, 2]
coefficients = [1.0]
n_prompts = {n_prompts}
precision = "{precision}"
control = {{ random_directions = 0 }}
"""


class Whispering(MemoryService):
    """Its steering does nothing to the text."""

    def reply(self, body, prompt, applied):
        return super().reply(body, prompt, ())


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_datasets(tmp_path / "datasets")
    return runner(monkeypatch, capsys)


def sweep(cli, folder, service, **values):
    (folder / "e.toml").write_text(TOML.format(**{"name": "x", "n_prompts": 4, "precision": "float32"} | values))
    with on_a_port(service.answer) as url:
        code, out, err = cli("sweep", "e.toml", "--db", "r.duckdb", "--url", url, "--json")
    assert code == 0, err
    return json.loads(out)["run_id"]


def test_two_runs_are_compared_setting_by_setting_paired_by_prompt(cli, tmp_path):
    first = sweep(cli, tmp_path, MemoryService())
    second = sweep(cli, tmp_path, MemoryService(), precision="int8", n_prompts=3)
    code, out, _ = cli("results", "compare", first[:8], "latest", "--db", "r.duckdb", "--json")
    found = json.loads(out)
    assert (code, found["run_a"], found["run_b"]) == (0, first, second)
    assert found["differing"] == {"precision": ["float32", "int8"]}
    assert [(row["layers"], row["measure"], row["n"], row["b_minus_a"]) for row in found["rows"]] == [
        ([layer], measure, 3, 0.0) for layer in (1, 2) for measure in ("lexical", "projection")
    ]
    assert {row["verdict"] for row in found["rows"]} == {"not distinguishable"}


def test_a_run_that_lost_the_effect_differs(cli, tmp_path):
    sweep(cli, tmp_path, MemoryService())
    sweep(cli, tmp_path, Whispering(), precision="int8")
    first = duckdb.connect("r.duckdb").execute("SELECT run_id FROM runs ORDER BY started_at LIMIT 1").fetchone()[0]
    code, out, _ = cli("results", "compare", first, "latest", "--db", "r.duckdb", "--json")
    (row, *_) = [row for row in json.loads(out)["rows"] if row["measure"] == "lexical"]
    assert (code, row["verdict"]) == (0, "differs")
    assert row["b"] == 0
    assert row["b_minus_a"] == pytest.approx(-row["a"])
    assert row["ci_high"] < 0


def test_a_run_that_does_not_exist_is_named(cli, tmp_path):
    run = sweep(cli, tmp_path, MemoryService())
    code, _, err = cli("results", "compare", run, "zzz", "--db", "r.duckdb")
    assert code == 2
    assert "no sweep matches 'zzz'" in err
    assert f"there are {run[:8]} (x)" in err


def test_every_table_is_exported_as_parquet(cli, tmp_path):
    sweep(cli, tmp_path, MemoryService())
    code, out, _ = cli("results", "export", "out", "--db", "r.duckdb", "--views", "--json")
    written = json.loads(out)["rows"]
    assert code == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.parquet")} == set(written)
    tables = duckdb.connect("r.duckdb").execute("SELECT table_name FROM duckdb_tables()").fetchall()
    assert {name for (name,) in tables} <= set(written)
    assert written["trials"] == 4 * 3
    sql = "SELECT count(*), count(DISTINCT trial_id) FROM 'out/trials.parquet' WHERE text IS NOT NULL"
    assert duckdb.sql(sql).fetchall() == [(12, 12)]
    assert duckdb.sql("SELECT delta > 50 FROM 'out/trait_summary.parquet'").fetchall() == [(True,), (True,)]


def test_a_query_may_not_write_files(cli, tmp_path):
    sweep(cli, tmp_path, MemoryService())
    code, _, err = cli("sql", "COPY trials TO 'x.csv'", "--db", "r.duckdb")
    assert code == 2
    assert not (tmp_path / "x.csv").exists(), err
