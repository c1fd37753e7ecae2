"""A release of vLLM that has no build for the CPU steers here all the same: its Python on the installed release's CPU kernels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from package_metadata import distribution
from vllm_sources import installed

pytestmark = pytest.mark.engine

SOURCES = Path(__file__).resolve().parents[2] / ".cache" / "vllm-sources"


@pytest.fixture(params=["0.33.0"])
def release(request, tmp_path) -> tuple[str, Path]:
    """The release, and a folder that holds it: its own Python, and whatever else the installed one has."""
    sources = SOURCES / request.param
    if not sources.is_dir():
        pytest.skip(f"{sources} does not exist: `make vllm-sources` fetches it, and says why it cannot")
    for root, wanted in ((sources, True), (installed("vllm"), False)):
        for path in (root / "vllm").rglob("*"):
            if path.is_file() and path.suffix != ".pyc" and (path.suffix == ".py") is wanted:
                link = tmp_path / path.relative_to(root)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
    return request.param, distribution(tmp_path, "vllm", f"{request.param}+cpu")


def test_an_engine_of_the_release_is_verified(release, smollm2_path):
    version, folder = release
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    command = ["-m", "trait_service.cli", "verify", str(smollm2_path), "--quick", "--enforce-eager", "--json"]
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["subject"]["versions"]["vllm"] == version
    statuses = {name: check["status"] for name, check in report["checks"].items()}
    assert statuses.pop("cost") == "measured"
    assert statuses == dict.fromkeys(statuses, "ok")
    assert len(statuses) == 11
