"""Fixtures of the sweep tests: a folder of datasets, and the command line."""

import pytest
from cli_harness import runner
from sweep_fixtures import write_datasets


@pytest.fixture
def folder(tmp_path):
    """A folder with the dataset of one trait, `shouting`."""
    write_datasets(tmp_path / "datasets")
    return tmp_path


@pytest.fixture
def cli(monkeypatch, capsys):
    """`run(*arguments) -> (exit code, stdout, stderr)` of `trait-client`."""
    return runner(monkeypatch, capsys)
