"""Control directions are internal: after a sweep they are in no list and no message, and they go with their vector."""

import json

import pytest
from loopback import on_a_port
from sweep_fixtures import MemoryService, write_experiment
from trait_client.http import TraitClient
from trait_core.vectors.controls import is_control


@pytest.fixture
def swept(cli, folder, monkeypatch):
    """`(service, url)` after a sweep with three random directions."""
    monkeypatch.chdir(folder)
    write_experiment(folder, random_directions=3)
    service = MemoryService()
    with on_a_port(service.answer) as url:
        code, _, stderr = cli("sweep", "experiment.toml", "--db", "r.duckdb", "--url", url)
        assert (code, stderr) == (0, "")
        assert len(service.files) == 4
        yield service, url


def names(cli, url, *options):
    return [
        vector["name"] for vector in json.loads(cli("vectors", "list", "--json", *options, "--url", url)[1])["vectors"]
    ]


def test_they_are_listed_only_with_their_option(cli, swept):
    _, url = swept
    assert names(cli, url) == ["shouting"]
    assert sum(map(is_control, names(cli, url, "--controls"))) == 3
    assert "random" not in cli("vectors", "list", "--url", url)[1]
    assert json.loads(cli("status", "--json", "--url", url)[1])["vectors"] == ["shouting"]
    with TraitClient(url) as client:
        assert [vector.name for vector in client.vectors()] == ["shouting"]
        assert not any("random" in model for model in client.models())


def test_no_message_names_them(cli, swept):
    _, url = swept
    code, _, stderr = cli("steer", "-t", "kindness", "-c", "1", "hi", "--url", url)
    assert code == 1
    assert "the service has shouting" in " ".join(stderr.split())
    assert "random." not in stderr
    code, _, stderr = cli("vectors", "show", "kindness", "--url", url)
    assert (code, "shouting" in stderr, "random." in stderr) == (1, True, False)


def test_a_second_sweep_registers_none_again(cli, swept):
    service, url = swept
    before = service.revision
    assert cli("sweep", "experiment.toml", "--db", "other.duckdb", "--url", url)[0] == 0
    assert service.revision == before


def test_they_are_deleted_alone_or_with_their_vector(cli, swept):
    service, url = swept
    code, stdout, _ = cli("vectors", "delete", "shouting", "--only-controls", "--url", url)
    assert (code, stdout.startswith("deleted 3 control directions of shouting")) == (0, True)
    assert list(service.files) == ["shouting"]
    assert cli("sweep", "experiment.toml", "--db", "other.duckdb", "--url", url)[0] == 0
    assert len(service.files) == 4
    assert cli("vectors", "delete", "shouting", "--url", url)[0] == 0
    assert service.files == {}
