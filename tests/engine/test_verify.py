"""`trait-service verify`: it passes on a sound engine, and fails on engines that are really broken."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trait_service import cli
from typer.testing import CliRunner

DRIVER = Path(__file__).parents[1] / "support" / "verify_driver.py"
TIMEOUT_S = 900


@pytest.mark.engine
def test_a_sound_engine_is_verified(smollm2_path):
    command = [Path(sys.executable).parent / "trait-service", "verify", str(smollm2_path)]
    command += ["--enforce-eager", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    report = json.loads(done.stdout)
    assert report["passed"]
    assert report["subject"]["dtype"] == "float32"
    statuses = {name: check["status"] for name, check in report["checks"].items()}
    assert statuses.pop("cost") == "measured"
    assert statuses == dict.fromkeys(statuses, "ok")
    assert len(statuses) == 7


@pytest.fixture(scope="module")
def verified(smollm2_path):
    env = {**os.environ, "VLLM_PLUGINS": "trait_steering", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(smollm2_path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.engine
@pytest.mark.parametrize(
    ("engine", "failed"),
    [
        ("unsteered", ["steering takes effect", "operations and scopes"]),
        ("one layer off", ["operations and scopes"]),
        ("leaking", ["neighbours untouched"]),
    ],
)
def test_a_broken_engine_fails_where_it_is_broken(verified, engine, failed):
    found = verified[engine]
    assert found["exit_code"] == 1
    assert [name for name, status in found.items() if status == "failed"] == failed


@pytest.mark.engine
def test_what_cannot_be_compared_is_reported_as_skipped(verified):
    assert verified["sound, nothing to compare with"] == {
        "exit_code": 0,
        "steering takes effect": "ok",
        "operations and scopes": "skipped",
        "neighbours untouched": "ok",
        "capture": "skipped",
    }


@pytest.mark.parametrize("words", [["/no/such/folder"], ["smollm2", "--dtype", "int3"]])
def test_usage_errors_exit_with_2(words):
    assert CliRunner().invoke(cli.app, ["verify", *words]).exit_code == 2
