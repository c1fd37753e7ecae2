"""Each notebook of docs/notebooks runs from its first cell to its last, in an empty folder, against a real service."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from fenced_blocks import ROOT
from service_harness import BIN
from trait_client.http import TraitClient

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def shell(command: str) -> None:
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"


@pytest.fixture
def registered(service_url):
    """Gives back the vectors that a notebook registers anew: other tests have the same service."""
    with TraitClient(service_url) as client:
        before = {vector.name: client.vector_bytes(vector.name) for vector in client.vectors()}
        yield
        for vector in client.vectors():
            if vector.name not in before:
                client.delete_vector(vector.name)
        for name, file in before.items():
            client.put_vector(name, file)


@pytest.mark.engine
@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, service_url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAIT_SERVICE_URL", service_url)
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict = {}
    for number, text in enumerate(cells(path), start=1):
        if text.startswith("!"):
            shell(text.removeprefix("!"))
        else:
            exec(compile(text, f"{path.name}, code cell {number}", "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_output(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["first_steps", "sweep_to_figure"]
