"""A full disk and a read-only one are one line each, also in the middle of a sweep, and nothing committed is lost."""

import pytest
from loopback import on_a_port
from small_disk import make_read_only, small_disk
from sweep_fixtures import MemoryService, write_experiment

FULL = "the disk is full: make room, or choose a place on another disk"
READ_ONLY = "the file system is read-only: choose a place that can be written"


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def refused(cli, folder, monkeypatch):
    """Runs a command that fails with exit code 1; gives its one line."""
    monkeypatch.chdir(folder)
    write_experiment(folder, n_prompts=6)
    (folder / "prompts.txt").write_text("\n".join(f"Question {i}?" for i in range(100)))
    with on_a_port(MemoryService().answer) as url:

        def run(*arguments, code=1):
            found, stdout, stderr = cli(*map(str, arguments), "--url", url)
            assert (found, stderr.count("\n")) == (code, 1), stderr
            assert (stdout == "") == (code == 1)
            return stderr.removeprefix("error: ").rstrip()

        yield run


def test_a_disk_that_fills_during_a_sweep(refused, disk, cli):
    assert (
        refused("sweep", "experiment.toml", "--db", disk / "r.duckdb")
        == f"{disk / 'r.duckdb'} cannot be written: {FULL}"
    )
    assert cli("sql", "select count(*) from runs", "--db", str(disk / "r.duckdb"))[0] == 0


def test_a_disk_that_fills_during_a_capture(refused, disk):
    (disk / "other").write_bytes(b"x" * 1_000_000)
    command = ["capture", "--prompts", "prompts.txt", "--out", disk / "c", "--max-tokens", "4", "--shard-size", "4"]
    line = refused(*command, code=3)  # shards that were written before are kept
    assert line.endswith(FULL)
    assert str(disk / "c") in line


def test_a_full_disk(refused, disk):
    with pytest.raises(OSError, match="No space"):
        (disk / "other").write_bytes(b"x" * 2_000_000)
    assert (
        refused("sweep", "experiment.toml", "--db", disk / "r.duckdb")
        == f"{disk / 'r.duckdb'} cannot be opened: {FULL}"
    )
    vector = disk / "v.safetensors"
    assert refused("vectors", "get", "shouting", vector) == f"{vector}: {FULL}"


def test_a_read_only_disk(refused, disk):
    make_read_only(disk)
    database, vector = disk / "r.duckdb", disk / "v.safetensors"
    assert refused("sweep", "experiment.toml", "--db", database) == f"{database} cannot be opened: {READ_ONLY}"
    assert refused("vectors", "get", "shouting", vector) == f"{vector}: {READ_ONLY}"
