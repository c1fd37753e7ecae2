"""Slurm, SkyPilot and Ray examples: only what can be known without a cluster. They say themselves that none ran them."""

import inspect
import re
import subprocess

import pytest
import yaml
from deploy_harness import DEPLOY, ROOT, library, one, render

SCRIPTS = sorted((DEPLOY / "slurm").glob("*.sbatch"))
YAMLS = sorted([*(DEPLOY / "skypilot").glob("*.yaml"), *(DEPLOY / "ray").glob("*.yaml")])
FILES = [*SCRIPTS, *YAMLS]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_each_says_that_it_is_untested_and_refers_to_files_that_exist(file):
    text = file.read_text()
    assert "UNTESTED" in text
    for path in re.findall(r"\bdeploy/[\w./-]+\w", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_a_script(file):
    done = subprocess.run(["bash", "-n", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", sorted((DEPLOY / "skypilot").glob("*.yaml")), ids=lambda path: path.name)
def test_bash_can_read_what_skypilot_runs(file):
    task = yaml.safe_load(file.read_text())
    for part in ("setup", "run"):
        done = subprocess.run(["bash", "-n"], input=task[part], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), part


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_option_of_ours_that_an_example_gives_exists(file):
    """Of `trait-service serve`: its own options, and vLLM's."""
    pytest.importorskip("vllm")
    from pathlib import Path

    import vllm
    from trait_service.cli import serve

    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(serve).parameters}
    options = Path(vllm.__file__).parent / "engine" / "arg_utils.py"
    known |= set(re.findall(r'"(--[a-z-]+)"', options.read_text()))
    text = re.sub(r"\\\n\s*|\n {16}(?=--)", " ", file.read_text())  # continued lines, in bash and in YAML
    commands = re.findall(r'trait-service"? serve (.*)', text)
    assert commands
    for command in commands:
        given = set(re.findall(r"(?<![\w-])--[a-z-]+", command))
        assert len(given) >= 3
        assert given <= known, given - known


def test_the_leader_of_several_nodes_is_found_by_the_charts_router_and_fits_kubernetes_schema():
    leader = yaml.safe_load((DEPLOY / "ray" / "leaderworkerset.yaml").read_text())["spec"]["leaderWorkerTemplate"]
    replica = one(render(), "Deployment", "demo")["spec"]
    labels = leader["leaderTemplate"]["metadata"]["labels"]
    assert replica["selector"]["matchLabels"].items() <= labels.items()
    for template in ("leaderTemplate", "workerTemplate"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": leader[template]["spec"]}
        library("kubernetes_validate").validate(pod, "1.37", strict=True)
