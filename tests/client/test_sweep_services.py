"""One experiment on several services in turn, and services that the client starts and stops."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from loopback import on_a_port
from sweep_fixtures import MemoryService, experiment_of
from trait_client.http.local_service import running_service, started_service
from trait_client.results import ResultStore
from trait_client.sweeps.experiment import Experiment, PrecisionService, size_of
from trait_core.errors import InvalidRequestError, ServiceError

TOML = """
name = "two"
traits = ["shouting"]
datasets = "datasets"
layers = [2]
coefficients = [1.0]
n_prompts = 3
control = {{ random_directions = 0 }}
[precision.float32]
url = "{plain}"
weights = "float32"
[precision.int8]
url = "{rounded}"
weights = "int8"
"""
INT8 = {"quantization": "compressed-tensors", "weights": {"int8": 0.6, "float32": 0.4}}


def sweep(cli, folder, plain, rounded):
    file, db = folder / "experiment.toml", folder / "r.duckdb"
    file.write_text(TOML.format(plain=plain, rounded=rounded))
    code, out, err = cli("sweep", str(file), "--db", str(db), "--json")
    return code, json.loads(out)["precisions"], err, ResultStore(db)


def test_services_are_swept_in_turn_and_the_views_compare_them(cli, folder):
    plain, rounded = MemoryService(weights={"float32": 1.0}), MemoryService(**INT8)
    with on_a_port(plain.answer) as first, on_a_port(rounded.answer) as second:
        code, done, _, store = sweep(cli, folder, first, second)
    assert code == 0
    assert [(name, each["trials_run"]) for name, each in done.items()] == [("float32", 6), ("int8", 6)]
    assert store.query("SELECT reference, precision, n, difference, same_vector FROM precision_delta")[1] == [
        ("float32", "int8", 3, 0.0, True)
    ]


def test_each_service_has_a_run_of_its_own_that_names_its_precision(cli, folder):
    with (
        on_a_port(MemoryService(weights={"float32": 1.0}).answer) as first,
        on_a_port(MemoryService(**INT8).answer) as second,
    ):
        store = sweep(cli, folder, first, second)[3]
    sql = "SELECT experiment, definition->>'$.precision', status FROM runs ORDER BY started_at"
    assert store.query(sql)[1] == [("two", "float32", "ok"), ("two", "int8", "ok")]


def test_weights_of_another_type_than_stated_are_not_swept_and_the_others_are(cli, folder):
    """An online quantisation that loads and changes nothing would pass for the real thing."""
    plain, unchanged = MemoryService(weights={"float32": 1.0}), MemoryService(weights={"bfloat16": 1.0})
    with on_a_port(plain.answer) as first, on_a_port(unchanged.answer) as second:
        code, done, err, _ = sweep(cli, folder, first, second)
    assert code == 3
    assert done["float32"]["status"] == "ok"
    assert "should have weights of int8" in done["int8"]["error"]
    assert "has loaded bfloat16 100%" in err
    assert unchanged.chats == []


def test_a_service_that_is_gone_does_not_keep_the_others(cli, folder):
    with on_a_port(MemoryService(**INT8).answer) as second:
        code, done, err, _ = sweep(cli, folder, "http://127.0.0.1:9", second)
    assert (code, done["int8"]["status"]) == (3, "ok")
    assert "precision float32: nothing was run" in err


def test_a_dry_run_counts_every_service_and_starts_none(cli, folder):
    values = {"precision": {"bf16": {"model": "org/70b"}, "fp8": {"url": "http://10.0.0.1:1"}}}
    assert size_of(experiment_of(folder, **values)).trials == 2 * size_of(experiment_of(folder)).trials
    file = folder / "experiment.toml"
    file.write_text(TOML.format(plain="http://127.0.0.1:9", rounded="http://127.0.0.1:9"))
    code, out, _ = cli("sweep", str(file), "--dry-run", "--json", "--rate", "32")
    found = json.loads(out)
    assert (code, found["trials"], found["generated_tokens"]) == (0, 12, 12 * 64)
    assert found["estimate"] == {"tokens_per_second": 32.0, "seconds": 24.0}
    assert found["grid"]["precision"] == ["float32 (http://127.0.0.1:9)", "int8 (http://127.0.0.1:9)"]


def test_a_dry_run_takes_its_rate_from_the_last_sweep(cli, folder):
    with on_a_port(MemoryService(delay=0.02).answer) as url:
        file, db = folder / "experiment.toml", folder / "r.duckdb"
        text = 'name = "x"\ntraits = ["shouting"]\ndatasets = "datasets"\nlayers = [1, 2]\ncoefficients = [1, 2]\n'
        file.write_text(text + "[control]\nrandom_directions = 1\n")
        assert cli("sweep", str(file), "--db", str(db), "--url", url)[0] == 0
    code, out, _ = cli("sweep", str(file), "--db", str(db), "--dry-run")
    assert code == 0
    assert f"tokens/s (the last sweep of m in {db})" in " ".join(out.split())


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ({}, "give url, for a running service, or model"),
        ({"url": "http://x", "model": "m"}, "give url, for a running service, or model"),
        ({"url": "http://x", "dtype": "float32"}, "dtype, serve and vectors go with model"),
        ({"url": "localhost:8000"}, "precision.int8.url"),
        ({"model": "m", "weight": "int8"}, "precision.int8.weight"),
    ],
)
def test_a_wrong_service_is_named_with_its_key(folder, service, words):
    with pytest.raises(InvalidRequestError, match=words):
        experiment_of(folder, precision={"int8": service})


def test_paths_of_a_started_service_are_relative_to_the_experiment(tmp_path):
    service = PrecisionService(model="./w8a8", vectors="registry", serve=["--max-num-seqs", "8"], dtype="float32")
    assert service.serve_arguments(tmp_path) == [
        f"{tmp_path}/w8a8", "--dtype", "float32", "--vectors", f"{tmp_path}/registry", "--max-num-seqs", "8",
    ]  # fmt: skip
    assert PrecisionService(model="org/model").serve_arguments(tmp_path) == ["org/model"]


def test_weights_that_the_service_does_not_report_are_not_accepted():
    info = MemoryService(weights={}).info
    with pytest.raises(InvalidRequestError, match="has loaded types that it does not report"):
        PrecisionService(model="m", weights="int8").check_weights("int8", info)


def test_a_service_that_does_not_start_says_why(tmp_path):
    async def go():
        async with started_service(["smollm2", "--worker-cls", "x"], tmp_path / "log"):
            pass

    with pytest.raises(ServiceError, match=r"ended with code 2.*--worker-cls is set by trait-service"):
        asyncio.run(go())
    with (
        pytest.raises(ServiceError, match=r"ended with code 2.*--worker-cls is set by trait-service"),
        running_service(["smollm2", "--worker-cls", "x"], tmp_path / "log"),
    ):
        pass


def test_what_the_client_started_stops_when_the_client_is_killed(tmp_path):
    """The pipe to the process between them closes, whatever the client died of."""
    pid_file = tmp_path / "pid"
    child = f"import os, pathlib, time; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    between = subprocess.Popen(
        [sys.executable, "-m", "trait_client.http.local_service", sys.executable, "-c", child], stdin=-1
    )
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    between.stdin.close()
    between.wait(30)
    assert not Path(f"/proc/{pid_file.read_text()}").exists()


def test_an_experiment_with_services_keeps_its_folder_on_each(folder):
    experiment = experiment_of(folder, precision={"a": {"url": "http://x"}})
    assert isinstance(experiment, Experiment)
    assert (experiment.on_service("a").precision, experiment.on_service("a").prompts_of("shouting")) == (
        "a",
        experiment.prompts_of("shouting"),
    )
